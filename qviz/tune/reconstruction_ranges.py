"""Ranges that a reconstruction learns: of an activation, by size and lower end, and of a weight.

Both are learned in parts of what they were, so one learning rate fits every layer, and with the
gradient of LSQ (Esser et al. 2020, arXiv 1902.08153, eq. 3; ``qat_ranges.LearnedStep``): inside, a
larger step moves a value by its rounding error, beyond the ends by the end's code.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from qviz.affine import Grid, QuantParams, range_params, spread, symmetric_params, weight_params
from qviz.recipe import TensorRange
from qviz.tune.qat_ranges import LearnedStep
from qviz.tune.weight_range import search, weight_error


def least_error(weight: Tensor, now: QuantParams) -> QuantParams:
    """The grid of a weight with the range of least squared error, where a fit starts."""
    bits = _bits(now)
    widest = weight_params(weight, bits, now.axis)
    amax, _, _ = search(partial(weight_error, weight), now, bits, widest)
    return symmetric_params(amax.float(), Grid(bits, narrow=True), now.axis)


def _bits(params: QuantParams) -> int:
    """Width of a narrow grid."""
    return (params.quant_max + 1).bit_length()


class LearnedRange:
    """The range of one activation tensor.

    Attributes:
        start: what it was.
        grid: of the operand that reads it.
        parameters: what an optimizer changes: the logarithm of the size in parts of the first,
            and, with a zero point, the lower end in the same unit.
    """

    def __init__(self, start: TensorRange, grid: Grid) -> None:
        self.start, self.grid = start, grid
        low, high = min(start.lo, 0.0), max(start.hi, 0.0)
        self._low = low
        self._span = max(-low, high) if grid.symmetric else high - low
        self._size = torch.zeros(()).requires_grad_()
        self._shift = torch.zeros(()).requires_grad_(not grid.symmetric and low < 0)
        self.parameters = [p for p in (self._size, self._shift) if p.requires_grad]

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` on the grid of the range as it stands.

        Raises:
            NotFiniteError: the range has become NaN or infinite.
        """
        now = self.range(self.start.calibrator)
        params = range_params(now.lo, now.hi, self.grid)
        codes = self.grid.quant_max - (0 if self.grid.symmetric else self.grid.quant_min)
        step = self._size.exp() * (self._span / codes)
        low = None
        if self._shift.requires_grad:
            low = self._low + self._span * self._shift
        made: Tensor = LearnedStep.apply(x, step, low, params, 1.0)  # type: ignore[no-untyped-call]
        return made

    def range(self, calibrator: str) -> TensorRange:
        """As it stands, under the name of what found it."""
        size = math.exp(float(self._size.detach()))
        if self.grid.symmetric:
            return TensorRange(
                self.start.tensor, self.start.lo * size, self.start.hi * size, calibrator
            )
        low = min(self._low + self._span * float(self._shift.detach()), 0.0)
        return TensorRange(self.start.tensor, low, max(low + self._span * size, 0.0), calibrator)


class LearnedLimit:
    """The range of a weight, per output channel or of the whole.

    Attributes:
        size: what an optimizer changes: its logarithm in parts of the first, ``[C]`` or 0-d.
    """

    def __init__(self, start: QuantParams) -> None:
        self._codes, self._axis = start.quant_max, start.axis
        self._grid = Grid(_bits(start), narrow=True)
        self._step = start.scale
        self.size = torch.zeros_like(start.scale).requires_grad_()

    @property
    def limit(self) -> Tensor:
        """The amax it stands at, ``[C]`` or 0-d, float32."""
        return self._step * self.size.detach().exp() * self._codes

    def step_like(self, weight: Tensor) -> Tensor:
        """The first step sizes, in a shape that broadcasts against the weight."""
        return spread(self._step, weight, self._axis)

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight on the grid of the range as it stands.

        Raises:
            NotFiniteError: the range has become NaN or infinite.
        """
        params = symmetric_params(self.limit, self._grid, self._axis)
        step = self._step * self.size.exp()
        made: Tensor = LearnedStep.apply(weight, step, None, params, 1.0)  # type: ignore[no-untyped-call]
        return made
