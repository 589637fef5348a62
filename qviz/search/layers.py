"""What of a graph gets a bit width: its layers, the first and last of them, and the rest."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.errors import TuneError
from qviz.graph import Graph, Op
from qviz.recipe import Recipe, resolve
from qviz.rewrite import get_attr
from qviz.search.widths import Layer


def layers_of(graph: Graph, recipe: Recipe) -> tuple[Layer, ...]:
    """What a recipe's allocation gives widths to, in execution order.

    Raises:
        TuneError: the recipe leaves no op with multiply-accumulates int8.
    """
    decisions = resolve(recipe, graph)
    groups: dict[str, list[Op]] = {}
    for op in graph.quantizable:
        int8 = [o for o in op.operands if decisions[o.name].int8]
        if not int8 or op.type == "add":
            continue
        weight = next((o.tensor for o in int8 if o.kind == "weight"), None)
        groups.setdefault(weight or f"{op.name}/", []).append(op)
    ends = _ends(graph)
    layers = tuple(
        Layer(
            name=ops[0].name,
            ops=tuple(op.name for op in ops),
            elements=0 if key.endswith("/") else get_attr(graph.module, key).numel(),
            macs=sum(op.macs for op in ops),
            end=any(op.name in ends for op in ops),
        )
        for key, ops in groups.items()
    )
    if not layers:
        raise TuneError(
            "bit allocation",
            "the recipe leaves no conv, linear or matmul int8",
            "Quantize at least one",
        )
    return layers


def _ends(graph: Graph) -> set[str]:
    """Ops with a weight that no other weighted op lies before, or none behind."""
    weighted = {
        op.node: op.name for op in graph.quantizable if any(o.kind == "weight" for o in op.operands)
    }
    before: dict[str, frozenset[str]] = {}  # node -> the nearest weighted ops on its way
    inner: set[str] = set()
    first: set[str] = set()
    for node in graph.module.graph.nodes:
        above: frozenset[str] = frozenset()
        above = above.union(*(before[source.name] for source in node.all_input_nodes))
        if (name := weighted.get(node.name)) is not None:
            inner |= above
            if not above:
                first.add(name)
            above = frozenset({name})
        before[node.name] = above
    return first | (set(weighted.values()) - inner)


def rest_of(graph: Graph, layers: Sequence[Layer]) -> int:
    """Parameters of a graph that belong to no layer's weight, in elements."""
    names = {str(n.target) for n in graph.module.graph.nodes if n.op == "get_attr"}
    total = sum(get_attr(graph.module, name).numel() for name in names)
    return total - sum(layer.elements for layer in layers)
