"""2d convolutions of codes as matrix products whose left operand is never written down.

Channels last. Row m of the product is an output pixel; along k lie the kernel's positions, and at
each position the input channels of the group. ``int8_conv`` walks one position and a block of
channels at a time, in wide loads; ``int8_conv_gathered`` takes any number of channels (an image's
3, a group's 4) and reads byte by byte.
"""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.cuda import weights
from qviz.int8.cuda.epilogue import finish, finish_arguments, pointer, scaled
from qviz.int8.cuda.gemm import BAND, tile_of
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tiles import gathered_tiles, is_hopper, product_tiles
from qviz.int8.cuda.tuning import rounded_up
from qviz.int8.epilogue import Epilogue
from qviz.int8.operands import Geometry


@triton.jit
def int8_conv(
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
    CG,
    NG,
    ldw,
    x_scale,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
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
    WHOLE: tl.constexpr,
    UNIT: tl.constexpr,
    BAND: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Input [*, H, W, C] by weight [N, R * S * CG]; out and residual are [M = * P Q, N].

    C and CG = C / groups are given in units of UNIT bytes: that they are multiples of it is what
    lets Triton read so many bytes at a time.
    """
    C, CG = C * UNIT, CG * UNIT
    group = tl.program_id(1)
    rows, columns = (M + BM - 1) // BM, (NG + BN - 1) // BN
    pm, pn = tile_of(tl.program_id(0), rows, columns, BAND)
    m = pm * BM + tl.arange(0, BM)
    n = pn * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pixel = m % M
    top = ((pixel // Q) % P) * SH - PH
    left = (pixel % Q) * SW - PW
    image = (pixel // (P * Q)).to(tl.int64) * H * W * C + group * CG
    w_row = w_ptr + (group * NG + n % NG).to(tl.int64) * ldw
    acc = tl.full((BM, BN), 0, tl.int32)
    blocks = (CG + BK - 1) // BK
    for step in range(0, R * S * blocks):
        position = step // blocks
        first = tl.multiple_of((step % blocks) * BK, BK)
        h = top + (position // S) * DH
        w = left + (position % S) * DW
        inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x = x_ptr + (image + (h * W + w).to(tl.int64) * C)[:, None] + first + k[None, :]
        weight = w_row[None, :] + position * CG + first + k[:, None]
        # A code of 0 is a real 0: what lies outside the image is padding.
        if WHOLE:
            a = tl.load(x, mask=inside[:, None], other=0)
            b = tl.load(weight)
        else:
            within = k < CG - first
            a = tl.load(x, mask=inside[:, None] & within[None, :], other=0)
            b = tl.load(weight, mask=within[:, None], other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
    channel = group * NG + n
    y = scaled(acc, scale_ptr, bias_ptr, x_scale, channel, n < NG, HAS_BIAS)
    corner = (pm * BM).to(tl.int64) * N
    finish(
        y,
        out_ptr + corner,
        residual_ptr + corner,
        tl.arange(0, BM)[:, None] * N + channel[None, :],
        (m < M)[:, None] & (n < NG)[None, :],
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


@triton.jit
def int8_conv_gathered(
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
    NG,
    ldw,
    x_scale,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
    CG: tl.constexpr,
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
    BAND: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """``int8_conv`` whose blocks run on across kernel positions, element by element."""
    group = tl.program_id(1)
    rows, columns = (M + BM - 1) // BM, (NG + BN - 1) // BN
    pm, pn = tile_of(tl.program_id(0), rows, columns, BAND)
    m = pm * BM + tl.arange(0, BM)
    n = pn * BN + tl.arange(0, BN)
    pixel = m % M
    top = ((pixel // Q) % P) * SH - PH
    left = (pixel % Q) * SW - PW
    image = (pixel // (P * Q)).to(tl.int64) * H * W * C + group * CG
    w_row = w_ptr + (group * NG + n % NG).to(tl.int64) * ldw
    acc = tl.full((BM, BN), 0, tl.int32)
    for start in range(0, R * S * CG, BK):
        k = start + tl.arange(0, BK)
        position = k // CG
        h = top[:, None] + ((position // S) * DH)[None, :]
        w = left[:, None] + ((position % S) * DW)[None, :]
        within = k < R * S * CG
        inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & within[None, :]
        x = x_ptr + image[:, None] + ((h * W + w) * C + (k % CG)[None, :])
        a = tl.load(x, mask=inside, other=0)
        b = tl.load(w_row[None, :] + k[:, None], mask=within[:, None], other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
    channel = group * NG + n
    y = scaled(acc, scale_ptr, bias_ptr, x_scale, channel, n < NG, HAS_BIAS)
    corner = (pm * BM).to(tl.int64) * N
    finish(
        y,
        out_ptr + corner,
        residual_ptr + corner,
        tl.arange(0, BM)[:, None] * N + channel[None, :],
        (m < M)[:, None] & (n < NG)[None, :],
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


#: Fewer channels than this leave most of a block of ``int8_conv`` empty.
FEWEST = 16


def takes_blocks(per_group: int) -> bool:
    """Whether ``int8_conv`` is for so many channels per group, rather than the gathering kernel."""
    return per_group >= FEWEST and weights.unit(per_group) >= weights.WORD


def window(kernel: tuple[int, int], how: Geometry) -> dict[str, object]:
    """A 2d window as constants of a kernel."""
    names = ("R", "S", "SH", "SW", "PH", "PW", "DH", "DW")
    return dict(zip(names, (*kernel, *how.stride, *how.padding, *how.dilation), strict=True))


def convolution(
    x: Tensor,
    x_scale: float,
    rows: Tensor,
    kernel: tuple[int, int],
    scale: Tensor,
    bias: Tensor | None,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Run one of the kernels: the gathering one where channels are few or no multiple of 4.

    Args:
        x: int8 [B, C, H, W], channels last in memory.
        x_scale: of ``x``.
        rows: int8 [N, R * S * C / groups or longer] (weights.py).
        kernel: R and S.
        scale: of the weight, float32 [N].
        bias: [N], any float type.
        how: the window.
        then: what follows the sum.
        residual: like ``out`` in shape and layout, or None.
        out: [B, N, P, Q], channels last in memory, written to.

    Returns:
        ``out``.
    """
    if out.numel() == 0:
        return out
    batch, N, P, Q = out.shape
    C, H, W = x.shape[1:]
    CG, NG, M = C // how.groups, N // how.groups, batch * P * Q
    unit = weights.unit(CG)
    wide = takes_blocks(CG)
    if wide:
        widest = residual is None and is_hopper(x)
        tiles = product_tiles(M, NG, CG, times=how.groups, wide=widest)
    else:
        tiles = gathered_tiles(M, NG, times=how.groups)
    last = finish_arguments(then, residual, scale)
    constants = {
        "HAS_BIAS": bias is not None,
        "BAND": BAND,
        **window(kernel, how),
        **last.constants,
    }
    call = Launch(
        int8_conv if wide else int8_conv_gathered,
        (
            x, rows, scale, pointer(bias, scale), last.residual, out,
            M, H, W, C // unit if wide else C, P, Q, N, *((CG // unit,) if wide else ()), NG,
            rows.stride(0), x_scale, *last.numbers,
        ),
        {**constants, **({"UNIT": unit} if wide else {"CG": CG})},
        lambda t: (ceil_div(M, t["BM"]) * ceil_div(NG, t["BN"]), how.groups),
        tiles,
        f"{rounded_up(batch)}x{C}x{H}x{W} {N}x{kernel} {tuple(how)} {out.dtype}",
        (lambda t: {"WHOLE": CG % t["BK"] == 0}) if wide else lambda t: {},
    )  # fmt: skip
    run(call)
    return out
