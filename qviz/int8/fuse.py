"""Which ops become one kernel call: product, then residual add, then activation.

A kernel applies bias, residual, activation and rounding to its int32 sums while they are in
registers. That is only the same arithmetic if nobody else reads what lies between, and if the
recipe lets the product meet the add unrounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from qviz.graph import Op
from qviz.int8.plan import CodeGrid, IntegerOp, Plan
from qviz.rewrite import aten

#: Kernels that take a residual, and those that take an activation.
_ADDS_RESIDUAL = ("conv", "conv_transpose", "linear")
_ACTIVATES = (*_ADDS_RESIDUAL, "add")
#: Ops that cut off, with the names of their limits.
_LIMITS: dict[Any, tuple[str, ...]] = {
    aten.hardtanh.default: ("min_val", "max_val"),
    aten.clamp.default: ("min", "max"),
    aten.clamp_min.default: ("min",),
}


@dataclass(frozen=True, eq=False)
class Group:
    """Ops that one kernel call computes.

    Attributes:
        head: the integer op that the kernel is named by.
        nodes: all nodes, in order; the last one's value is what the kernel gives.
        residual: a tensor added before the activation, with its grid; None is float.
        activation: ``none``, ``relu`` or ``hardtanh``.
        limits: of ``hardtanh``.
    """

    head: IntegerOp
    nodes: tuple[fx.Node, ...]
    residual: tuple[fx.Node, CodeGrid | None] | None = None
    activation: str = "none"
    limits: tuple[float, ...] = ()

    @property
    def tail(self) -> fx.Node:
        """The node whose value the kernel gives."""
        return self.nodes[-1]


def make_groups(plan: Plan, ops: Mapping[str, Op]) -> dict[fx.Node, Group]:
    """One group per kernel call, by the node of its last op.

    Args:
        plan: which ops run on codes.
        ops: of the graph, by node name.
    """
    taken: set[fx.Node] = set()
    groups: dict[fx.Node, Group] = {}
    # Products first, the latest first: of an add's two products the later one takes it, as the
    # simulation assumes; adds that no product takes become kernels of their own.
    order = sorted(plan.integer.values(), key=lambda i: i.kind == "add")
    products = [i for i in order if i.kind != "add"]
    for integer in [*reversed(products), *order[len(products) :]]:
        if integer.node in taken:
            continue
        group = _group(integer, plan, ops, taken)
        taken |= set(group.nodes)
        groups[group.tail] = group
    return groups


def _group(head: IntegerOp, plan: Plan, ops: Mapping[str, Op], taken: set[fx.Node]) -> Group:
    nodes = [head.node]
    residual: tuple[fx.Node, CodeGrid | None] | None = None
    if head.addend is not None:
        addend = head.node.args[head.addend]
        assert isinstance(addend, fx.Node)
        residual = addend, None
    if head.kind in _ADDS_RESIDUAL and residual is None:
        add = _only_reader(head.node)
        if add is not None and add not in taken:
            residual = _residual(head.node, add, plan, ops)
            nodes += [add] if residual is not None else []
    act = _only_reader(nodes[-1]) if head.kind in _ACTIVATES else None
    found = _activation(act) if act is not None else None
    if act is None or found is None:
        return Group(head, tuple(nodes), residual)
    return Group(head, (*nodes, act), residual, *found)


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].op == "call_function" else None


def _residual(
    product: fx.Node, add: fx.Node, plan: Plan, ops: Mapping[str, Op]
) -> tuple[fx.Node, CodeGrid | None] | None:
    """What the add adds to the product, None if the two cannot be one kernel."""
    op = ops.get(add.name)
    if op is None or op.type != "add" or not op.quantizable:
        return None
    position = 0 if add.args[0] is product else 1
    other = add.args[1 - position]
    assert isinstance(other, fx.Node)
    integer = plan.integer.get(add)
    if integer is None:
        return other, None
    if integer.inputs[position] is not None:
        return None  # the recipe rounds the product before it is added
    return other, integer.inputs[1 - position]


def _activation(node: fx.Node) -> tuple[str, tuple[float, ...]] | None:
    """The kernels' name and limits for an activation node, None if they do not know it."""
    if node.target is aten.relu.default:
        return "relu", ()
    if node.target is aten.relu6.default:
        return "hardtanh", (0.0, 6.0)
    if node.target not in _LIMITS:
        return None
    names = _LIMITS[node.target]
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    if node.target is aten.hardtanh.default:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    if isinstance(low, int | float) and isinstance(high, int | float):
        return "hardtanh", (float(low), float(high))
    return ("relu", ()) if low == 0 and high is None and not isinstance(low, fx.Node) else None
