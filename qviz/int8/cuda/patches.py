"""Any convolution as a matrix product, by writing every window down; transposed ones as plain ones.

The slow and general way: a window's codes are copied as often as windows overlap. It takes any
number of dimensions, and is exact because codes are only moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.int8.layout import keeps_channels_last
from qviz.int8.operands import Geometry

#: Bytes of windows written down at a time.
MOST_BYTES = 1 << 28


def patches(x: Tensor, kernel: Sequence[int], how: Geometry) -> Tensor:
    """The windows of a convolution.

    Args:
        x: int8 [B, C, *in], any layout.
        kernel: its sizes.
        how: the window.

    Returns:
        int8 [groups, B * out, kernel positions * C / groups], in the order of ``weights.rows``.
    """
    groups = how.groups
    pads = [0, 0, *(p for size in reversed(how.padding) for p in (size, size))]
    last = F.pad(x.movedim(1, -1), pads).contiguous()
    sizes = how.out_size(x.shape[2:], kernel)
    batch, *steps, _ = last.stride()
    per_group = x.shape[1] // groups
    windows = last.as_strided(
        (groups, x.shape[0], *sizes, *kernel, per_group),
        (
            per_group,
            batch,
            *(s * n for s, n in zip(steps, how.stride, strict=True)),
            *(s * n for s, n in zip(steps, how.dilation, strict=True)),
            1,
        ),
    )
    depth = torch.Size(kernel).numel() * per_group
    return windows.reshape(groups, x.shape[0] * torch.Size(sizes).numel(), depth)


def in_parts(x: Tensor, kernel: Sequence[int], how: Geometry) -> Iterator[Tensor]:
    """``x`` in pieces of the batch whose windows fit in memory; at least one image each."""
    pixels = torch.Size(how.out_size(x.shape[2:], kernel)).numel()
    image = max(1, pixels * torch.Size(kernel).numel() * x.shape[1])
    yield from x.split(max(1, MOST_BYTES // image))


def spread(
    x: Tensor, kernel: Sequence[int], how: Geometry, output_padding: Sequence[int]
) -> tuple[Tensor, Geometry]:
    """Input and window of the convolution by the flipped weight that equals a transposed one.

    Between neighbours of ``x`` come ``stride - 1`` zeros, at its end ``output_padding`` of them.

    Args:
        x: int8 [B, C, *in].
        kernel: its sizes.
        how: the transposed convolution's window.
        output_padding: one number per dimension.
    """
    extra = list(output_padding)
    extra = extra if len(extra) == len(kernel) else extra * len(kernel)
    sizes = [(n - 1) * s + 1 + e for n, s, e in zip(x.shape[2:], how.stride, extra, strict=True)]
    wide = x.new_zeros((*x.shape[:2], *sizes))
    if keeps_channels_last(x) and x.dim() == 4:
        wide = wide.contiguous(memory_format=torch.channels_last)
    inner = wide
    for i, (n, s) in enumerate(zip(x.shape[2:], how.stride, strict=True)):
        inner = inner.narrow(2 + i, 0, (n - 1) * s + 1)[
            (slice(None),) * (2 + i) + (slice(None, None, s),)
        ]
    inner.copy_(x)
    pads = [d * (k - 1) - p for d, k, p in zip(how.dilation, kernel, how.padding, strict=True)]
    if min(pads) < 0:  # the window cuts off what lies at the border
        wide = F.pad(wide, [p for size in reversed(pads) for p in (min(size, 0),) * 2])
    ones = [1] * len(kernel)
    return wide, Geometry(ones, [max(p, 0) for p in pads], how.dilation, how.groups)
