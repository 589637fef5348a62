"""What int8 does to every tensor, measured: the float model beside the simulated one.

Both run over the same samples. Errors of an op are those of the whole simulation up to there, the
value where it is rounded: a convolution with ReLU counts after the ReLU, and with the rounding
of its own grid if something reads it as int8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qviz.affine import QuantParams, fake_quantize
from qviz.coverage import applies
from qviz.export.grids import Grids
from qviz.export.request import Request
from qviz.progress import Reporter

#: Samples, and multiply-accumulates that they may take: enough for errors that do not wobble.
SAMPLES, MACS = 64, 3 * 10**10
BATCH = 8


@dataclass
class Errors:
    """Sums over the elements of one tensor, in float64.

    Attributes:
        count: elements.
        total: of the errors.
        squares: of their squares.
        largest: magnitude.
        signal: squares of the float values.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    signal: float = 0.0

    def add(self, found: Tensor, wanted: Tensor) -> None:
        """More elements."""
        error = found - wanted
        self.count += error.numel()
        self.total += float(error.sum(dtype=torch.float64))
        self.squares += float(error.square().sum(dtype=torch.float64))
        low, high = torch.aminmax(error)
        self.largest = max(self.largest, -float(low), float(high))
        self.signal += float(wanted.square().sum(dtype=torch.float64))

    @property
    def mean(self) -> float:
        """Mean error: a bias."""
        return self.total / max(1, self.count)

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.squares / max(1, self.count)

    @property
    def std(self) -> float:
        """Standard deviation of the error."""
        return math.sqrt(max(0.0, self.mse - self.mean**2))

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / error), infinite without an error."""
        if self.squares == 0:
            return math.inf
        return -math.inf if self.signal == 0 else 10 * math.log10(self.signal / self.squares)


@dataclass
class Measured:
    """Errors of one model under one recipe.

    Attributes:
        samples: how many were run.
        values: op -> error of its value in the simulated model.
        inputs: int8 tensor -> error of rounding its float value alone.
    """

    samples: int
    values: dict[str, Errors] = field(default_factory=dict)
    inputs: dict[str, Errors] = field(default_factory=dict)


def rounded_at(request: Request) -> dict[str, str]:
    """Op with something int8 in it -> the tensor by which its error is told."""
    graph = request.graph
    applied = applies(graph)
    return {op.name: applied.get(op.name, op.name) for op in graph.quantizable}


def measure(request: Request, grids: Grids, ops: Iterable[str]) -> Measured:
    """Run float and simulated over the first samples of the request's data.

    Args:
        request: model, recipe and data.
        grids: of the recipe.
        ops: whose errors are wanted.
    """
    simulator, graph = request.simulator, request.graph
    program, edits = simulator.program, simulator.edits(request.recipe)
    data = request.data.head(max(BATCH, min(SAMPLES, MACS // max(1, 2 * graph.macs))))
    at = rounded_at(request)
    watched = {program.slot_of_tensor[at[op]]: op for op in ops}
    grid_of = {program.slot_of_tensor[t]: (t, g.params) for t, g in grids.activations.items()}
    made = Measured(data.count)
    report = Reporter("measure layers", data.count, request.progress)
    for batch in data.batches(BATCH):
        values = program.inputs(batch)
        simulated = list(values)
        program.run(values, keep=True)
        for slot, (tensor, params) in grid_of.items():
            value = values[slot]
            made.inputs.setdefault(tensor, Errors()).add(fake_quantize(value, params), value)

        def watch(slot: int, value: object, wanted: list[object] = values) -> None:
            op = watched.get(slot)
            reference = wanted[slot]
            if op is not None and isinstance(value, Tensor) and isinstance(reference, Tensor):
                rounded = _rounded(value, slot, grid_of)
                made.values.setdefault(op, Errors()).add(rounded, reference)

        program.run(simulated, edits, watch=watch)
        report.step("", batch.size)
    return made


def _rounded(value: Tensor, slot: int, grid_of: Mapping[int, tuple[str, QuantParams]]) -> Tensor:
    with torch.no_grad():
        return fake_quantize(value, grid_of[slot][1]) if slot in grid_of else value
