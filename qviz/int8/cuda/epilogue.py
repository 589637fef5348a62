"""The end of every integer kernel: scale, bias, residual, activation, and out as codes or floats.

The order of the float32 operations is the contract's (qviz/int8/ops.py), and kernels are compiled
without contracting a multiplication and an addition into one rounding, so that the codes are those
of the CPU, bit for bit.
"""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.epilogue import Epilogue, reciprocal

#: Adding and subtracting 1.5 * 2**23 rounds a float32 below 2**22 to an integer, half to even.
#: The interpreter has no ``rint``; on a GPU it costs the same two instructions.
ROUNDER = tl.constexpr(12582912.0)
ACTIVATIONS = {"none": 0, "relu": 1, "hardtanh": 2}


class Finish(NamedTuple):
    """What follows a sum, as kernels take it.

    Attributes:
        residual: in the layout of the output; any tensor where there is none.
        numbers: residual_scale, 1 / out_scale, the activation's limits, the lowest and highest
            code.
        constants: which of these are used.
    """

    residual: Tensor
    numbers: tuple[float, ...]
    constants: dict[str, object]


def finish_arguments(then: Epilogue, residual: Tensor | None, instead: Tensor) -> Finish:
    """How a kernel is told what to do after the sum.

    Args:
        then: what to do.
        residual: in the layout of the output, or None.
        instead: a pointer to pass where there is no residual.
    """
    low, high = then.args if then.activation == "hardtanh" else (0.0, 0.0)
    inverse = 1.0 if then.out_scale is None else reciprocal(then.out_scale)
    kind = 0 if residual is None else 1 if residual.dtype is torch.int8 else 2
    return Finish(
        instead if residual is None else residual,
        (then.residual_scale, inverse, low, high, float(then.qmin), float(then.qmax)),
        {
            "RESIDUAL": kind,
            "ACTIVATION": ACTIVATIONS[then.activation],
            "CODES": then.out_scale is not None,
        },
    )


@triton.jit
def as_codes(y, inverse, qmin, qmax):
    """clamp(round_half_even(y * inverse), qmin, qmax); clamping first, which changes nothing."""
    scaled = tl.maximum(y * inverse, qmin, propagate_nan=tl.PropagateNan.ALL)
    scaled = tl.minimum(scaled, qmax, propagate_nan=tl.PropagateNan.ALL)
    return ((scaled + ROUNDER) - ROUNDER).to(tl.int8)


@triton.jit
def scaled(acc, scale_ptr, bias_ptr, x_scale, channel, mask, HAS_BIAS: tl.constexpr):
    """Real values of sums: times (x_scale * weight_scale), plus bias, per column."""
    scale = tl.load(scale_ptr + channel, mask=mask, other=0.0) * x_scale
    y = acc.to(tl.float32) * scale[None, :]
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(tl.float32)
        y = y + bias[None, :]
    return y


@triton.jit
def activated(y, low, high, ACTIVATION: tl.constexpr):
    """None, relu or hardtanh; a NaN of a float residual stays one, as everywhere in PyTorch."""
    if ACTIVATION == 1:
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if ACTIVATION == 2:
        y = tl.maximum(y, low, propagate_nan=tl.PropagateNan.ALL)
        y = tl.minimum(y, high, propagate_nan=tl.PropagateNan.ALL)
    return y


@triton.jit
def finish(
    y,
    out_ptr,
    residual_ptr,
    offsets,
    mask,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CODES: tl.constexpr,
):
    """Everything after the bias, and the store."""
    if RESIDUAL == 1:
        other = tl.load(residual_ptr + offsets, mask=mask, other=0)
        y = y + other.to(tl.float32) * residual_scale
    if RESIDUAL == 2:
        y = y + tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = activated(y, low, high, ACTIVATION)
    if CODES:
        tl.store(out_ptr + offsets, as_codes(y, inverse, qmin, qmax), mask=mask)
    else:
        tl.store(out_ptr + offsets, y.to(out_ptr.dtype.element_ty), mask=mask)


def pointer(x: Tensor | None, instead: Tensor) -> Any:  # noqa: ANN401 - whatever a kernel takes
    """``x``, or another tensor in the place of an argument that is not read."""
    return instead if x is None else x
