"""In which form each value is needed: as float, as codes of some grid, or as both.

One walk from the outputs back. A pass-through op (max-pool, reshape, cat ...) asks of what it reads
what is asked of it, so codes are made once, at the tensor the range belongs to, and only moved
after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from qviz import optypes
from qviz.int8.fuse import Group
from qviz.int8.plan import CodeGrid, Plan
from qviz.rewrite import aten


@dataclass(eq=False)
class Demand:
    """The forms in which one value is needed.

    Attributes:
        real: in float, or as it is if it is no float tensor.
        grids: as codes of these grids, in the order they were found.
    """

    real: bool = False
    grids: dict[CodeGrid, None] = field(default_factory=dict)

    @property
    def only(self) -> CodeGrid | None:
        """The one grid, if the value is needed as codes of one grid and in no other form."""
        return next(iter(self.grids)) if len(self.grids) == 1 and not self.real else None


def demands(
    graph: fx.Graph, plan: Plan, groups: Mapping[fx.Node, Group]
) -> Mapping[fx.Node, Demand]:
    """What is asked of every node; nodes inside a group and unread ones have no demands."""
    asked: dict[fx.Node, Demand] = {n: Demand() for n in graph.nodes}
    inside = {n for g in groups.values() for n in g.nodes[:-1]}

    def ask(value: Any, grid: CodeGrid | None) -> None:  # noqa: ANN401 - an fx argument
        if not isinstance(value, fx.Node):
            return
        if grid is None:
            asked[value].real = True
        else:
            asked[value].grids[grid] = None

    for node in reversed(graph.nodes):  # readers first
        if not asked[node].grids and any(is_shape(u) and asked[u].real for u in node.users):
            asked[node].real = True  # any form has the shape; there must be one
        if node in inside or node.op in ("placeholder", "get_attr"):
            continue
        if node in groups:
            _ask_group(groups[node], ask)
        elif node.op == "output":
            for leaf in node.all_input_nodes:
                ask(leaf, None)
        elif not is_shape(node):
            _ask_plain(node, asked[node], plan, ask)
    return asked


Ask = Callable[[Any, CodeGrid | None], None]


def _ask_group(group: Group, ask: Ask) -> None:
    head = group.head
    for position, grid in head.inputs.items():
        ask(head.node.args[position], grid)
    if head.kind not in ("add", "matmul"):
        ask(bias_of(head.node), None)
    if group.residual is not None:
        ask(*group.residual)


def bias_of(node: fx.Node) -> Any:  # noqa: ANN401 - an fx argument
    """The bias argument of a conv, linear or addmm with a vector bias; None if there is none."""
    if node.target is aten.addmm.default:
        bias = node.args[0]
        return bias if isinstance(bias, fx.Node) and bias.meta["val"].dim() == 1 else None
    if node.target in optypes.MATMULS:
        return None
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")


def _ask_plain(node: fx.Node, own: Demand, plan: Plan, ask: Ask) -> None:
    if passes_codes(node):
        for grid in own.grids:
            for source in node.all_input_nodes:
                ask(source, grid if holds_floats(source) else None)
        if not own.real:
            return
    if not own.real and not own.grids:
        return  # nobody reads it
    rounded = plan.rounded.get(node, {})
    weights = plan.weights.get(node, {})
    for position, argument in enumerate(node.args):
        if position in weights:
            continue
        if position in rounded:
            ask(argument, rounded[position])
            continue
        fx.node.map_arg(argument, lambda n: ask(n, None))
    fx.node.map_arg(dict(node.kwargs), lambda n: ask(n, None))


def is_shape(node: fx.Node) -> bool:
    """Whether the node reads only the shape of a tensor."""
    return node.target is aten.sym_size.int


def passes_codes(node: fx.Node) -> bool:
    """Whether the node moves codes as it moves floats; also for parts of a tuple of tensors."""
    if node.op != "call_function":
        return False
    if getattr(node.target, "__name__", "") == "getitem":
        source = node.args[0]
        return isinstance(source, fx.Node) and passes_codes(source)
    return optypes.passes_codes(node)


def holds_floats(node: fx.Node) -> bool:
    """Whether the value is a float tensor, or a tuple that begins with one."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return isinstance(first, Tensor) and first.is_floating_point()
