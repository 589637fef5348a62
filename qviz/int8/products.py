"""Products and sums of two activations in int8: attention's matmul and the residual add.

There is no kernel of oneDNN's for either that can be trusted (``qadd`` reads unsigned bytes as
signed). A batched matmul is one ``torch._int_mm`` per matrix: 3 to 4 times faster than float32 for
attention, where packing one side for a linear layer costs more than the product. An add is a
convolution by ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.int8.epilogue import Epilogue
from qviz.int8.layout import is_dense
from qviz.int8.onednn import carried, conv
from qviz.int8.operands import Geometry, Weight
from qviz.int8.packing import packed_weight

INT_MM = torch.ops.aten._int_mm.out


def matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Matrix products of codes, times ``scale``: one int8 kernel per pair of matrices.

    Args:
        a: int8 [B, M, K], any strides.
        b: int8 [B, K, N], any strides.
        scale: of the product.

    Returns:
        float32 [B, M, N].
    """
    sums = torch.empty((*a.shape[:-1], b.shape[-1]), dtype=torch.int32)
    for left, right, out in zip(a.unbind(), b.unbind(), sums.unbind(), strict=True):
        INT_MM(left, right, out=out)
    # Not `sums * scale`: an int32 tensor times a Python float takes twenty times as long.
    return sums.to(torch.float32).mul_(scale)


#: Channel counts in which a flat tensor is handed to the convolution that adds.
WIDTHS = (64, 32, 16)
_ONES = {width: torch.ones(width, 1, 1, 1, dtype=torch.int8) for width in WIDTHS}
_UNIT = {width: torch.ones(width) for width in WIDTHS}
_POINT = Geometry((1, 1), (0, 0), (1, 1), 1)


def add(a: Tensor, a_scale: float, b: Tensor, then: Epilogue) -> Tensor | None:
    """Sum of two tensors of codes as codes: a convolution of ``a`` by ones that adds onto ``b``.

    One pass where float arithmetic takes five: 1.8 instead of 13.7 ms for 6.4 million elements.

    Args:
        a: int8, any dense layout.
        b: int8, the same shape.
        a_scale: of ``a``.
        then: with ``out_scale``; its ``residual_scale`` is the scale of ``b``.

    Returns:
        int8 in the layout of ``a``; None when the tensor cannot be cut into channels.
    """
    size = a.numel()
    width = next((width for width in WIDTHS if size % width == 0), None)
    if width is None or size == 0 or not is_dense(a):
        return None
    if a.stride() != b.stride():
        b = torch.empty_like(a).copy_(b)
    shape, stride = (1, width, size // width, 1), (size, 1, width, width)
    carrier = carried(a.as_strided(shape, stride), a_scale)
    weight = Weight(packed_weight(_ONES[width]), _UNIT[width], None)
    out = conv(carrier, weight, _POINT._replace(groups=width), then, b.as_strided(shape, stride))
    return out.as_strided(a.shape, a.stride())
