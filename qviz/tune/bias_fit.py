"""The biases of a quantized model as parameters, and their distance from the float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.collate import Batch, concatenate
from qviz.evaluate import first_output
from qviz.execute import Program
from qviz.simulate import Simulator
from qviz.tune.lockstep import Moments, moments, output_axis
from qviz.tune.samples import drawn, rows_of
from qviz.tune.step import Subject
from qviz.weights import NOTHING, bias_of, tuned_graph, weight_of, with_bias


@dataclass(frozen=True, eq=False)
class Samples:
    """Some inputs with the float model's outputs for them.

    Attributes:
        batch: the inputs.
        targets: ``[n, ...]``.
    """

    batch: Batch
    targets: Tensor

    @staticmethod
    def of(subject: Subject, count: int) -> Samples:
        """``count`` of the calibration samples."""
        program, size = subject.original.program, subject.batch_size
        batches = list(drawn(subject.calibration, count, seed=subject.seed, size=size))
        made = [first_output(program.run(program.inputs(b)), b.size, program) for b in batches]
        return Samples(concatenate(batches), torch.cat(made))

    @property
    def count(self) -> int:
        """How many."""
        return self.batch.size

    def rows(self, chosen: Tensor) -> Samples:
        """Those of the given numbers."""
        return Samples(rows_of(self.batch, chosen), self.targets[chosen])


class BiasFit:
    """A quantized model whose biases can be trained.

    Attributes:
        names: ops whose biases are trained.
        start: the biases it begins with, ``[C]`` each.
        spreads: standard deviation of each op's float output.
        parameters: what the optimizer changes, zeros at first: bias = start + unit * parameter.
        unit: what the loss is, in words.
    """

    def __init__(self, subject: Subject, names: Sequence[str], *, relative: bool) -> None:
        """Prepare the subject; ``relative`` makes an op's output spread the unit of its bias."""
        graph, tuned = subject.graph, NOTHING
        for op in names:
            if bias_of(graph, op) is None:
                tuned = tuned.then(with_bias(graph, op, torch.zeros(_channels(subject, op))))
        simulator = Simulator(tuned_graph(graph, tuned)) if tuned else subject.simulator
        self.names = tuple(names)
        self._program = simulator.differentiable
        self._edits = simulator.edits(subject.recipe)
        slots = {
            str(n.target): self._program.slot_of[n.name]
            for n in simulator.graph.module.graph.nodes
            if n.op == "get_attr"
        }
        biases = [str(bias_of(simulator.graph, op)) for op in names]
        self._slots = [slots[name] for name in biases]
        self.start = [simulator.program.parameter(name).float() for name in biases]
        self.spreads = _spreads(subject, names)
        self._units = self.spreads if relative else [1.0] * len(names)
        self.parameters = [torch.zeros_like(b).requires_grad_() for b in self.start]
        self.unit = "squared error"

    def state(self) -> list[Tensor]:
        """The biases as they are."""
        return [b.detach().clone() for b in self._biases()]

    def _biases(self) -> list[Tensor]:
        parts = zip(self.start, self._units, self.parameters, strict=True)
        return [start + unit * parameter for start, unit, parameter in parts]

    def divergence(self, samples: Samples, rows: Tensor, *, grad: bool = False) -> Tensor:
        """Distance of each sample's output from the float model's, ``[n]``.

        KL divergence of class scores ``[n, C]``, mean squared error of anything else.
        """
        some = samples.rows(rows)
        with torch.set_grad_enabled(grad):
            values: list[Any] = self._program.inputs(some.batch)
            for slot, bias in zip(self._slots, self._biases(), strict=True):
                values[slot] = bias
            made = self._program.run(values, self._edits, grad=grad)
            output = first_output(made, some.count, self._program)
            if output.dim() == 2 and output.shape[1] > 1:
                self.unit = "KL"
                own, wanted = F.log_softmax(output, 1), F.log_softmax(some.targets, 1)
                return F.kl_div(own, wanted, reduction="none", log_target=True).sum(1)
            return (output - some.targets).square().reshape(some.count, -1).mean(1)

    def losses(self, samples: Samples, batch: int) -> Tensor:
        """Distance of each of all samples, float64 ``[n]``."""
        every = torch.arange(samples.count)
        return torch.cat([self.divergence(samples, rows) for rows in every.split(batch)]).double()


def _channels(subject: Subject, op: str) -> int:
    operand = weight_of(subject.graph, op)
    assert operand is not None
    return subject.simulator.program.parameter(operand.tensor).shape[operand.axis or 0]


def _spreads(subject: Subject, names: Sequence[str]) -> list[float]:
    """Standard deviation of the ops' outputs in the float graph, over one batch."""
    program: Program = subject.simulator.program
    wanted = {program.slot_of_tensor[op]: op for op in names}
    found: dict[str, Moments] = {}

    def watch(slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        if slot in wanted:
            op = wanted[slot]
            found[op] = moments([value], output_axis(subject.graph, op))

    size = subject.batch_size
    some = next(drawn(subject.calibration, size, seed=subject.seed, size=size))
    program.run(program.inputs(some), watch=watch)
    return [max(found[op].spread, 1e-12) for op in names]
