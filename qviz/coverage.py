"""The coverage table: every op, and whether it is int8, float by choice, or float because ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qviz.graph import Graph, Op
from qviz.recipe import FUSED, Decision, Recipe, resolve

Status = Literal["int8", "float by choice", "float"]


@dataclass(frozen=True)
class CoverageRow:
    """One op.

    Attributes:
        op: its name.
        type: its type.
        status: int8, float by choice, or float.
        reason: why it is float; for an int8 op what is special about it, "" if nothing is.
        macs: multiply-accumulates per sample.
        parameters: weights and biases it reads.
        shape: of its output per sample.
        source: file and line that called it.
    """

    op: str
    type: str
    status: Status
    reason: str
    macs: int
    parameters: int
    shape: tuple[int, ...]
    source: str


def coverage(graph: Graph, recipe: Recipe | None = None) -> tuple[CoverageRow, ...]:
    """One row per op, in execution order.

    Args:
        graph: the model.
        recipe: decides; None asks what could be int8 under the default profile.
    """
    decisions = resolve(recipe, graph) if recipe is not None else None
    int8_tensors = _int8_tensors(graph, decisions)
    return tuple(_row(op, graph, decisions, int8_tensors) for op in graph.ops.values())


def _int8_tensors(graph: Graph, decisions: dict[str, Decision] | None) -> set[str]:
    """Roots that some operand reads as int8."""
    return {
        o.tensor
        for o in graph.operands.values()
        if o.kind == "activation" and (decisions is None or decisions[o.name].int8)
    }


def _row(
    op: Op, graph: Graph, decisions: dict[str, Decision] | None, int8_tensors: set[str]
) -> CoverageRow:
    if op.passthrough and op.reason is None:
        status, reason = _passed_on(op, graph, int8_tensors)
    else:
        status, reason = _status(op, decisions)
        host = _host(op, graph)
        if host is not None and _status(host, decisions)[0] == "int8":
            status, reason = "int8", f"part of {host.name}: applied before rounding"
    return CoverageRow(
        op.name, op.type, status, reason, op.macs, op.parameters, op.shape, op.source
    )


def _passed_on(op: Op, graph: Graph, int8_tensors: set[str]) -> tuple[Status, str]:
    # an op with several results (split) has a tensor for each: op[0], op[1] ...
    made = [t for t in graph.tensors.values() if t.name.partition("[")[0] == op.name]
    if int8_tensors.intersection(t.root for t in made):
        return "int8", "passes codes on with their scale"
    return "float", "passes on what it reads, and that is float"


#: Activations that an integer kernel applies to its accumulator before it rounds.
_APPLIED_BY_KERNELS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}


def applies(graph: Graph) -> dict[str, str]:
    """Op whose kernel applies an activation function before it rounds -> that function's op."""
    hosts = ((op, _host(op, graph)) for op in graph.ops.values())
    return {host.name: op.name for op, host in hosts if host is not None}


def _host(op: Op, graph: Graph) -> Op | None:
    """The op whose kernel applies this activation, None if it is computed by itself."""
    if op.type not in _APPLIED_BY_KERNELS or len(op.reads) != 1:
        return None
    host = graph.ops.get(op.reads[0])
    if host is None or not host.quantizable or host.type == "matmul":
        return None
    readers = [o for o in graph.ops.values() if host.name in o.reads]
    return host if len(readers) == 1 else None


def _status(op: Op, decisions: dict[str, Decision] | None) -> tuple[Status, str]:
    if not op.operands:
        return "float", op.reason or ""
    if decisions is None:
        return "int8", ""
    own = [decisions[o.name] for o in op.operands]
    if all(d.int8 or d.reason == FUSED for d in own) and any(d.int8 for d in own):
        return "int8", FUSED if any(not d.int8 for d in own) else ""
    by_choice = [o.name for o, d in zip(op.operands, own, strict=True) if d.by_choice]
    imposed = [d.reason for d in own if not d.int8 and not d.by_choice and d.reason != FUSED]
    if imposed:
        return "float", imposed[0] or ""
    if any(d.int8 for d in own):
        return "float by choice", f"{', '.join(by_choice)} left in float"
    return "float by choice", ""
