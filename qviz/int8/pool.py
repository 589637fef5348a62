"""Max-pooling of int8 codes: ``qviz::max_pool``, which PyTorch lacks.

The largest code is the code of the largest value, so pooling on codes is exact. PyTorch's own
``max_pool2d`` refuses channels-last int8 above 127 pixels, and its 1d and adaptive forms know no
int8 at all. Windows are separable, so this takes one ``maximum`` per kernel position and
dimension, on bytes: less than half the time of pooling floats.

Importing this module registers the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.int8 import cuda
from qviz.int8 import int4 as _int4  # noqa: F401 - one import is all that a saved program needs
from qviz.int8.epilogue import QMIN
from qviz.int8.ops import LIBRARY

_FLOAT = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

LIBRARY.define(
    "max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, "
    "bool ceil_mode) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _in_float(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    pool = _FLOAT[len(kernel)]
    pooled: Tensor = pool(
        x.to(torch.float32), list(kernel), list(stride), list(padding), list(dilation), ceil_mode
    )
    return pooled.to(torch.int8)


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Max-pooling over the last ``len(kernel)`` axes.

    Args:
        x: int8 [N, C, *in], any layout.
        kernel: one number per pooled axis; so are the following.
        stride: of the windows.
        padding: on both sides, with the lowest code, which no window consists of.
        dilation: distance of the elements of a window.
        ceil_mode: whether a window may hang over the end.

    Returns:
        int8 [N, C, *out] in the layout of ``x``.
    """
    if ceil_mode:
        return _in_float(x, kernel, stride, padding, dilation, ceil_mode)
    dims = len(kernel)
    if any(padding):
        x = F.pad(x, [p for p in reversed(padding) for _ in (0, 1)], value=QMIN)
    for i in range(dims):
        axis = x.dim() - dims + i
        count = (x.shape[axis] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        span = (count - 1) * stride[i] + 1
        best: Tensor | None = None
        for k in range(kernel[i]):
            first = k * dilation[i]
            part = torch.ops.aten.slice.Tensor(x, axis, first, first + span, stride[i])
            best = part if best is None else torch.maximum(best, part)
        assert best is not None  # a kernel has at least one element
        x = best
    if x.dim() == 4 and x.stride(1) == 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def out_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Number of windows along one axis: a last one that hangs over must begin inside."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - ((count - 1) * stride >= size + padding)


LIBRARY.impl("max_pool", max_pool, "CompositeExplicitAutograd")
cuda.register(LIBRARY, "max_pool")
torch.library.register_fake("qviz::max_pool", _in_float, lib=LIBRARY)
