"""Max-pooling of codes in one pass: a window's largest code is the code of its largest value."""

# Triton compiles the decorated functions: their arguments are pointers and blocks of its own.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qviz.int8.cuda.conv import window
from qviz.int8.cuda.launch import Launch, ceil_div, run
from qviz.int8.cuda.tuning import Tile
from qviz.int8.operands import Geometry

TILES = (Tile(("BLOCK",), (1024,), 4, 1),)


@triton.jit
def int8_max_pool(
    x_ptr,
    out_ptr,
    size,
    H,
    W,
    C,
    P,
    Q,
    image,
    plane,
    line,
    column,
    LAST: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Input with its four strides; out dense, channels LAST or not."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        c = i % C
        q = (i // C) % Q
        p = (i // C // Q) % P
    else:
        q = i % Q
        p = (i // Q) % P
        c = (i // Q // P) % C
    start = x_ptr + (i // C // P // Q) * image + c * plane
    top, left = p * SH - PH, q * SW - PW
    best = tl.full((BLOCK,), -128, tl.int8)
    for position in range(0, R * S):
        h = top + (position // S) * DH
        w = left + (position % S) * DW
        inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & (i < size)
        code = tl.load(start + h * line + w * column, mask=inside, other=-128)
        best = tl.maximum(best, code)
    tl.store(out_ptr + i, best, mask=i < size)


def max_pool(x: Tensor, kernel: tuple[int, int], how: Geometry, out: Tensor) -> Tensor:
    """Run the kernel.

    Args:
        x: int8 [B, C, H, W], any strides.
        kernel: R and S.
        how: the windows, one group.
        out: int8 [B, C, P, Q], contiguous or channels last; its size says where windows end, those
            that hang over the end included.

    Returns:
        ``out``.
    """
    if out.numel() == 0:
        return out
    size, (C, H, W), (P, Q) = out.numel(), x.shape[1:], out.shape[2:]
    call = Launch(
        int8_max_pool,
        (x, out, size, H, W, C, P, Q, *x.stride()),
        {"LAST": not out.is_contiguous(), **window(kernel, how)},
        lambda t: (ceil_div(size, t["BLOCK"]),),
        TILES,
        "",
    )
    run(call)
    return out
