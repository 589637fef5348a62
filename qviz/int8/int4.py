"""Codes of at most 4 bits, two to a byte: how a checkpoint stores them.

Kernels compute with int8 codes; packing halves what is stored and shipped. A byte holds a code in
its low half and the next one in its high half, as two's complement, in row-major order; half a byte
is left over where the number of codes is odd.

Importing this module registers ``qviz::unpack_int4``, by which a saved program makes int8 codes of
its packed weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qviz.errors import RangeError, ShapeError
from qviz.int8.ops import LIBRARY

#: Widest codes that are packed.
BITS = 4
LOWEST, HIGHEST = -8, 7

LIBRARY.define(
    "unpack_int4(Tensor packed, int[] shape) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)


def pack_int4(codes: Tensor) -> Tensor:
    """Two codes per byte.

    Args:
        codes: int8 from -8 to 7, any shape.

    Returns:
        uint8 ``[(n + 1) // 2]`` for n codes.

    Raises:
        RangeError: a code needs more than 4 bits.
    """
    if codes.numel() and not LOWEST <= int(codes.min()) <= int(codes.max()) <= HIGHEST:
        raise RangeError(
            f"codes from {int(codes.min())} to {int(codes.max())}",
            f"half a byte holds {LOWEST} to {HIGHEST}",
            "Store them as int8",
        )
    halves = codes.reshape(-1).view(torch.uint8) & 0xF
    if halves.numel() % 2:
        halves = torch.cat([halves, halves.new_zeros(1)])
    return halves[0::2] | (halves[1::2] << 4)


def unpack_int4(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """What was packed, on the device of ``packed``.

    Args:
        packed: uint8 ``[(n + 1) // 2]``.
        shape: of the n codes.

    Returns:
        int8 of ``shape``, contiguous.

    Raises:
        ShapeError: there are more or fewer codes than ``shape`` has.
    """
    count = torch.Size(shape).numel()
    if packed.dtype is not torch.uint8 or packed.numel() != (count + 1) // 2:
        raise ShapeError(
            "packed codes",
            f"{packed.numel()} of {packed.dtype} do not hold {count} codes of half a byte",
            "Give the bytes that pack_int4 made, and the shape of what it was given",
        )
    bytes_ = packed.reshape(-1).view(torch.int8)
    # A shift to the left and back again spreads the sign of the low half.
    halves = torch.stack([(bytes_ << 4) >> 4, bytes_ >> 4], 1)
    return halves.reshape(-1)[:count].reshape(tuple(shape)).contiguous()


def _shape(packed: Tensor, shape: Sequence[int]) -> Tensor:
    return packed.new_empty(tuple(shape), dtype=torch.int8)


LIBRARY.impl("unpack_int4", unpack_int4, "CompositeExplicitAutograd")
torch.library.register_fake("qviz::unpack_int4", _shape, lib=LIBRARY)
