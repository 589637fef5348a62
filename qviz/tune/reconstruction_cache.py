"""What one unit is fitted on: what it reads, what the float model makes, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qviz.execute import Program, Step, fill
from qviz.graph import Graph, Op, TensorInfo
from qviz.rewrite import get_attr
from qviz.simulate import Simulator
from qviz.tune.importance import Importance, samples_first
from qviz.tune.reconstruction_cut import Cut, cut_of
from qviz.tune.reconstruction_units import Unit
from qviz.tune.reconstruction_walk import Walk, edited
from qviz.weights import weight_of

#: Bytes of one unit's values that are kept to fit it on.
CACHE = 256 << 20
#: Samples kept at least, if there are as many.
FEWEST = 16


@dataclass(frozen=True, eq=False)
class Cache:
    """What one unit is fitted on.

    Attributes:
        inputs: by argument position, ``[E, ...]``; not rounded.
        target: the float model's output, ``[E, ...]``.
        weights: what a squared error counts, likewise; None if all of them count alike.
        fit: numbers of the entries to fit on.
        held_out: numbers of the others, of other samples.
        macs: multiply-accumulates of the op per entry.
        call: the unit for some entries: (inputs by position, weight, bias) -> output; None for
            the weight or bias takes the op's own.
    """

    inputs: Mapping[int, Tensor]
    target: Tensor
    weights: Tensor | None
    fit: Tensor
    held_out: Tensor
    macs: float
    call: Callable[[Mapping[int, Tensor], Tensor | None, Tensor | None], Tensor]

    @property
    def power(self) -> float:
        """Mean square of the target, weighed."""
        squares = self.target.square()
        if self.weights is None:
            return float(squares.mean())
        total = float(self.weights.mean())
        return float((squares * self.weights).mean()) / total if total > 0 else 0.0


def record(
    unit: Unit,
    simulator: Simulator,
    reference: Walk,
    own: Walk,
    *,
    held_out: int,
    seed: int,
    importance: Sequence[Importance] | None = None,
) -> Cache:
    """What a unit reads in ``own`` and should make as in ``reference``; both advance to it.

    Args:
        unit: the unit.
        simulator: of the graph that ``own`` walks through.
        reference: the untouched float model.
        own: the subject: its float values, or its quantized prefix.
        held_out: how many of the first batches are held out.
        seed: of the parts of each sample that are kept.
        importance: of each batch, what counts of the output; None is all alike.
    """
    program, graph, first = own.program, simulator.graph, unit.steps[0]
    reference.reach(first)
    own.reach(first)
    places = _places(program, unit, own.values[0])
    reads = [graph.tensors[program.tensor_of_slot[slot]] for _, slot in places]
    made = graph.tensors[unit.op]
    weight = weight_of(graph, unit.op)
    stored = None if weight is None else get_attr(graph.module, weight.tensor)
    args, _ = fill(program.steps[first], own.values[0])
    cut = cut_of(graph.ops[unit.op].type, args, stored, reads, made)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
    inputs: list[list[Tensor]] = []
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    share = 1.0
    for number, values in enumerate(own.values):
        target = samples_first(_target(unit, graph, reference, number), made)
        whole = [samples_first(values[s], i) for (_, s), i in zip(places, reads, strict=True)]
        if number == 0:
            kept = [target] if importance is None else [target, target]  # and its weights
            share = _share(cut, whole, kept, own.samples)
        rows = slice(math.ceil(share * len(target)))
        target = target[rows]
        counts = None if importance is None else importance[number].of(rows)
        ends = [target]
        if counts is not None:
            scaled = graph.rescaled.get(unit.op, torch.ones(()))
            # what was scaled has an error as many times larger for the same change of the output
            ends.append(counts.weights(target) / scaled.to(target).square())
        parts, (output, *more) = cut.take([x[rows] for x in whole], ends, generator, counts)
        inputs.append(parts)
        outputs.append(output)
        weights += more
    entries = torch.arange(sum(map(len, outputs)))
    others = sum(map(len, outputs[:held_out]))
    return Cache(
        {
            position: program.layout(torch.cat([parts[i] for parts in inputs]))
            for i, (position, _) in enumerate(places)
        },
        program.layout(torch.cat(outputs)),
        program.layout(torch.cat(weights)) if weights else None,
        entries[others:],
        entries[:others],
        _macs(graph.ops[unit.op], made, stored, outputs[0][0]),
        _caller(unit, simulator.differentiable, own, cut, [p for p, _ in places]),
    )


def _macs(op: Op, made: TensorInfo, weight: Tensor | None, entry: Tensor) -> float:
    """Multiply-accumulates of the op for one entry of its output."""
    if made.batch_dim is None and weight is not None:
        return weight.numel()  # a row of a product
    return op.macs * entry.numel() / max(1, math.prod(made.shape))


def _places(program: Program, unit: Unit, values: Sequence[Any]) -> list[tuple[int, int]]:
    """(argument position, slot) of everything that a unit reads beside what is stored."""
    step = program.steps[unit.steps[0]]
    args, _ = fill(step, list(values))
    return [
        (position, slot)
        for position, given in enumerate(args)
        for slot in step.reads
        if slot in program.tensor_of_slot and given is values[slot]
    ]


def _share(cut: Cut, inputs: Sequence[Tensor], outputs: Sequence[Tensor], samples: int) -> float:
    """Part of the samples whose values fit in memory."""
    first, ends = [x[:1] for x in inputs], [y[:1] for y in outputs]
    parts, ends = cut.take(first, ends, torch.Generator(), None)
    size = sum(v.numel() * v.element_size() for v in (*parts, *ends))
    return min(1.0, max(FEWEST, CACHE // max(1, size)) / samples)


def _target(unit: Unit, graph: Graph, reference: Walk, number: int) -> Tensor:
    """The unit's output in the float model, for one batch, in the units of the graph."""
    values = list(reference.values[number])
    made: Any = None
    with torch.no_grad():
        for index in unit.steps:
            step = reference.program.steps[index]
            args, kwargs = fill(step, values)
            made = step.target(*args, **kwargs)
            factor = graph.rescaled.get(unit.op)
            if index == unit.steps[0] and factor is not None:
                axis = 1 if graph.ops[unit.op].type.startswith("conv") else -1
                shape = [1] * made.dim()
                shape[axis] = -1
                made = made * factor.to(made).reshape(shape)
            values[step.slot] = made
    assert isinstance(made, Tensor)
    return made


