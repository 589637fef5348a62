"""Follow every channel through one run of a program: which must be scaled together?

A factor 1/s on an output channel of a conv, linear or norm is undone by s on the weights that read
it, as long as everything between is positively homogeneous: f(s x) = s f(x) for s > 0 (Nagel et
al. 2019, arXiv 1906.04721, section 4.1, eq. 7). Labels of channels travel with the values: moves
(reshape, permute, zero padding, cat) move them, an addition joins them, a gate or a softmax on the
other side of a product leaves them. Where a value goes anywhere else its labels are fixed.

A clamp (ReLU6) is not homogeneous. It is where it provably does nothing: where the bounds of what
the producer reads keep its output inside the limits. Such a channel may be scaled as long as it
stays inside (``Labels.floor``); the others are fixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qviz import optypes
from qviz.data import Batch
from qviz.execute import Program, Step
from qviz.graph import Graph, Operand
from qviz.rewrite import aten, get_attr
from qviz.tune import channel_rules as rules
from qviz.tune.channel_labels import Constant, Labels, Producer, Reader, once
from qviz.tune.scaled_weight import channel_axis, layout_of
from qviz.weights import bias_of, can_have_bias, shared, weight_of

#: Norms that end with a stored factor and offset per channel: positions of both, channel axis.
_NORMS: dict[Any, tuple[int, int | None, int]] = {
    aten.layer_norm.default: (2, 3, -1),
    aten.rms_norm.default: (2, None, -1),
    aten.batch_norm.default: (1, 2, 1),
    aten.group_norm.default: (2, 3, 1),
    aten.instance_norm.default: (1, 2, 1),
}


def follow(program: Program, batch: Batch) -> Labels:
    """Label every channel and see where it goes.

    Args:
        program: of plain ops (``Simulator.differentiable``).
        batch: a few samples; only the shapes of their values matter.
    """
    walk = Walk(program, program.inputs(batch))
    program.run(walk.values, watch=walk.see)
    for name in program.graph.outputs:
        walk.fix(program.slot_of_tensor[name], "is an output of the model")
    return walk.found


class Walk:
    """One run; ``see`` is called after each step, while what it read is still there."""

    def __init__(self, program: Program, values: list[Any]) -> None:
        self.program, self.graph, self.values = program, program.graph, values
        self.found = Labels()
        #: slot -> labels, of the value's shape; a tuple of them for a value in parts.
        self.labels: dict[int, Any] = {}
        #: slot -> limits of all values it can hold.
        self.limits: dict[int, tuple[float, float]] = {}
        #: slot -> the conv or linear that made it, and the limits of what that read.
        self.made: dict[int, tuple[Producer, tuple[float, float] | None]] = {}
        self.observed = set(self.graph.observed)
        nodes: dict[str, fx.Node] = {n.name: n for n in self.graph.module.graph.nodes}
        self.node = {slot: nodes[name] for name, slot in program.slot_of.items()}
        self.op = {program.slot_of[op.node]: op.name for op in self.graph.ops.values()}

    def see(self, slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        """Label what a step made."""
        index = self.program.step_of_slot.get(slot)
        if index is None or isinstance(value, int | float):
            return  # an input of the model; a size
        step = self.program.steps[index]
        weight = weight_of(self.graph, self.op[slot]) if slot in self.op else None
        if weight is not None:
            self._product(step, weight, value)
        elif step.target in _NORMS:
            self._norm(step, value)
        elif any(read in self.labels for read in step.reads):
            self._moved(step, value)
        elif step.target is aten.mul.Tensor:
            self._affine(step, value)
        rules.limit(self, step)
        name = self.program.tensor_of_slot.get(slot)
        if name in self.observed and slot in self.labels:
            self.found.tensors[name] = torch.unique(once(self.labels[slot]))
        for gone in step.frees:
            self.labels.pop(gone, None)

    def fix(self, slot: int, reason: str) -> None:
        """Keep the scale of a value."""
        known = self.labels.get(slot, ())
        for labels in (known,) if isinstance(known, Tensor) else known:
            self.found.fix(labels, reason)

    def _moved(self, step: Step, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        """Labels of an op that makes no channels of its own."""
        rule = rules.RULES.get(step.target)
        made = None if rule is None else rule(self, step, value)
        if made is not None:
            self.labels[step.slot] = made
            return
        self._stopped(step)

    def _stopped(self, step: Step) -> None:
        kind = optypes.label(self.node[step.slot])
        for read in step.reads:
            self.fix(read, f"goes through {kind}, which no factor passes")

    def _product(self, step: Step, weight: Operand, value: Tensor) -> None:
        """A conv or linear: takes factors back, and makes channels."""
        node, graph = self.node[step.slot], self.graph
        layout = layout_of(node, weight.axis or 0)
        stored = get_attr(graph.module, weight.tensor)
        axis = channel_axis(node, stored)
        operand = next(o for o in graph.ops[weight.op].operands if o.kind == "activation")
        source = step.args[operand.position].index
        reason = _untouchable(graph, weight)
        if source in self.labels:
            labels = rules.per_channel(self.labels[source], axis)
            if reason is None and labels is not None:
                reader = Reader(weight.op, weight.tensor, layout, labels)
                self.found.readers.append(reader)
            else:
                mixed = f"is read by {weight.op} with channels mixed"
                self.fix(source, mixed if reason is None else f"is read by {weight.op}: {reason}")
        bias = bias_of(graph, weight.op)
        fits = bias is None or get_attr(graph.module, bias).dim() == 1
        if reason is None and can_have_bias(graph, weight.op) and fits:
            new = self.found.new(value.shape[axis])
            producer = Producer(weight.op, weight.tensor, bias, layout, new)
            self.found.producers.append(producer)
            self.labels[step.slot] = rules.spread(new, value, axis)
            self.made[step.slot] = (producer, self.limits.get(source))

    def _norm(self, step: Step, value: Tensor) -> None:
        at, bias_at, axis = _NORMS[step.target]
        self._stopped(step)
        node = self.node[step.slot]
        bias = node.args[bias_at] if bias_at is not None and len(node.args) > bias_at else None
        self._made_by_norm(step, value, axis, node.args[at] if len(node.args) > at else None, bias)

    def _affine(self, step: Step, value: Tensor) -> None:
        """``x * weight`` with a stored weight per channel: how a norm written out ends."""
        for argument in self.node[step.slot].args:
            self._made_by_norm(step, value, -1, argument, None)

    def _made_by_norm(
        self,
        step: Step,
        value: Tensor,
        axis: int,
        weight: Any,  # noqa: ANN401 - an argument of a node
        bias: Any,  # noqa: ANN401 - an argument of a node
    ) -> None:
        channels = value.shape[axis] if value.dim() else 0
        given = [a for a in (weight, bias) if a is not None]
        if weight is None or not all(self._own_vector(a, channels) for a in given):
            return
        new = self.found.new(channels)
        name = None if bias is None else str(bias.target)
        self.found.producers.append(
            Producer(self.op[step.slot], str(weight.target), name, None, new)
        )
        self.labels[step.slot] = rules.spread(new, value, axis)

    def _own_vector(self, argument: object, channels: int) -> bool:
        """Whether it is a stored vector of that size that nothing else reads."""
        if not isinstance(argument, fx.Node) or argument.op != "get_attr":
            return False
        name = str(argument.target)
        same = tuple(get_attr(self.graph.module, name).shape) == (channels,)
        return same and not shared(self.graph, name)

    def added_constant(self, step: Step, position: int, labels: Tensor) -> bool:
        """Note a stored tensor that is added to labelled values; False if it cannot be scaled."""
        argument = self.node[step.slot].args[position]
        if not isinstance(argument, fx.Node) or argument.op != "get_attr":
            return False
        name = str(argument.target)
        value = get_attr(self.graph.module, name)
        own = rules.narrowed(labels, value.shape)
        if own is None or shared(self.graph, name) or not value.is_floating_point():
            return False
        self.found.constants.append(Constant(name, own))
        return True


def _untouchable(graph: Graph, weight: Operand) -> str | None:
    """Why a weight must stay as it is, None if it need not."""
    if shared(graph, weight.tensor):
        return "other ops read the same weight"
    if weight.name in graph.limits:
        return "its weight was rounded or given a range before"
    return None
