"""The untouched float model and the quantized one, side by side over the calibration samples.

Methods that correct one op after the other need the output of each op under all corrections made
before it. Both models advance op by op with every batch in memory, and what a method does to the
output of an op is seen by all ops behind it; so one pass is enough, however many are corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from qviz.collate import Batch
from qviz.execute import Edits, Program, apply_edits, fill
from qviz.graph import Graph, TensorInfo
from qviz.progress import Reporter
from qviz.recipe import resolve
from qviz.tune.importance import Importance, importance_of, rows_that_count
from qviz.tune.samples import drawn
from qviz.tune.step import Subject
from qviz.weights import can_have_bias, weight_of

#: Bytes that the values of both models may take.
BUDGET = 1 << 30


class Lockstep:
    """One program over several batches, advanced op by op."""

    def __init__(self, program: Program, edits: Edits, batches: Sequence[Batch]) -> None:
        self._program = program
        self._edits = edits
        self._values = [program.inputs(b) for b in batches]
        self._next = 0

    def through(self, op: str) -> list[Tensor]:
        """The op's output for every batch; everything before it runs first."""
        last = self._program.step_of_op[op]
        self._run(last)
        slot = self._program.steps[last].slot
        return [values[slot] for values in self._values]

    def arguments(self, op: str) -> list[tuple[list[Any], dict[str, Any]]]:
        """What the op is called with for every batch, without edits; it does not run yet."""
        index = self._program.step_of_op[op]
        self._run(index - 1)
        return [fill(self._program.steps[index], values) for values in self._values]

    def target(self, op: str) -> Callable[..., Tensor]:
        """What is called for the op."""
        return self._program.steps[self._program.step_of_op[op]].target

    def _run(self, last: int) -> None:
        with torch.no_grad():
            while self._next <= last:
                self._step(self._next)
                self._next += 1

    def change(self, op: str, function: Callable[[Tensor], Tensor]) -> None:
        """Replace the output of the op reached last, for all ops behind it."""
        slot = self._program.steps[self._program.step_of_op[op]].slot
        for values in self._values:
            values[slot] = function(values[slot])

    def _step(self, index: int) -> None:
        step = self._program.steps[index]
        for values in self._values:
            args, kwargs = fill(step, values)
            if index in self._edits:
                args = apply_edits(args, self._edits[index])
            values[step.slot] = step.target(*args, **kwargs)
            for slot in step.frees:
                if slot != step.slot:
                    values[slot] = None


class Pair:
    """The float model and the subject under its recipe, on the same batches.

    Statistics are of the rows that reach the model's output, weighed by what they do there: padding
    has no part in them, and a few enormous rows are not all of them.

    Attributes:
        samples: calibration samples used.
        notes: why they are fewer than asked for, and why all rows count alike, where it is so.
    """

    def __init__(
        self, subject: Subject, wanted: int, report: Reporter, all_rows: Collection[str] = ()
    ) -> None:
        """Prepare both.

        Args:
            subject: the quantized model and the data.
            wanted: samples at most.
            report: told of what is prepared.
            all_rows: ops whose statistics are of all rows.
        """
        program, original = subject.simulator.program, subject.original.program
        batches, short = batches_that_fit(subject, wanted, models=2)
        self.samples = sum(b.size for b in batches)
        ops = [op for op in correctable(subject) if op not in all_rows]
        self._counted, alike = counted_in(subject, ops, batches, report)
        self.notes = tuple(note for note in (short, alike) if note)
        self._graph, self._rescaled = subject.graph, subject.graph.rescaled
        self._float = Lockstep(original, {}, batches)
        self._own = Lockstep(program, subject.simulator.edits(subject.recipe), batches)

    def through(self, op: str) -> tuple[Moments, Moments]:
        """Statistics of the op's output in the float model and in the quantized one."""
        reference = self._moments(op, self._float.through(op))
        if op in self._rescaled:
            reference = reference.scaled(self._rescaled[op])
        return reference, self._moments(op, self._own.through(op))

    def affine(self, op: str, factor: Tensor, shift: Tensor) -> Moments:
        """Make the quantized op's output ``factor * output + shift``, both ``[C]``.

        Returns:
            Its statistics afterwards.
        """
        axis = self._axis(op)

        def changed(y: Tensor) -> Tensor:
            shape = [1] * y.dim()
            shape[axis] = -1
            return y * factor.to(y).reshape(shape) + shift.to(y).reshape(shape)

        self._own.change(op, changed)
        return self._moments(op, self._own.through(op))

    def _moments(self, op: str, outputs: Sequence[Tensor]) -> Moments:
        info, known = self._graph.tensors[op], self._counted.get(op)
        rows, weights = rows_that_count(outputs, info, known)
        return moments(rows, self._axis(op), weights)

    def _axis(self, op: str) -> int:
        return output_axis(self._graph, op)


