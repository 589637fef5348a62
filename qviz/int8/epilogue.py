"""What happens to an integer sum after the last multiplication, said once for every backend.

    y = acc * (x_scale * weight_scale) + bias        float32; the caller has done this much
    y = y + residual                                 int8 codes times their scale, or float
    y = none | relu | hardtanh(lo, hi) of y
    out = y, or clamp(round_half_even(y * (1 / out_scale)), out_qmin, out_qmax)

Rounding is monotone, so an activation that only cuts values off may cut off codes instead:
``code_limits`` is what lets a kernel that knows neither the activation nor a narrow grid be
followed by one pass over bytes instead of four passes over floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qviz.errors import InputError
from qviz.int8.layout import is_dense

QMIN = -128
QMAX = 127
ACTIVATIONS = ("none", "relu", "hardtanh")

#: Elements per step when a tensor is too large for the cache: four passes over 1 MiB each cost less
#: than four passes over memory (measured: 2.7 instead of 4.2 ms for 6.4 million elements).
BLOCK = 1 << 18


class Epilogue(NamedTuple):
    """What a kernel does to its sums, in one value.

    A tuple because one is built for every call of an op: a frozen dataclass costs 1 us more.
    """

    activation: str = "none"
    args: Sequence[float] = ()
    out_scale: float | None = None
    qmin: int = QMIN
    qmax: int = QMAX
    residual_scale: float = 1.0


@cache
def reciprocal(scale: float) -> float:
    """``1 / scale`` in float32, as everywhere in qviz (affine.py)."""
    return float(np.float32(1) / np.float32(scale))


@cache
def _code(value: float, scale: float) -> int:
    """The code of one real value before clamping to a grid; saturates far outside int8."""
    scaled = np.rint(np.float32(value) * np.float32(reciprocal(scale)))
    return int(min(max(scaled, -1e6), 1e6))


def check_activation(activation: str, args: Sequence[float]) -> None:
    """Refuse an activation that no backend knows.

    Raises:
        InputError: an unknown name, or limits missing.
    """
    if activation not in ACTIVATIONS:
        raise InputError(
            f"activation {activation!r}", "not one of " + ", ".join(ACTIVATIONS), "Keep it float"
        )
    if activation == "hardtanh" and len(args) != 2:
        raise InputError(
            "activation 'hardtanh'", f"has {len(args)} arguments, not 2", "Give its two limits"
        )


def code_limits(then: Epilogue) -> tuple[int, int]:
    """The lowest and highest code that can follow ``then``, which has an ``out_scale``."""
    scale = then.out_scale
    if then.activation == "none" or scale is None:
        return then.qmin, then.qmax
    lo, hi = 0, QMAX
    if then.activation == "hardtanh":
        lo, hi = _code(then.args[0], scale), _code(then.args[1], scale)
    return min(max(lo, then.qmin), then.qmax), max(min(hi, then.qmax), then.qmin)


def activate_(y: Tensor, activation: str, args: Sequence[float]) -> Tensor:
    """Apply the activation to ``y`` in place."""
    if activation == "relu":
        return y.relu_()
    if activation == "hardtanh":
        return y.clamp_(args[0], args[1])
    return y


def _round_(y: Tensor, scaled: Tensor, inverse: float, qmin: int, qmax: int) -> Tensor:
    torch.mul(y, inverse, out=scaled)
    return scaled.round_().clamp_(qmin, qmax)


def round_to_codes(y: Tensor, scale: float, qmin: int = QMIN, qmax: int = QMAX) -> Tensor:
    """Codes of real values: clamp(round_half_even(y * (1 / scale)), qmin, qmax).

    Args:
        y: any float dtype, shape and memory format; not changed.
        scale: size of one step, in units of ``y``.
        qmin: lowest code.
        qmax: highest code.

    Returns:
        int8, the shape and memory format of ``y``.
    """
    y = y.to(torch.float32)
    inverse = reciprocal(scale)
    size = y.numel()
    if size < 4 * BLOCK or not is_dense(y) or y.device.type != "cpu":
        return y.mul(inverse).round_().clamp_(qmin, qmax).to(torch.int8)
    codes = torch.empty_like(y, dtype=torch.int8)
    source = y.as_strided((size,), (1,))
    target = codes.as_strided((size,), (1,))
    scratch = torch.empty(BLOCK)
    for part, out in zip(source.split(BLOCK), target.split(BLOCK), strict=True):
        out.copy_(_round_(part, scratch[: part.numel()], inverse, qmin, qmax))
    return codes


def dequantize(codes: Tensor, scale: float) -> Tensor:
    """Real values of int8 codes with zero point 0: float32, a new tensor."""
    return codes.to(torch.float32).mul_(scale)


def as_float(x: Tensor, scale: float) -> Tensor:
    """``x`` in float32, whether it is codes or real values; may be ``x`` itself."""
    return dequantize(x, scale) if x.dtype is torch.int8 else x.to(torch.float32)


def finish_(y: Tensor, residual: Tensor | None, then: Epilogue) -> Tensor:
    """Everything after the bias, for a backend that fuses none of it.

    Args:
        y: float32 and owned by the caller: it is overwritten.
        residual: broadcastable to ``y``; int8 codes or float.
        then: what to do.

    Returns:
        float32, or int8 codes.
    """
    if residual is not None:
        y.add_(as_float(residual, then.residual_scale))
    activate_(y, then.activation, then.args)
    return y if then.out_scale is None else round_to_codes(y, then.out_scale, then.qmin, then.qmax)
