"""How a tensor lies in memory: sample by sample, so that it can be walked without a copy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.errors import ShapeError


@dataclass(frozen=True)
class Layout:
    """A tensor as one row of memory.

    Args:
        samples: number of samples.
        size: values per sample, contiguous.
        channels: number of channels, None where they are not told apart.
        inner: values in a row that belong to one channel; value i of a sample belongs to channel
            (i // inner) % channels.
    """

    samples: int
    size: int
    channels: int | None
    inner: int


def flatten(x: Tensor, channel_dim: int | None, batch_dim: int | None) -> tuple[Tensor, Layout]:
    """``x`` in the order of its memory, samples outermost; a copy only where that has gaps.

    Contiguous and channels-last tensors are both walked as they lie.

    Args:
        x: any shape.
        channel_dim: axis of the channels, None not to tell them apart.
        batch_dim: axis of the samples, None where ``x`` is one sample.

    Returns:
        A view (or copy) of shape [x.numel()] and where samples and channels are in it.

    Raises:
        ShapeError: an axis ``x`` does not have, or one axis for both.
    """
    batch, channel = _axis(x, batch_dim, "batch"), _axis(x, channel_dim, "channel")
    if batch is not None and batch == channel:
        raise ShapeError(
            f"tensor of shape {list(x.shape)}",
            f"axis {batch} cannot hold both samples and channels",
            "Pass channel_dim=None or batch_dim=None",
        )
    rest = [d for d in range(x.dim()) if d != batch]
    rest.sort(key=x.stride().__getitem__, reverse=True)
    order = rest if batch is None else [batch, *rest]
    memory = x.permute(order).contiguous()
    samples = 1 if batch is None else x.shape[batch]
    size = x.numel() // samples if samples else 0
    if channel is None:
        return memory.view(-1), Layout(samples, size, None, max(size, 1))
    behind = order[order.index(channel) + 1 :]
    inner = math.prod(x.shape[d] for d in behind)
    return memory.view(-1), Layout(samples, size, x.shape[channel], max(inner, 1))


def _axis(x: Tensor, axis: int | None, kind: str) -> int | None:
    if axis is None:
        return None
    if not -x.dim() <= axis < x.dim():
        raise ShapeError(
            f"tensor of shape {list(x.shape)}",
            f"has no axis {axis} for its {kind}",
            f"Pass {kind}_dim=None or an axis it has",
        )
    return axis % x.dim()


def as_floats(x: Tensor) -> Tensor:
    """Detached float32 of any number type; complex numbers have no order and are refused."""
    if x.is_complex():
        raise ShapeError("complex tensor", "has no order to bin", "Observe its real part")
    return x.detach().to(torch.float32)
