"""From a recipe to a program that multiplies integers: a new graph of aten and ``qviz::`` ops.

The result computes what the simulation of the recipe computes, up to float rounding:

* plan.py    which ops run on codes, and why the others do not
* fuse.py    product + residual add + activation + requantize = one kernel call
* demand.py  in which form (float, codes of a grid) each value is needed
* emit.py    the new graph

A tensor whose readers all want the same codes is never a float tensor: its producer rounds in its
epilogue. Otherwise it is made in float, and quantized once for all readers that share a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils._pytree import TreeSpec

from qviz.graph import Graph
from qviz.int8 import ops as _ops  # noqa: F401 - registers the operators
from qviz.int8 import pool as _pool  # noqa: F401 - likewise
from qviz.int8.demand import demands
from qviz.int8.emit import Emitter
from qviz.int8.fuse import Group, make_groups
from qviz.int8.plan import Plan, WeightCodes, make_plan
from qviz.recipe import Recipe
from qviz.simulate import Simulator


@dataclass(frozen=True)
class LoweredOp:
    """What became of one op.

    Attributes:
        op: its name.
        type: its type.
        kernel: ``int8 conv``, ``int8 add`` ...; ``codes`` if it only moves codes; ``float``.
        reason: why it is float, or into which op's kernel it went; "" otherwise.
        fused: names of the ops that its kernel computes beside it.
    """

    op: str
    type: str
    kernel: str
    reason: str
    fused: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lowered:
    """An integer program.

    Attributes:
        module: takes and gives what the model does.
        graph: what it was lowered from.
        recipe: what it was lowered by.
        rows: one per op, in execution order.
        calls: node name of each ``qviz::`` call -> name of the op it computes, or of the tensor
            that it turns into codes; in execution order.
        weights: buffer name -> the integers in it.
    """

    module: fx.GraphModule
    graph: Graph
    recipe: Recipe
    rows: tuple[LoweredOp, ...]
    calls: dict[str, str]
    weights: dict[str, WeightCodes]

    @property
    def integer_ops(self) -> int:
        """Number of ops that run on codes or went into a kernel that does."""
        return sum(row.kernel.startswith("int8") for row in self.rows)


def lower(graph: Graph, recipe: Recipe, simulator: Simulator | None = None) -> Lowered:
    """Lower a graph under a recipe.

    Args:
        graph: the captured model; it is not changed.
        recipe: what is int8; its profile must be a symmetric one.
        simulator: of the graph, if there is one; its weights need not be rounded again.

    Raises:
        RecipeError: the recipe does not fit the graph, or its profile has zero points.
        NotFiniteError: a weight holds NaN or Inf.
    """
    simulator = simulator or Simulator(graph)
    plan = make_plan(simulator, recipe)
    source = graph.module.graph
    groups = make_groups(plan, {op.node: op for op in graph.ops.values()})
    emitter = Emitter(simulator, plan, groups, demands(source, plan, groups))
    emitter.run()
    emitter.graph.eliminate_dead_code()
    info = source._codegen.pytree_info  # type: ignore[attr-defined]
    emitter.graph.set_codegen(
        _PyTreeCodeGen(_PyTreeInfo(info.orig_args, info.in_spec, plain_spec(info.out_spec)))
    )
    module = fx.GraphModule(emitter.root, emitter.graph, graph.name)
    kept = set(emitter.graph.nodes)
    return Lowered(
        module,
        graph,
        recipe,
        _rows(graph, plan, groups, emitter),
        {n.name: name for n, name in emitter.names.items() if n in kept},
        emitter.weights,
    )


def plain_spec(spec: TreeSpec) -> TreeSpec:
    """The same nesting of tuples, lists and dicts; a class of the user's becomes a dict or tuple.

    So that a saved program loads where that class is not installed.
    """
    if spec.is_leaf():
        return spec
    children = [plain_spec(child) for child in spec.children()]
    plain = (tuple, list, dict)
    if spec.type in plain or getattr(spec.type, "__module__", "") == "collections":
        return TreeSpec(spec.type, spec.context, children)
    named = spec.context
    while isinstance(named, list | tuple) and named and isinstance(named[0], list | tuple):
        named = named[0]
    keys = list(named) if isinstance(named, list | tuple) else []
    if len(keys) == len(children) and all(isinstance(key, str) for key in keys):
        return TreeSpec(dict, keys, children)
    return TreeSpec(tuple, None, children)


def _rows(
    graph: Graph, plan: Plan, groups: dict[fx.Node, Group], emitter: Emitter
) -> tuple[LoweredOp, ...]:
    by_node = {op.node: op.name for op in graph.ops.values()}
    leader = {n.name: g for g in groups.values() for n in g.nodes}
    rows = []
    for op in graph.ops.values():
        group = leader.get(op.node)
        if group is not None and group.head.op.name == op.name:
            fused = tuple(by_node[n.name] for n in group.nodes if n.name != op.node)
            rows.append(LoweredOp(op.name, op.type, f"int8 {group.head.kind}", "", fused))
        elif group is not None:
            kernel = f"int8 {group.head.kind}"
            rows.append(LoweredOp(op.name, op.type, kernel, f"fused into {group.head.op.name}", ()))
        elif op.node in emitter.moved:
            rows.append(LoweredOp(op.name, op.type, "codes", "", ()))
        else:
            reason = plan.reasons.get(op.name) or op.reason or "passes floats on"
            rows.append(LoweredOp(op.name, op.type, "float", reason, ()))
    return tuple(rows)
