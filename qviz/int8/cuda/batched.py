"""Batched products of two activations in codes: attention's two matmuls, with any strides.

Heads are read where the projection left them: two batch dimensions with strides of their own, so
nothing is copied to bring them together.
"""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.cuda.epilogue import finish, finish_arguments
from qviz.int8.cuda.gemm import BAND, tile_of
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tiles import product_tiles
from qviz.int8.cuda.tuning import rounded_up
from qviz.int8.epilogue import Epilogue


@triton.jit
def int8_batched(
    a_ptr,
    b_ptr,
    out_ptr,
    M,
    N,
    K,
    inner,
    a_outer,
    a_inner,
    a_m,
    a_k,
    b_outer,
    b_inner,
    b_k,
    b_n,
    scale,
    residual_scale,
    inverse,
    low,
    high,
    qmin,
    qmax,
    CODES: tl.constexpr,
    WHOLE: tl.constexpr,
    BAND: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Factors [*, inner, M, K] and [*, inner, K, N], any strides; out contiguous."""
    rows, columns = (M + BM - 1) // BM, (N + BN - 1) // BN
    pid = tl.program_id(0)
    matrix = (pid // (rows * columns)).to(tl.int64)
    pm, pn = tile_of(pid % (rows * columns), rows, columns, BAND)
    m = pm * BM + tl.arange(0, BM)
    n = pn * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    a = a_ptr + (matrix // inner) * a_outer + (matrix % inner) * a_inner
    b = b_ptr + (matrix // inner) * b_outer + (matrix % inner) * b_inner
    a = a + (m % M).to(tl.int64)[:, None] * a_m + k[None, :] * a_k
    b = b + k[:, None] * b_k + (n % N).to(tl.int64)[None, :] * b_n
    acc = tl.full((BM, BN), 0, tl.int32)
    for start in range(0, K, BK):
        if WHOLE:
            left = tl.load(a)
            right = tl.load(b)
        else:
            within = k < K - start
            left = tl.load(a, mask=within[None, :], other=0)
            right = tl.load(b, mask=within[:, None], other=0)
        acc = tl.dot(left, right, acc, out_dtype=tl.int32)
        a += BK * a_k
        b += BK * b_k
    corner = (matrix * M + pm * BM) * N
    finish(
        acc.to(tl.float32) * scale,
        out_ptr + corner,
        out_ptr,
        tl.arange(0, BM)[:, None] * N + n[None, :],
        (m < M)[:, None] & (n < N)[None, :],
        residual_scale,
        inverse,
        low,
        high,
        qmin,
        qmax,
        0,
        0,
        CODES,
    )


def batched(a: Tensor, b: Tensor, scale: float, then: Epilogue, out: Tensor) -> Tensor:
    """Run the kernel.

    Args:
        a: int8 [B, H, M, K], any strides.
        b: int8 [B, H, K, N], any strides.
        scale: of the product.
        then: ``out_scale`` and its grid; nothing else is done.
        out: contiguous [B, H, M, N], written to.

    Returns:
        ``out``.
    """
    if out.numel() == 0:
        return out
    outer, inner, M, N = out.shape
    K = a.shape[-1]
    last = finish_arguments(then, None, out)
    call = Launch(
        int8_batched,
        (a, b, out, M, N, K, inner, *a.stride(), *b.stride(), scale, *last.numbers),
        {"CODES": last.constants["CODES"], "BAND": BAND},
        lambda t: (ceil_div(M, t["BM"]) * ceil_div(N, t["BN"]) * outer * inner,),
        product_tiles(M, N, K, times=outer * inner),
        f"{rounded_up(outer * inner)}x{M}x{N}x{K} {a.stride()[2:]} {b.stride()[2:]} {out.dtype}",
        lambda t: {"WHOLE": K % t["BK"] == 0},
    )
    run(call)
    return out
