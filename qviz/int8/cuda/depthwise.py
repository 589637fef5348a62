"""Depthwise 2d convolutions of codes: every input channel has filters of its own.

There is nothing to multiply as matrices: plain integer arithmetic on channels that are neighbours
in memory, bound by reading them.
"""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.cuda.conv import window
from qviz.int8.cuda.epilogue import finish, finish_arguments, pointer, scaled
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tuning import Tile, rounded_up
from qviz.int8.epilogue import Epilogue
from qviz.int8.operands import Geometry

TILES = tuple(
    Tile(("BM", "BC"), (bm, bc), warps, 1)
    for bm, bc, warps in ((32, 64, 4), (16, 128, 4), (64, 32, 4), (16, 64, 2), (8, 128, 2))
)


@triton.jit
def int8_depthwise(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    M,
    H,
    W,
    C,
    P,
    Q,
    N,
    x_scale,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
    MULTIPLIER: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CODES: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Input [*, H, W, C] by [R * S, N = C * MULTIPLIER]; out and residual are [M = * P Q, N]."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BC + tl.arange(0, BC)
    pixel = m % M
    top = ((pixel // Q) % P) * SH - PH
    left = (pixel % Q) * SW - PW
    image = (pixel // (P * Q)).to(tl.int64) * H * W * C
    # Dividing by 1 would hide from Triton that neighbouring channels are neighbours.
    channel = n if MULTIPLIER == 1 else n // MULTIPLIER
    acc = tl.full((BM, BC), 0, tl.int32)
    for position in range(0, R * S):
        h = top + (position // S) * DH
        w = left + (position % S) * DW
        inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x = x_ptr + (image + (h * W + w).to(tl.int64) * C)[:, None] + channel[None, :]
        a = tl.load(x, mask=inside[:, None] & (n < N)[None, :], other=0)
        b = tl.load(w_ptr + position * N + n, mask=n < N, other=0)
        acc += a.to(tl.int32) * b.to(tl.int32)[None, :]
    y = scaled(acc, scale_ptr, bias_ptr, x_scale, n, n < N, HAS_BIAS)
    corner = (tl.program_id(0) * BM).to(tl.int64) * N
    finish(
        y,
        out_ptr + corner,
        residual_ptr + corner,
        tl.arange(0, BM)[:, None] * N + n[None, :],
        (m < M)[:, None] & (n < N)[None, :],
        residual_scale,
        inverse,
        low,
        high,
        qmin,
        qmax,
        RESIDUAL,
        ACTIVATION,
        CODES,
    )


def depthwise(
    x: Tensor,
    x_scale: float,
    taps: Tensor,
    kernel: tuple[int, int],
    scale: Tensor,
    bias: Tensor | None,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Run the kernel; arguments as of ``conv.convolution``, but ``taps`` is int8 [R * S, N]."""
    if out.numel() == 0:
        return out
    batch, N, P, Q = out.shape
    C, H, W = x.shape[1:]
    M = batch * P * Q
    last = finish_arguments(then, residual, scale)
    call = Launch(
        int8_depthwise,
        (
            x, taps, scale, pointer(bias, scale), last.residual, out,
            M, H, W, C, P, Q, N, x_scale, *last.numbers,
        ),
        {
            "MULTIPLIER": N // C,
            "HAS_BIAS": bias is not None,
            **window(kernel, how),
            **last.constants,
        },
        lambda t: (ceil_div(M, t["BM"]), ceil_div(N, t["BC"])),
        TILES,
        f"{rounded_up(batch)}x{C}x{H}x{W} {N}x{kernel} {tuple(how)} {out.dtype}",
    )  # fmt: skip
    run(call)
    return out
