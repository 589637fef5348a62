"""Integer grids: from a real range to scale and zero point, and from reals to codes and back.

Everything here is Wu et al. 2020 (arXiv 2004.09602), equations 1-13, written with the *size of one
step* (``scale``) where the paper writes its inverse s:

    Grid          how many bits, and which integers             (pure choice, no data)
    QuantParams   scale and zero point of one tensor on a grid  (needs a range)
    quantize      q = clamp(round_half_even(x * (1 / scale)) + zero_point, quant_min, quant_max)
    dequantize    x = (q - zero_point) * scale

``1 / scale`` is computed in float32, as in ``torch.fake_quantize_*``, so both agree on every finite
input that torch gets right; far outside the range torch's per-channel kernel overflows an integer
and returns the wrong end, this module saturates. Real zero always has a code of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qviz.errors import NotFiniteError, RangeError, ShapeError

MIN_BITS = 2
MAX_BITS = 8

# A step below the smallest normal float32 has no usable inverse: 1 / scale overflows, and GPUs
# flush such a scale to zero. Values that small all become code 0 under any larger step, so 1 does.
SMALLEST_SCALE = 2.0**-126
SAFE_SCALE = 1.0


@dataclass(frozen=True)
class Grid:
    """The integers that codes are made of.

    Args:
        bits: 2 to 8.
        symmetric: zero point 0 and signed codes; otherwise unsigned codes with a zero point.
        narrow: drop the lowest signed code, so the grid is its own mirror image (weights).
        unsigned: a symmetric grid of the codes from 0 on, for values that are never negative:
            zero point 0 and twice the steps. Below 8 bits its codes fit in int8.

    Raises:
        RangeError: bits outside 2..8, or ``narrow`` or ``unsigned`` where it has no meaning.
    """

    bits: int = 8
    symmetric: bool = True
    narrow: bool = False
    unsigned: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise RangeError(
                f"{self.bits} bits",
                "no such integer grid",
                f"Use {MIN_BITS} to {MAX_BITS} bits",
            )
        if self.narrow and not self.symmetric:
            raise RangeError(
                "narrow grid",
                "only symmetric grids can be narrow",
                "Set symmetric=True or narrow=False",
            )
        if self.unsigned and (self.narrow or not self.symmetric):
            raise RangeError(
                "unsigned grid",
                "is symmetric with nothing below zero, so neither narrow nor with a zero point",
                "Set symmetric=True and narrow=False",
            )
        if self.unsigned and self.bits == MAX_BITS:
            raise RangeError(
                "unsigned grid",
                f"its {MAX_BITS}-bit codes do not fit in int8",
                f"Use fewer than {MAX_BITS} bits, or unsigned=False",
            )

    @property
    def signed(self) -> bool:
        """Whether it has codes below zero point 0: half of the codes are for negative values."""
        return self.symmetric and not self.unsigned

    def for_values(self, *, nonnegative: bool) -> Grid:
        """This grid, unsigned where no value is negative and the codes still fit in int8."""
        able = nonnegative and self.symmetric and not self.narrow and self.bits < MAX_BITS
        return replace(self, unsigned=True) if able else self

    @property
    def quant_min(self) -> int:
        """Smallest code: 0 unsigned, -2^(b-1) signed, one more where narrow."""
        if not self.signed:
            return 0
        return int(self.narrow) - (1 << (self.bits - 1))

    @property
    def quant_max(self) -> int:
        """Largest code: 2^b - 1 unsigned, 2^(b-1) - 1 signed."""
        return (1 << (self.bits - int(self.signed))) - 1


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Scale and zero point of one tensor.

    Args:
        scale: size of one step in units of the tensor, float32, 0-d or [C].
        zero_point: integer code of real 0, int32, same shape as ``scale``.
        quant_min: smallest code.
        quant_max: largest code.
        axis: the axis kept (per channel), None per tensor.

    Raises:
        ShapeError: ``scale``, ``zero_point`` and ``axis`` do not belong together.
    """

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int
    axis: int | None = None

    def __post_init__(self) -> None:
        wanted = 0 if self.axis is None else 1
        if self.scale.dim() != wanted or self.zero_point.shape != self.scale.shape:
            raise ShapeError(
                "scale and zero point",
                f"sizes {tuple(self.scale.shape)} and {tuple(self.zero_point.shape)} "
                f"for axis {self.axis}",
                "Pass scalars per tensor, one number per channel per channel",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Storage type of the codes: int8 wherever they fit, else uint8."""
        return torch.uint8 if self.quant_max > 127 else torch.int8

    @property
    def low(self) -> Tensor:
        """Smallest real value on the grid, shaped like ``scale``."""
        return (self.quant_min - self.zero_point) * self.scale

    @property
    def high(self) -> Tensor:
        """Largest real value on the grid, shaped like ``scale``."""
        return (self.quant_max - self.zero_point) * self.scale

    def to(self, device: torch.device | str) -> QuantParams:
        """The same parameters on another device."""
        scale, zero_point = self.scale.to(device), self.zero_point.to(device)
        return QuantParams(scale, zero_point, self.quant_min, self.quant_max, self.axis)


def _finite(name: str, value: float | Tensor) -> Tensor:
    """``value`` as float64; the ends of a range are never rounded before they are divided."""
    limit = torch.as_tensor(value, dtype=torch.float64).detach()
    if not bool(torch.isfinite(limit).all()):
        raise NotFiniteError(
            name,
            "is NaN or infinite" if limit.dim() == 0 else "has NaN or infinite entries",
            "Look for NaN or Inf in the weights or the calibration data",
        )
    return limit


def _safe(scale: Tensor) -> Tensor:
    """float32 scale; steps too small to be inverted become ``SAFE_SCALE``."""
    step = scale.to(torch.float32)
    return torch.where(step < SMALLEST_SCALE, torch.full_like(step, SAFE_SCALE), step)


def symmetric_params(amax: float | Tensor, grid: Grid, axis: int | None = None) -> QuantParams:
    """Scale quantization of [-amax, amax]: scale = amax / quant_max, zero point 0 (eq. 6).

    An amax of 0, or one whose step would be below ``SMALLEST_SCALE`` (1.2e-38), gives scale 1:
    every value of such a tensor becomes code 0 and comes back as 0.

    Args:
        amax: limit of the range, 0-d, or [C] with ``axis``.
        grid: a symmetric grid.
        axis: the axis kept, None per tensor.

    Raises:
        NotFiniteError: amax is NaN or infinite.
        RangeError: amax is negative, or the grid is not symmetric.
    """
    if not grid.symmetric:
        raise RangeError(
            "symmetric range", "the grid is unsigned", "Use affine_params or Grid(symmetric=True)"
        )
    limit = _finite("amax", amax)
    if bool((limit < 0).any()):
        raise RangeError("amax", f"is negative ({limit.min().item():g})", "Pass a limit of |x|")
    # The float32 limit over the integer in float32: the quotient TensorRT and ONNX exporters store.
    scale = _safe(limit.to(torch.float32) / grid.quant_max)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return QuantParams(scale, zero_point, grid.quant_min, grid.quant_max, axis)


def affine_params(
    lo: float | Tensor, hi: float | Tensor, grid: Grid, axis: int | None = None
) -> QuantParams:
    """Affine quantization of [lo, hi], widened to hold 0 (eq. 1, 2).

    The zero point is rounded to an integer so that real 0 is exactly one code; the range really
    covered, ``QuantParams.low`` to ``.high``, moves by up to half a step for it.

    Args:
        lo: lower end, 0-d, or [C] with ``axis``.
        hi: upper end, same shape.
        grid: an unsigned grid.
        axis: the axis kept, None per tensor.

    Raises:
        NotFiniteError: an end is NaN or infinite.
        RangeError: lo > hi, or the grid is symmetric.
    """
    if grid.symmetric:
        raise RangeError("affine range", "the grid has no zero point", "Use Grid(symmetric=False)")
    low, high = _finite("lo", lo), _finite("hi", hi)
    if bool((low > high).any()):
        raise RangeError("range", "its lower end is above its upper end", "Swap lo and hi")
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = _safe((high - low) / (grid.quant_max - grid.quant_min))
    zero_point = torch.round(grid.quant_min - low / scale.to(torch.float64))
    zero_point = zero_point.clamp(grid.quant_min, grid.quant_max).to(torch.int32)
    return QuantParams(scale, zero_point, grid.quant_min, grid.quant_max, axis)


def range_params(
    lo: float | Tensor, hi: float | Tensor, grid: Grid, axis: int | None = None
) -> QuantParams:
    """Parameters of [lo, hi] on any grid: a symmetric grid takes amax = max(-lo, hi)."""
    if not grid.symmetric:
        return affine_params(lo, hi, grid, axis)
    low, high = _finite("lo", lo), _finite("hi", hi)
    if bool((low > high).any()):
        raise RangeError("range", "its lower end is above its upper end", "Swap lo and hi")
    return symmetric_params(torch.maximum(low.abs(), high.abs()), grid, axis)


def weight_params(w: Tensor, bits: int = 8, axis: int | None = 0) -> QuantParams:
    """Weights: symmetric, narrow, max calibration, per channel where ``axis`` is given.

    Args:
        w: any shape.
        bits: 2 to 8.
        axis: the axis kept; 0 is the output channel of conv and linear weights.

    Raises:
        NotFiniteError: ``w`` holds NaN or Inf.
        ShapeError: ``w`` is empty or has no such axis.
    """
    if w.numel() == 0:
        raise ShapeError("weight", "is empty", "Leave this op in float")
    if axis is None:
        amax = w.detach().abs().amax()
    else:
        axis = kept_axis(w, axis)
        others = [d for d in range(w.dim()) if d != axis]
        amax = w.detach().abs().amax(others) if others else w.detach().abs()
    return symmetric_params(_finite("weight", amax), Grid(bits, narrow=True), axis)


def kept_axis(x: Tensor, axis: int) -> int:
    """``axis`` counted from the front; ShapeError where ``x`` has no such axis."""
    if not -x.dim() <= axis < x.dim():
        raise ShapeError(
            f"axis {axis}", f"the tensor has {x.dim()} dimensions", "Name an axis it has"
        )
    return axis % x.dim()


def spread(per_channel: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """[C] reshaped to broadcast against ``x`` along ``axis``; 0-d stays 0-d."""
    if axis is None:
        return per_channel
    axis = kept_axis(x, axis)
    if x.shape[axis] != per_channel.numel():
        raise ShapeError(
            f"axis {axis}",
            f"{x.shape[axis]} channels but {per_channel.numel()} scales",
            "Compute the parameters from a tensor of the same shape",
        )
    shape = [1] * x.dim()
    shape[axis] = -1
    return per_channel.reshape(shape)


def _work_dtype(x: Tensor) -> torch.dtype:
    """Half types are computed in float32, as torch's kernels do; float64 stays float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _steps(x: Tensor, params: QuantParams) -> Tensor:
    """round(x / scale), not clamped: a fresh tensor in the work dtype."""
    inverse = spread(torch.reciprocal(params.scale), x, params.axis)
    return torch.mul(x.to(_work_dtype(x)), inverse).round_()


def quantize(x: Tensor, params: QuantParams) -> Tensor:
    """Reals to codes (eq. 4, 7).

    Args:
        x: float, any shape; per channel, ``x.shape[axis]`` is the number of scales.
        params: on the device of ``x``.

    Returns:
        int8 (uint8 for codes above 127), shape and memory format of ``x``.

    Raises:
        NotFiniteError: ``x`` holds NaN, which has no code (Inf saturates).
        ShapeError: the channel count does not match.
    """
    steps = _steps(x.detach(), params)
    if steps.numel() and bool(steps.max().isnan()):  # max propagates NaN
        raise NotFiniteError(
            "tensor", "holds NaN, which has no integer code", "Find the op that makes it"
        )
    _clamp(steps, params)
    if bool((params.zero_point != 0).any()):
        steps.add_(spread(params.zero_point, x, params.axis))
    return steps.to(params.dtype)


def dequantize(q: Tensor, params: QuantParams) -> Tensor:
    """Codes to reals (eq. 5, 8): float32, shape of ``q``.

    Raises:
        ShapeError: the channel count does not match.
    """
    steps = q.to(torch.float32) - spread(params.zero_point, q, params.axis)
    return steps.mul_(spread(params.scale, q, params.axis))


def fake_quantize(x: Tensor, params: QuantParams) -> Tensor:
    """Quantize, then dequantize, all in float (eq. 12), with the straight-through gradient.

    Equal to ``torch.fake_quantize_per_tensor_affine`` and ``_per_channel_affine`` on finite
    float32, about ten times faster on a CPU. NaN stays NaN, so that it can be found; Inf saturates.

    Args:
        x: float, any shape; per channel, ``x.shape[axis]`` is the number of scales.
        params: on the device of ``x``.

    Returns:
        Shape, dtype and memory format of ``x``.

    Raises:
        ShapeError: the channel count does not match.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _StraightThrough.apply(x, params)  # type: ignore[no-untyped-call]
        return y
    steps = _clamp(_steps(x, params), params)
    return steps.mul_(spread(params.scale, x, params.axis)).to(x.dtype)


def _clamp(steps: Tensor, params: QuantParams) -> Tensor:
    """Clamp ``round(x / scale)`` in place to the codes minus the zero point.

    Shifting the limits instead of the values saves two passes over the data.
    """
    zero_point = params.zero_point
    if zero_point.dim() == 0 and zero_point.device.type == "cpu":  # plain numbers clamp faster
        z = int(zero_point)
        return steps.clamp_(params.quant_min - z, params.quant_max - z)
    shift = spread(zero_point, steps, params.axis).to(steps.dtype)
    return steps.clamp_(params.quant_min - shift, params.quant_max - shift)


class _StraightThrough(torch.autograd.Function):
    """Gradient 1 where the value is on the grid, 0 where it was clipped (eq. 13)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, params: QuantParams) -> Tensor:
        steps = _steps(x.detach(), params)
        kept = _clamp(steps.clone(), params)
        ctx.save_for_backward(steps == kept)
        return kept.mul_(spread(params.scale, x, params.axis)).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * inside, None
