"""Which memory layout a convolution answers in: the same rule for kernels and for shape rules."""

from __future__ import annotations

import torch
from torch import Tensor


def keeps_channels_last(x: Tensor) -> bool:
    """Whether a convolution of ``x`` answers channels last.

    The strides tell the layouts apart even where ``is_contiguous`` says yes to both: for a single
    channel or a single pixel.
    """
    dims = x.dim()
    if dims not in (4, 5) or x.stride(1) != 1 or x.stride(-1) != x.shape[1]:
        return False
    return x.is_contiguous(
        memory_format=torch.channels_last if dims == 4 else torch.channels_last_3d
    )


def laid_out(out: Tensor, like: Tensor) -> Tensor:
    """``out`` in the layout that a convolution of ``like`` answers with."""
    if not keeps_channels_last(like):
        return out.contiguous()
    return out.contiguous(
        memory_format=torch.channels_last if out.dim() == 4 else torch.channels_last_3d
    )


def is_dense(x: Tensor) -> bool:
    """Whether the elements of ``x`` fill one stretch of memory in a known order."""
    if x.is_contiguous():
        return True
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
