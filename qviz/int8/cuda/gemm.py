"""Matrix products of codes by a weight: linear layers, 1x1 convolutions, patches of any other.

    out[m, n] = finish(sum_k x[m, k] * w[n, k])

Both operands are read along k, 16 bytes at a time where rows begin at multiples of 16 bytes.
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
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tiles import is_hopper, product_tiles
from qviz.int8.cuda.tuning import rounded_up
from qviz.int8.epilogue import Epilogue

#: Rows of tiles that are worked on together, so that they share columns in the GPU's cache.
BAND = 8


@triton.jit
def tile_of(pid, rows, columns, BAND: tl.constexpr):
    """Row and column of a tile: down a band of rows, then the next column of the band."""
    size = BAND * columns
    first = (pid // size) * BAND
    height = tl.minimum(rows - first, BAND)
    inside = pid % size
    return first + inside % height, inside // height


@triton.jit
def int8_gemm(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    M,
    N,
    K,
    ldx,
    ldw,
    x_scale,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
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
    """Rows [M, K] by rows [N, K], ``ldx`` and ``ldw`` apart; out and residual are [M, N].

    K and ldx are given in units of UNIT bytes: that they are multiples of it is what lets Triton
    read so many bytes at a time.
    """
    K, ldx = K * UNIT, ldx * UNIT
    rows, columns = (M + BM - 1) // BM, (N + BN - 1) // BN
    pm, pn = tile_of(tl.program_id(0), rows, columns, BAND)
    m = pm * BM + tl.arange(0, BM)
    n = pn * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    # Rows beyond the end read the first ones again and are not stored: no mask in the loop.
    x = x_ptr + (m % M).to(tl.int64)[:, None] * ldx + k[None, :]
    w = w_ptr + (n % N).to(tl.int64)[None, :] * ldw + k[:, None]
    acc = tl.full((BM, BN), 0, tl.int32)
    for start in range(0, K, BK):
        if WHOLE:
            a = tl.load(x)
            b = tl.load(w)
        else:
            left = k < K - start
            a = tl.load(x, mask=left[None, :], other=0)
            b = tl.load(w, mask=left[:, None], other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        x += BK
        w += BK
    y = scaled(acc, scale_ptr, bias_ptr, x_scale, n, n < N, HAS_BIAS)
    # The tile's corner in 64 bits, offsets inside in 32: a register less for every element.
    corner = (pm * BM).to(tl.int64) * N
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


def gemm(
    x: Tensor,
    x_scale: float,
    rows: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    then: Epilogue,
    residual: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Run the kernel.

    Args:
        x: int8 [M, K], last stride 1; K and the distance of rows as multiples of 16 are best.
        x_scale: of ``x``.
        rows: int8 [N, K] or with longer rows, last stride 1 (weights.py).
        scale: of the weight, float32 [N].
        bias: [N], any float type.
        then: what follows the sum.
        residual: contiguous [M, N], or None.
        out: contiguous [M, N], written to.

    Returns:
        ``out``.
    """
    (M, K), N = x.shape, out.shape[1]
    if out.numel() == 0:
        return out
    unit = weights.unit(K, x.stride(0))
    last = finish_arguments(then, residual, scale)
    call = Launch(
        int8_gemm,
        (
            x, rows, scale, pointer(bias, scale), last.residual, out,
            M, N, K // unit, x.stride(0) // unit, rows.stride(0), x_scale, *last.numbers,
        ),
        {"HAS_BIAS": bias is not None, "UNIT": unit, "BAND": BAND, **last.constants},
        lambda t: (ceil_div(M, t["BM"]) * ceil_div(N, t["BN"]),),
        product_tiles(M, N, K, wide=residual is None and is_hopper(x)),
        f"{rounded_up(M)}x{N}x{K} {out.dtype}",
        lambda t: {"WHOLE": K % t["BK"] == 0},
    )  # fmt: skip
    run(call)
    return out
