"""Codes from floats, floats from codes, and sums of two tensors: one pass over memory each."""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.cuda.epilogue import as_codes, finish, finish_arguments
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tuning import Tile
from qviz.int8.epilogue import Epilogue, reciprocal

#: 16 bytes of int8 and four loads of float32 per thread.
TILES = (Tile(("BLOCK",), (2048,), 4, 1),)


@triton.jit
def int8_quantize(x_ptr, out_ptr, size, inverse, qmin, qmax, BLOCK: tl.constexpr):
    """clamp(round_half_even(x * inverse), qmin, qmax)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < size, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, as_codes(x, inverse, qmin, qmax), mask=i < size)


@triton.jit
def int8_dequantize(q_ptr, out_ptr, size, scale, BLOCK: tl.constexpr):
    """Codes times their scale."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(q_ptr + i, mask=i < size, other=0).to(tl.float32) * scale
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=i < size)


@triton.jit
def int8_add(
    a_ptr,
    b_ptr,
    out_ptr,
    size,
    a_scale,
    b_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
    A_CODES: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum of two tensors, each codes times a scale, or float."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(a_ptr + i, mask=i < size, other=0).to(tl.float32)
    if A_CODES:
        y = y * a_scale
    finish(
        y,
        out_ptr,
        b_ptr,
        i,
        i < size,
        b_scale,
        inverse,
        low,
        high,
        qmin,
        qmax,
        RESIDUAL,
        ACTIVATION,
        CODES,
    )


def _launch(
    kernel: object, size: int, arguments: tuple[object, ...], constants: dict[str, object]
) -> None:
    if size:
        run(
            Launch(kernel, arguments, constants, lambda t: (ceil_div(size, t["BLOCK"]),), TILES, "")
        )


def quantize(x: Tensor, scale: float, qmin: int, qmax: int, out: Tensor) -> Tensor:
    """Codes of ``x`` into ``out``; both dense and with the same strides."""
    numbers = (reciprocal(scale), float(qmin), float(qmax))
    _launch(int8_quantize, x.numel(), (x, out, x.numel(), *numbers), {})
    return out


def dequantize(codes: Tensor, scale: float, out: Tensor) -> Tensor:
    """Real values of ``codes`` into ``out``; both dense and with the same strides."""
    _launch(int8_dequantize, codes.numel(), (codes, out, codes.numel(), scale), {})
    return out


def add(a: Tensor, a_scale: float, b: Tensor, then: Epilogue, out: Tensor) -> Tensor:
    """Sum into ``out``; all dense and with the same strides.

    Args:
        a: codes or floats.
        a_scale: of codes.
        b: codes or floats.
        then: what follows the sum; its ``residual_scale`` is the scale of ``b``.
        out: written to.
    """
    last = finish_arguments(then, b, b)
    arguments = (a, b, out, a.numel(), a_scale, *last.numbers)
    _launch(
        int8_add, a.numel(), arguments, {"A_CODES": not a.is_floating_point(), **last.constants}
    )
    return out
