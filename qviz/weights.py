"""Tuned weights: parameters that differ from the model's own, and a graph that has them.

What wins accuracy back changes parameters, never the model: it makes ``TunedWeights``, and
``tuned_graph`` gives a graph of the same names that reads them. Everything unchanged is shared.

A *limit* is the clip range of a weight at one bit width. Without one a weight's range is its
largest magnitude (``affine.weight_params``); reconstruction and range searches find better ones
below 8 bits. Weights that were rounded on purpose are stored as values on their grid together with
the limit that makes the grid, so that quantizing them gives the same codes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qviz.errors import RecipeError, ShapeError
from qviz.graph import Graph, Operand
from qviz.rewrite import CONVS, TRANSPOSED_CONVS, aten, get_attr, set_attr

#: Where an op's bias stands among its arguments.
_BIAS_POSITION = {
    **dict.fromkeys((*CONVS, *TRANSPOSED_CONVS, aten.linear.default), 2),
    aten.addmm.default: 0,
}


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """Parameters that replace those of a graph.

    Attributes:
        values: parameter (dotted name in ``graph.module``) -> float32, shape of the original.
        biases: op that has no bias -> name in ``values`` of the one it gets.
        limits: weight operand -> bits -> amax, ``[C]`` per channel or 0-d per tensor.
        rescaled: op whose output is another one on purpose (cross-layer equalization), undone by
            its readers -> what every output channel was multiplied with, ``[C]``. Who compares
            the op with that of the untouched model has to multiply that one with it.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    rescaled: Mapping[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values or self.limits)

    @cached_property
    def key(self) -> str:
        """Short name of the content; "" if nothing is changed."""
        if not self:
            return ""
        digest = hashlib.blake2b(digest_size=8)
        for name, array in sorted(self.to_arrays().items()):
            digest.update(name.encode())
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def then(self, later: TunedWeights | None) -> TunedWeights:
        """Both, ``later`` over this, its limits too: who moves values gives their limits anew."""
        if later is None:
            return self
        limits = {name: dict(found) for name, found in self.limits.items()}
        for name, found in later.limits.items():
            limits[name] = {**limits.get(name, {}), **found}
        return TunedWeights(
            {**self.values, **later.values},
            {**self.biases, **later.biases},
            limits,
            _product(self.rescaled, later.rescaled),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a file."""
        found = {f"value/{n}": v.detach().cpu().numpy() for n, v in self.values.items()}
        for operand, limits in self.limits.items():
            for bits, amax in limits.items():
                found[f"limit/{bits}/{operand}"] = amax.detach().cpu().numpy()
        for op, name in self.biases.items():
            found[f"bias/{op}"] = np.array(name)
        found |= {f"rescaled/{op}": v.detach().cpu().numpy() for op, v in self.rescaled.items()}
        return found

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> TunedWeights:
        """What ``to_arrays`` gave."""
        values: dict[str, Tensor] = {}
        biases: dict[str, str] = {}
        limits: dict[str, dict[int, Tensor]] = {}
        rescaled: dict[str, Tensor] = {}
        for key, array in arrays.items():
            kind, _, name = key.partition("/")
            if kind == "value":
                values[name] = torch.from_numpy(array)
            elif kind == "bias":
                biases[name] = str(array)
            elif kind == "rescaled":
                rescaled[name] = torch.from_numpy(array)
            else:
                bits, _, operand = name.partition("/")
                limits.setdefault(operand, {})[int(bits)] = torch.from_numpy(array)
        return TunedWeights(values, biases, limits, rescaled)


NOTHING = TunedWeights()


def _product(first: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> dict[str, Tensor]:
    both = {**first, **later}
    return both | {op: first[op] * later[op] for op in first.keys() & later.keys()}


def weight_of(graph: Graph, op: str) -> Operand | None:
    """The stored weight that an op multiplies with, None if it has none."""
    return next((o for o in graph.ops[op].operands if o.kind == "weight"), None)


def bias_of(graph: Graph, op: str) -> str | None:
    """Parameter name of an op's bias, None if it has none or it is computed."""
    node = _node(graph, op)
    position = _bias_position(node)
    if position is None:
        return None
    bias = node.args[position] if len(node.args) > position else node.kwargs.get("bias")
    stored = isinstance(bias, fx.Node) and bias.op == "get_attr"
    return str(bias.target) if stored else None  # type: ignore[union-attr]


def readers(graph: Graph, parameter: str) -> tuple[str, ...]:
    """Names of the nodes that read a parameter; several if it is shared."""
    found = [
        user.name
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.target == parameter
        for user in node.users
    ]
    return tuple(dict.fromkeys(found))


def shared(graph: Graph, parameter: str) -> bool:
    """Whether several ops read a parameter, so that changing it for one changes the others."""
    return len(readers(graph, parameter)) > 1


def can_have_bias(graph: Graph, op: str) -> bool:
    """Whether an op has a bias of its own that can be changed, or can be given one."""
    node = _node(graph, op)
    name = bias_of(graph, op)
    if name is not None:
        return not shared(graph, name)
    if node.target is aten.addmm.default or _bias_position(node) is None:
        return False
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return given is None


def with_bias(graph: Graph, op: str, value: Tensor) -> TunedWeights:
    """The change that sets an op's bias; an op without one gets it.

    Args:
        graph: the model.
        op: a conv, conv-transpose or linear.
        value: float32 ``[C]``, one per output channel.

    Raises:
        RecipeError: the op cannot have a bias of its own.
    """
    if not can_have_bias(graph, op):
        raise RecipeError(
            op, "has no bias of its own that could be changed", "Leave it out of the ops to tune"
        )
    name = bias_of(graph, op)
    if name is not None:
        return TunedWeights({name: value})
    name = f"qviz_bias.{graph.ops[op].node}"
    return TunedWeights({name: value}, {op: name})


def tuned_graph(graph: Graph, tuned: TunedWeights) -> Graph:
    """The same graph with other parameters; ``graph`` is not changed.

    Raises:
        RecipeError: the weights are of another model.
        ShapeError: a value has another shape than the parameter.
    """
    if not tuned:
        return graph
    _check(graph, tuned)
    # a GraphModule makes module objects of its own and shares the tensors in them
    module = fx.GraphModule(graph.module, _copy_of(graph.module.graph))
    for name, value in tuned.values.items():
        set_attr(module, name, value.detach())
    nodes = {n.name: n for n in module.graph.nodes}
    for op, name in tuned.biases.items():
        _give_bias(module, nodes[graph.ops[op].node], name)
    module.graph.lint()
    module.recompile()
    limits = {name: dict(found) for name, found in graph.limits.items()}
    for name, found in tuned.limits.items():
        limits[name] = {**limits.get(name, {}), **found}
    rescaled = _product(graph.rescaled, tuned.rescaled)
    return replace(graph, module=module, limits=limits, rescaled=rescaled)


def _copy_of(graph: fx.Graph) -> fx.Graph:
    made = fx.Graph()
    output = made.graph_copy(graph, {})
    source = next(n for n in graph.nodes if n.op == "output")
    made.output(output).meta = dict(source.meta)
    made._codegen = graph._codegen
    return made


def _give_bias(module: fx.GraphModule, node: fx.Node, name: str) -> None:
    with module.graph.inserting_before(node):
        bias = module.graph.get_attr(name)
    bias.meta["val"] = get_attr(module, name)
    node.args = (*node.args[:2], bias, *node.args[3:])
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "bias"}


def _check(graph: Graph, tuned: TunedWeights) -> None:
    new = set(tuned.biases.values())
    operands = graph.operands
    strangers = [op for op in (*tuned.biases, *tuned.rescaled) if op not in graph.ops]
    strangers += [name for name in tuned.limits if name not in operands]
    for name, value in tuned.values.items():
        if name in new:
            continue
        if not _has(graph, name):
            strangers.append(name)
        elif (own := get_attr(graph.module, name)).shape != value.shape:
            raise ShapeError(
                f"tuned {name}",
                f"is {tuple(value.shape)}, the model's is {tuple(own.shape)}",
                "Tune the model again",
            )
    if strangers:
        raise RecipeError(
            f"tuned weights {strangers[0]}", f"{graph.name} has no such thing", "Tune it again"
        )


def _has(graph: Graph, name: str) -> bool:
    return any(n.op == "get_attr" and n.target == name for n in graph.module.graph.nodes)


def _node(graph: Graph, op: str) -> fx.Node:
    name = graph.ops[op].node
    nodes: dict[str, fx.Node] = {n.name: n for n in graph.module.graph.nodes}
    return nodes[name]


def _bias_position(node: fx.Node) -> int | None:
    target: Any = node.target
    return _BIAS_POSITION.get(target)
