"""Which stored tensors of a captured graph are trained, and which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from qviz.execute import Program
from qviz.graph import Graph
from qviz.rewrite import get_attr


def trainable(graph: Graph, ops: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the parameters that QAT trains: stored weights and biases.

    These are what an op reads as its ``weight`` or ``bias`` and the stored side of a product;
    everything else that is stored (statistics, position embeddings, masks, constants) stays.

    Args:
        graph: the model.
        ops: only parameters that these ops read; None is all.
    """
    found = read_by(graph)
    wanted = found if ops is None else [op for op in found if op in ops]
    return tuple(dict.fromkeys(name for op in wanted for name in found[op]))


def read_by(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Op -> the weights and biases that it reads; in execution order, without those of none."""
    weights = {o.tensor for o in graph.operands.values() if o.kind == "weight"}
    names = {op.node: op.name for op in graph.ops.values()}
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.module.graph.nodes:
        if node.op == "call_function":
            read = [
                source
                for role, source in _roles(node)
                if (role in ("weight", "bias") or source in weights)
                and get_attr(graph.module, source).is_floating_point()
            ]
            if read:
                found[names.get(node.name, node.name)] = tuple(read)
    return found


def _roles(node: fx.Node) -> list[tuple[str, str]]:
    """(argument name, stored tensor) of what a call reads straight from storage."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return []
    names = [a.name for a in target._schema.arguments]
    given = [*zip(names, node.args, strict=False), *node.kwargs.items()]
    if target is torch.ops.aten.addmm.default:
        given = [("bias" if n == "self" else n, a) for n, a in given]
    return [(n, str(a.target)) for n, a in given if isinstance(a, fx.Node) and a.op == "get_attr"]


def stored(graph: Graph) -> tuple[str, ...]:
    """Names of all float tensors that a graph stores."""
    names = [str(n.target) for n in graph.module.graph.nodes if n.op == "get_attr"]
    return tuple(dict.fromkeys(n for n in names if get_attr(graph.module, n).is_floating_point()))


def slots_of(program: Program) -> dict[str, list[int]]:
    """Stored tensor -> the slots it fills."""
    found: dict[str, list[int]] = {}
    for node in program.graph.module.graph.nodes:
        if node.op == "get_attr":
            found.setdefault(str(node.target), []).append(program.slot_of[node.name])
    return found
