"""Ranges that are learned: gradients to clipping limits (PACT) and to step sizes (LSQ).

Both quantize exactly as a recipe with the range they stand at: the value comes from
``affine.fake_quantize``, so what training saw is what is exported. They differ in the gradient.

PACT (Choi et al. 2018, arXiv 1805.06085, eq. 3) learns the limit: values beyond it hand their
gradient on to it, values inside only to themselves. LSQ (Esser et al. 2020, arXiv 1902.08153,
eq. 3 and section 2.2) learns the size of one step: inside, a larger step moves a value by its
rounding error; beyond the ends by the end's code. Its gradient is scaled by
``1 / sqrt(N quant_max)`` so that a step size and a weight move by comparable parts of themselves.
With a zero point the lower end is learned too, which is LSQ+ (Bhalgat et al. 2020, arXiv
2004.09576, eq. 6).

A limit or step never falls below a thousandth of where it started: one that a large gradient has
thrown below zero would be no range at all.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from qviz.affine import Grid, QuantParams, fake_quantize, range_params, spread, symmetric_params
from qviz.errors import TuneError
from qviz.recipe import TensorRange

Context = torch.autograd.function.FunctionCtx
#: Part of its first value below which no limit or step falls.
LEAST = 1e-3


class LearnedLimit(torch.autograd.Function):
    """Fake quantization whose clipping limits have PACT's gradient.

    Arguments of ``apply``: ``x``; ``high`` 0-d; ``low`` 0-d, or None where the lower end is
    ``-high`` on a grid with signed codes and 0 on the others; ``params`` of the range.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, high: Tensor, low: Tensor | None, params: QuantParams
    ) -> Tensor:
        """``x`` on the grid of ``params``."""
        signed = params.quant_min < 0
        lower = low if low is not None else (-high if signed else torch.zeros_like(high))
        ctx.save_for_backward(x, high, lower)
        ctx.mirrored = low is None and signed  # type: ignore[attr-defined]
        return fake_quantize(x.detach(), params)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Gradients to ``x`` (1 inside, 0 outside) and to the limits (Choi et al. 2018, eq. 3)."""
        x, high, low = ctx.saved_tensors  # type: ignore[attr-defined]
        above, below = x >= high, x < low
        to_high = (grad * above).sum()
        to_low: Tensor | None = (grad * below).sum()
        if ctx.mirrored:  # type: ignore[attr-defined]
            to_high = to_high - to_low
        if not ctx.needs_input_grad[2]:  # type: ignore[attr-defined]
            to_low = None
        return grad.masked_fill(above | below, 0.0), to_high, to_low, None


class LearnedStep(torch.autograd.Function):
    """Fake quantization whose step size has LSQ's gradient.

    Arguments of ``apply``: ``x``; ``step``, 0-d or ``[C]`` along ``params.axis``; ``low``, the
    lower end of a grid with a zero point, or None; ``params`` of the range; ``factor`` on the
    gradients of ``step`` and ``low``.
    """

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        step: Tensor,
        low: Tensor | None,
        params: QuantParams,
        factor: float,
    ) -> Tensor:
        """``x`` on the grid of ``params``."""
        ctx.save_for_backward(x)
        ctx.params, ctx.factor = params, factor  # type: ignore[attr-defined]
        # with a lower end that moves along, an end is as many steps away as codes lie between
        ctx.shifted = low is not None  # type: ignore[attr-defined]
        return fake_quantize(x.detach(), params)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Any, ...]:
        """Gradients to ``x`` (1 inside, 0 outside), the step and the lower end."""
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        params: QuantParams = ctx.params  # type: ignore[attr-defined]
        factor: float = ctx.factor  # type: ignore[attr-defined]
        shifted: bool = ctx.shifted  # type: ignore[attr-defined]
        zero = int(params.zero_point) if params.axis is None else 0
        bottom, top = params.quant_min - zero, params.quant_max - zero
        steps = x * spread(torch.reciprocal(params.scale), x, params.axis)
        rounded = steps.round()
        kept = rounded.clamp(bottom, top)
        outside = rounded != kept
        ends = kept - bottom if shifted else kept
        change = torch.where(outside, ends, kept - steps)
        to_low = factor * (grad * outside).sum() if shifted else None
        to_step = factor * _kept_sum(grad * change, params)
        return grad.masked_fill(outside, 0.0), to_step, to_low, None, None


def _kept_sum(values: Tensor, params: QuantParams) -> Tensor:
    """Sum over everything but the axis of the scales."""
    if params.axis is None:
        return values.sum()
    axis = params.axis % values.dim()
    return values.sum([i for i in range(values.dim()) if i != axis])


class LimitRange(nn.Module):
    """PACT: the range of one activation tensor, given by its clipping limits.

    Attributes:
        high: upper limit; on a symmetric grid the amax.
        low: lower limit of a grid with a zero point, None if it is not learned.
    """

    def __init__(self, chosen: TensorRange, grid: Grid) -> None:
        super().__init__()
        self.start = chosen
        self.symmetric = grid.symmetric
        amax = max(abs(chosen.lo), abs(chosen.hi)) if grid.symmetric else max(chosen.hi, 0.0)
        self.high = nn.Parameter(torch.tensor(amax, dtype=torch.float32))
        self.least = LEAST * amax
        learned = not grid.symmetric and chosen.lo < 0
        self.low = nn.Parameter(torch.tensor(chosen.lo)) if learned else None

    def range(self) -> TensorRange:
        """Where the range stands now.

        Raises:
            TuneError: training made it NaN or infinite.
        """
        high = _floored(self.high, self.least, self.start.tensor)
        low = _lower(self.low, self.start.tensor)
        if self.symmetric:
            return _mirrored(self.start, high, "pact")
        return TensorRange(self.start.tensor, low, high, "pact")

    def quantize(self, x: Tensor, params: QuantParams) -> Tensor:
        """``x`` on the grid of the range as it stands."""
        made: Tensor = LearnedLimit.apply(x, self.high, self.low, params)  # type: ignore[no-untyped-call]
        return made


class StepRange(nn.Module):
    """LSQ: the range of one activation tensor, given by the size of one step.

    Attributes:
        step: of the grid given; operands at other widths take the range that it makes.
        low: lower limit of a grid with a zero point, None if it is not learned.
    """

    def __init__(self, chosen: TensorRange, grid: Grid) -> None:
        super().__init__()
        self.start, self.grid = chosen, grid
        span = max(abs(chosen.lo), abs(chosen.hi))
        if not grid.symmetric:
            span = max(chosen.hi, 0.0) - min(chosen.lo, 0.0)
        self.codes = grid.quant_max if grid.symmetric else grid.quant_max - grid.quant_min
        self.step = nn.Parameter(torch.tensor(span / self.codes, dtype=torch.float32))
        self.least = LEAST * span / self.codes
        learned = not grid.symmetric and chosen.lo < 0
        self.low = nn.Parameter(torch.tensor(chosen.lo)) if learned else None

    def range(self) -> TensorRange:
        """Where the range stands now.

        Raises:
            TuneError: training made it NaN or infinite.
        """
        span = _floored(self.step, self.least, self.start.tensor) * self.codes
        low = _lower(self.low, self.start.tensor)
        if self.grid.symmetric:
            return _mirrored(self.start, span, "lsq")
        return TensorRange(self.start.tensor, low, low + span, "lsq")

    def quantize(self, x: Tensor, params: QuantParams) -> Tensor:
        """``x`` on the grid of the range as it stands; N counts the values of one sample."""
        own = params.quant_max if self.grid.symmetric else params.quant_max - params.quant_min
        factor = 1.0 / math.sqrt(max(1, x[0].numel()) * own)
        step = self.step if own == self.codes else self.step * (self.codes / own)
        made: Tensor = LearnedStep.apply(x, step, self.low, params, factor)  # type: ignore[no-untyped-call]
        return made


class WeightStep(nn.Module):
    """LSQ: the grid of one weight operand, given by its step sizes.

    Attributes:
        step: ``[C]`` per channel, 0-d per tensor.
        start: the largest amax that training began with.
    """

    def __init__(self, operand: str, params: QuantParams, bits: int) -> None:
        super().__init__()
        self.operand, self.axis = operand, params.axis
        self.grid = Grid(bits, narrow=True)
        self.step = nn.Parameter(params.scale.detach().clone())
        self.start = float(params.high.max())
        self.register_buffer("least", LEAST * params.scale.detach(), persistent=False)

    @property
    def limit(self) -> Tensor:
        """The amax that the step sizes make: ``[C]`` or 0-d, float32.

        Raises:
            TuneError: training made one NaN or infinite.
        """
        step = self.step.detach()
        if not bool(torch.isfinite(step).all()):
            raise _none(self.operand)
        least = cast(Tensor, self.least)
        return torch.maximum(step, least) * self.grid.quant_max

    def quantize(self, weight: Tensor) -> Tensor:
        """The weight on the grid of the step sizes as they stand."""
        params = symmetric_params(self.limit, self.grid, self.axis)
        factor = 1.0 / math.sqrt(weight.numel() / self.step.numel() * self.grid.quant_max)
        made: Tensor = LearnedStep.apply(weight, self.step, None, params, factor)  # type: ignore[no-untyped-call]
        return made


def params_of(chosen: TensorRange, grid: Grid, device: torch.device) -> QuantParams:
    """Grid of a range on a device; as ``Simulator.activation_params`` has it."""
    return range_params(chosen.lo, chosen.hi, grid).to(device)


def _mirrored(start: TensorRange, amax: float, how: str) -> TensorRange:
    """A range of that amax; the end that did not decide it stays as it was, as far as it can."""
    if abs(start.lo) > abs(start.hi):
        return TensorRange(start.tensor, -amax, min(start.hi, amax), how)
    return TensorRange(start.tensor, max(start.lo, -amax), amax, how)


def _floored(value: Tensor, least: float, tensor: str) -> float:
    found = float(value.detach())
    if not math.isfinite(found):
        raise _none(f"tensor {tensor}")
    return max(found, least)


def _lower(value: Tensor | None, tensor: str) -> float:
    low = 0.0 if value is None else float(value.detach())
    if not math.isfinite(low):
        raise _none(f"tensor {tensor}")
    return min(low, 0.0)  # real zero has a code


def _none(name: str) -> TuneError:
    return TuneError(
        f"range of {name}",
        "training made it NaN or infinite",
        "Lower the learning rate, or train with ranges=fixed",
    )