def batches_that_fit(subject: Subject, wanted: int, models: int = 1) -> tuple[list[Batch], str]:
    """Calibration samples for as many models side by side, and why they are fewer than wanted."""
    asked = min(wanted, subject.calibration.count)
    room = BUDGET // max(1, models * peak_bytes(subject.simulator.program))
    count, note = max(1, min(asked, room)), ""
    if count < asked:
        note = f"{count} of {asked} samples: the values of more would not fit in {BUDGET >> 20} MiB"
    size = min(subject.batch_size, count)
    return list(drawn(subject.calibration, count, seed=subject.seed, size=size)), note


def counted_in(
    subject: Subject, ops: Sequence[str], batches: Sequence[Batch], report: Reporter
) -> tuple[dict[str, list[Importance]], str]:
    """The rows of the ops' own outputs that reach the model's output, in each batch.

    Nothing for a model that cannot be differentiated, and why.
    """
    program = subject.original.differentiable
    steps = {op: program.step_of_op[op] for op in ops}
    return importance_of(program, steps, batches, subject.seed, report)


class Moments:
    """Mean and variance of each channel of a value.

    Attributes:
        mean: float64 ``[C]``.
        variance: float64 ``[C]``, divided by n.
    """

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        self.mean = mean
        self.variance = variance

    def scaled(self, factor: Tensor) -> Moments:
        """Of the value with every channel multiplied by ``factor`` ``[C]``."""
        f = factor.double()
        return Moments(self.mean * f, self.variance * f * f)

    @property
    def spread(self) -> float:
        """Root mean square deviation over all channels."""
        return float(self.variance.mean().sqrt())


def moments(parts: Sequence[Tensor], axis: int, weights: Sequence[Tensor] | None = None) -> Moments:
    """Channel statistics of a value given in parts, exact to float64 rounding.

    Args:
        parts: of any shape with the channels along ``axis``.
        axis: of the channels.
        weights: of every row of parts ``[n, C]``, ``[n]`` each; None is all alike.
    """
    count, total, squares = 0.0, torch.zeros(()), torch.zeros(())
    centre: Tensor | None = None
    for number, part in enumerate(parts):
        rows = part.detach().movedim(axis, 0).reshape(part.shape[axis], -1).double()
        if not rows.shape[1]:
            continue
        # about the mean of the first part, so that a mean far from zero costs no digits
        centre = rows.mean(1) if centre is None else centre
        rows = rows - centre[:, None]
        if weights is None:
            count += rows.shape[1]
            total = total + rows.sum(1)
            squares = squares + rows.square().sum(1)
        else:
            own = weights[number].double()
            count += float(own.sum())
            total = total + rows @ own
            squares = squares + rows.square() @ own
    assert centre is not None
    mean = total / count
    return Moments(centre + mean, (squares / count - mean.square()).clamp(min=0.0))


def output_axis(graph: Graph, op: str) -> int:
    """Channel axis of the output of a conv (1) or of a product with a stored matrix (the last)."""
    return 1 if graph.ops[op].type.startswith("conv") else -1


def correctable(subject: Subject) -> tuple[str, ...]:
    """Ops whose bias can absorb what quantizing them does, in execution order.

    They read something as int8, multiply with a stored weight and have, or can get, a bias of their
    own.
    """
    graph = subject.graph
    decisions = resolve(subject.recipe, graph)
    return tuple(
        op.name
        for op in graph.quantizable
        if subject.wants(op.name)
        and any(decisions[o.name].int8 for o in op.operands)
        and weight_of(graph, op.name) is not None
        and can_have_bias(graph, op.name)
    )


def peak_bytes(program: Program) -> int:
    """Bytes per sample that the values alive at one time take at most, from the shapes alone."""
    tensors = program.graph.tensors
    sizes = {slot: _bytes(tensors[name]) for slot, name in program.tensor_of_slot.items()}
    alive: dict[Any, int] = {}
    most = 0
    for step in program.steps:
        for slot in (*step.reads, step.slot):
            if slot in sizes:
                alive[slot] = sizes[slot]
        most = max(most, sum(alive.values()))
        for slot in step.frees:
            alive.pop(slot, None)
    return most


def _bytes(info: TensorInfo) -> int:
    if info.batch_dim is None and -1 not in info.shape:
        return 0  # a constant
    size = 8 if info.dtype.endswith("64") else 4
    for n in info.shape:
        size *= abs(n)
    return size