def _caller(
    unit: Unit, plain: Program, own: Walk, cut: Cut, positions: Sequence[int]
) -> Callable[[Mapping[int, Tensor], Tensor | None, Tensor | None], Tensor]:
    step = plain.steps[unit.steps[0]]
    args, kwargs = fill(step, own.values[0])
    # what is stored gets no gradient of its own
    args = [a.detach() if isinstance(a, Tensor) else a for a in args]
    weight = weight_of(plain.graph, unit.op)
    after = [_activation(plain.steps[i], own.values[0]) for i in unit.steps[1:]]

    def call(inputs: Mapping[int, Tensor], value: Tensor | None, bias: Tensor | None) -> Tensor:
        edits: list[tuple[int, Any]] = [
            (p, cut.native(i, inputs[p])) for i, p in enumerate(positions)
        ]
        if weight is not None and value is not None:
            edits.append((weight.position, value))
        if bias is not None:
            edits.append((unit.bias_position, bias))
        made: Tensor = step.target(*cut.arguments(edited(args, edits)), **kwargs)
        for activation in after:
            made = activation(made)
        return cut.common(made)

    return call


def _activation(step: Step, values: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    """A step of one input as a function of it."""
    known = list(values)
    (source,) = step.reads
    mark = torch.empty(0)
    known[source] = mark
    args, kwargs = fill(step, known)

    def activation(x: Tensor) -> Tensor:
        made: Tensor = step.target(*[x if a is mark else a for a in args], **kwargs)
        return made

    return activation
