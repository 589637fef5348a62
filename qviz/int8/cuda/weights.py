"""Weights as the kernels read them: made once per weight and kept as long as it is there.

A form is never the weight itself: the cache would then keep alive what it waits for to die.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from qviz.int8.packing import PackedWeight, packed_weight

#: Bytes of the widest load; rows begin at multiples of it.
ALIGNED = 16
#: Bytes of the narrowest load that can be on its way while others are computed with.
WORD = 4


def aligned(length: int) -> int:
    """``length`` rounded up to whole loads."""
    return -(-length // ALIGNED) * ALIGNED


def rows(packed: PackedWeight) -> Tensor:
    """One row per output channel, in the order kernel position, then input channel.

    Args:
        packed: of a weight [N, K] or [N, C / groups, *kernel].

    Returns:
        int8 [N, K rounded up to 16], zeros at the end.
    """
    weight = packed.weight
    if weight.dim() == 2 and weight.shape[1] % ALIGNED == 0 and weight.is_contiguous():
        return weight

    def make() -> Tensor:
        last = weight.flatten(2).transpose(1, 2) if weight.dim() > 2 else weight
        flat = last.reshape(weight.shape[0], -1)
        return F.pad(flat, (0, aligned(flat.shape[1]) - flat.shape[1])).contiguous()

    return packed.form("rows", make)


def taps(packed: PackedWeight) -> Tensor:
    """A depthwise weight [N, 1, *kernel] as int8 [kernel positions, N]: neighbours are channels."""
    made: Tensor = packed.form("taps", lambda: packed.weight.flatten(1).t().contiguous())
    return made


def flipped(packed: PackedWeight, groups: int) -> Tensor:
    """The convolution weight [N, C / groups, *kernel] that does what a transposed one does.

    Args:
        packed: of a weight [C, N / groups, *kernel].
        groups: of the transposed convolution.
    """

    def make() -> Tensor:
        weight = packed.weight
        parts = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        turned: Tensor = parts.flatten(0, 1).flip(tuple(range(2, weight.dim())))
        return turned.contiguous()

    return packed.form(("flipped", groups), make)


def prepare(kernel: str, weight: Tensor, groups: int) -> None:
    """Make the form that the calls of an operator with this weight will read.

    Args:
        kernel: ``linear``, ``conv`` or ``conv_transpose``.
        weight: int8, as the operator takes it.
        groups: of the convolution.
    """
    packed = packed_weight(weight)
    if kernel == "conv_transpose":
        packed = packed_weight(flipped(packed, groups))
    plain = packed.weight
    if kernel != "linear" and groups > 1 and plain.shape[1] == 1 and plain.dim() < 5:
        taps(packed)
    else:
        rows(packed)


def unit(*lengths: int) -> int:
    """Bytes of the widest load that begins at multiples of all ``lengths``: 16, 8, 4, 2 or 1."""
    return math.gcd(ALIGNED, *lengths)


def unaligned(x: Tensor) -> str | None:
    """Why the rows of ``x`` cannot be read in words; None if they can."""
    if x.stride(-1) != 1:
        return "its rows are not contiguous"
    if unit(x.shape[1], x.stride(0)) < WORD:
        return f"K = {x.shape[1]} is not a multiple of {WORD}"
    if x.device.type != "meta" and x.data_ptr() % ALIGNED:
        return f"its memory does not begin at a multiple of {ALIGNED} bytes"
    return None
