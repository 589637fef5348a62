"""What is reconstructed at a time: one op with the activation that is fused into it.

The loss is taken where the engine rounds again. A ReLU (or another activation) that alone reads an
op is computed in the same kernel, and what it cuts off need not be right; so the loss is behind it
(Nagel et al. 2020, section 3.3; CalibTIP's ``utils/adaquant.py`` does so for the convs of ResNets).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from qviz.execute import Program
from qviz.graph import Graph, Op, Operand
from qviz.recipe import Decision, resolve
from qviz.rewrite import aten
from qviz.tune.step import Subject
from qviz.weights import can_have_bias, shared, weight_of

#: Activations that engines fuse into the op before them.
FUSED = {"relu", "relu6", "hardtanh", "leaky_relu", "hardswish", "silu", "gelu"}


@dataclass(frozen=True)
class Unit:
    """One op and the activation behind it.

    Attributes:
        op: its name.
        steps: indices of its steps in the program, one or two.
        weight: its stored weight, if that is int8.
        inputs: the activations that it reads as int8.
        learned: tensors among them whose range is this unit's to learn, each with the number of
            other operands that read it as int8.
        biased: it has, or can get, a bias of its own.
        bias_position: where that stands among its arguments.
    """

    op: str
    steps: tuple[int, ...]
    weight: Operand | None
    inputs: tuple[Operand, ...]
    learned: Mapping[str, int]
    biased: bool
    bias_position: int


@dataclass(frozen=True)
class Units:
    """What can be reconstructed.

    Attributes:
        found: in execution order.
        left: ops left alone -> why.
    """

    found: tuple[Unit, ...]
    left: Mapping[str, str]


def units_of(subject: Subject) -> Units:
    """The units of a subject under its recipe.

    The range of a tensor is learned with its first int8 reader, if all of its int8 readers may be
    changed; one that a person set (calibrator ``fixed``) stays.
    """
    graph, program = subject.graph, subject.simulator.program
    decisions = resolve(subject.recipe, graph)
    owners = _owners(subject, decisions)
    scaled = _scaled(graph)
    found: list[Unit] = []
    left: dict[str, str] = {}
    for op in graph.quantizable:
        int8 = [o for o in op.operands if decisions[o.name].int8]
        if not int8 or not subject.wants(op.name):
            continue
        own = program.step_of_op[op.name]
        reason = "its channels were scaled" if op.name in scaled else _reason(graph, program, op)
        if reason is not None:
            left[op.name] = reason
            continue
        weight = weight_of(graph, op.name)
        found.append(
            Unit(
                op=op.name,
                steps=_steps(graph, program, op),
                weight=weight if weight in int8 else None,
                inputs=tuple(o for o in int8 if o.kind == "activation"),
                learned={t: n for t, (owner, n) in owners.items() if owner == op.name},
                biased=weight is not None and can_have_bias(graph, op.name),
                bias_position=0 if program.steps[own].target is aten.addmm.default else 2,
            )
        )
    return Units(tuple(found), left)


def _owners(subject: Subject, decisions: Mapping[str, Decision]) -> dict[str, tuple[str, int]]:
    """Tensor -> (op that learns its range, how many other operands read it as int8)."""
    graph = subject.graph
    readers = [
        o for o in graph.operands.values() if o.kind == "activation" and decisions[o.name].int8
    ]
    counts = Counter(o.tensor for o in readers)
    unwanted = {o.tensor for o in readers if not subject.wants(o.op)}
    found: dict[str, tuple[str, int]] = {}
    for operand in readers:
        given = subject.recipe.range_of[operand.tensor].calibrator.partition(":")[0] == "fixed"
        if operand.tensor not in unwanted and not given:
            found.setdefault(operand.tensor, (operand.op, counts[operand.tensor] - 1))
    return found


def _scaled(graph: Graph) -> set[str]:
    """Ops without a weight that pass on channels scaled on purpose (cross-layer equalization).

    The float model's output of such an op is no target for it, and by which factors it would become
    one only the ops that made the channels know (``Graph.rescaled``). Ops with a weight undo them.
    """
    found = set(graph.rescaled)
    for op in graph.ops.values():
        if weight_of(graph, op.name) is None and not found.isdisjoint(op.reads):
            found.add(op.name)
    return found - graph.rescaled.keys()


def _reason(graph: Graph, program: Program, op: Op) -> str | None:
    """Why an op is left alone, None if it is not."""
    weight = weight_of(graph, op.name)
    if weight is not None and shared(graph, weight.tensor):
        return "its weight is shared by several ops"
    step = program.steps[program.step_of_op[op.name]]
    reads = [
        graph.tensors[program.tensor_of_slot[s]] for s in step.reads if s in program.tensor_of_slot
    ]
    values = [*reads, graph.tensors[op.name]]
    if any(info.batch_dim is None and -1 not in info.shape for info in values):
        return "it does not depend on the samples"
    if any(info.batch_dim is None for info in values) and op.type != "linear":
        return "its samples cannot be told apart"
    return None


def _steps(graph: Graph, program: Program, op: Op) -> tuple[int, ...]:
    own = program.step_of_op[op.name]
    readers = [o for o in graph.ops.values() if op.name in o.reads]
    fused = len(readers) == 1 and readers[0].type in FUSED and op.name not in graph.outputs
    return (own, program.step_of_op[readers[0].name]) if fused else (own,)
