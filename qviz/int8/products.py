"""Products and sums of two activations in int8: attention's matmul and the residual add.

There is no kernel of oneDNN's for either that can be trusted (``qadd`` reads unsigned bytes as
signed). A batched matmul is one ``torch._int_mm`` per matrix: 3 to 4 times faster than float32 for
attention, where packing one side for a linear layer costs more than the product. An add is a
convolution by ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.int8.epilogue import Epilogue, reciprocal
from qviz.int8.layout import is_dense
from qviz.int8.onednn import carried, conv
from qviz.int8.operands import Geometry, Weight
from qviz.int8.packing import packed_weight

INT_MM = torch.ops.aten._int_mm.out
#: Sums held at a time: they are turned into floats or codes while they are in the cache.
MOST_SUMS = 1 << 17
#: Channels and row length in which a flat tensor is handed to the convolution that adds: the first
#: whose product divides its size. Short rows cost it twice the time.
CUTS = ((64, 64), (64, 32), (64, 16), (64, 8), (32, 8), (16, 8))
_ONES = {width: torch.ones(width, 1, 1, 1, dtype=torch.int8) for width in (64, 32, 16)}
_UNITS = {width: torch.ones(width) for width in _ONES}
_WINDOWS = {width: Geometry((1, 1), (0, 0), (1, 1), width) for width in _ONES}


def matmul(a: Tensor, b: Tensor, scale: float, then: Epilogue) -> Tensor:
    """Matrix products of codes, times ``scale``: one int8 kernel per pair of matrices.

    Args:
        a: int8 [B, M, K], any strides.
        b: int8 [B, K, N], any strides.
        scale: of the product.
        then: ``out_scale`` and its grid.

    Returns:
        [B, M, N]: float32, or int8 codes.
    """
    size = (a.shape[0], a.shape[1], b.shape[2])
    dtype = torch.float32 if then.out_scale is None else torch.int8
    out = torch.empty(size, dtype=dtype)
    step = max(1, MOST_SUMS // max(1, size[1] * size[2]))
    most = (min(step, size[0]), *size[1:])
    sums = torch.empty(most, dtype=torch.int32)
    reals = None if then.out_scale is None else torch.empty(most)
    parts = zip(a.split(step), b.split(step), out.split(step), strict=True)
    for lefts, rights, target in parts:
        held = sums[: target.shape[0]]
        for left, right, into in zip(lefts, rights, held, strict=True):
            INT_MM(left, right, out=into)
        # Not `sums * scale`: an int32 tensor times a Python float takes twenty times as long.
        real = (target if reals is None else reals[: target.shape[0]]).copy_(held).mul_(scale)
        if then.out_scale is not None:
            real.mul_(reciprocal(then.out_scale)).round_()
            target.copy_(real.clamp_(then.qmin, then.qmax))
    return out


def add(a: Tensor, a_scale: float, b: Tensor, then: Epilogue) -> Tensor | None:
    """Sum of two tensors of codes as codes: a convolution of ``a`` by ones that adds onto ``b``.

    One pass where float arithmetic takes five: 3 instead of 11 ms for 6.4 million elements.

    Args:
        a: int8, any dense layout.
        b: int8, the same shape.
        a_scale: of ``a``.
        then: with ``out_scale``; its ``residual_scale`` is the scale of ``b``.

    Returns:
        int8 in the layout of ``a``; None when the tensor cannot be cut into channels.
    """
    size = a.numel()
    cut = next((cut for cut in CUTS if size % (cut[0] * cut[1]) == 0), None)
    if cut is None or size == 0 or not is_dense(a):
        return None
    if a.stride() != b.stride():
        b = torch.empty_like(a).copy_(b)
    width, row = cut
    shape = (1, width, size // (width * row), row)
    stride = (size, 1, width * row, width)
    carrier = carried(a.as_strided(shape, stride), a_scale)
    weight = Weight(packed_weight(_ONES[width]), _UNITS[width], None)
    out = conv(carrier, weight, _WINDOWS[width], then, b.as_strided(shape, stride))
    return out.as_strided(a.shape, a.stride())
