"""The operands of a kernel, bundled: plain tuples, because one of each is built per call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from qviz.int8.packing import PackedWeight


class Carried(NamedTuple):
    """Activations as the kernels read them: bytes, their scale, their zero point."""

    data: Tensor
    scale: float
    zero_point: int


class Weight(NamedTuple):
    """A weight with what belongs to it: packed forms, scale per output channel, bias."""

    packed: PackedWeight
    scale: Tensor
    bias: Tensor | None


class Geometry(NamedTuple):
    """How a convolution's window moves; one number per spatial dimension."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def out_size(self, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """Spatial sizes of the output for an input of ``size``; symbols are welcome."""
        return [
            (n + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1
            for i, n in enumerate(size)
        ]


def geometry(
    dims: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Geometry:
    """A geometry in ``dims`` dimensions; a list of one number holds for all of them."""
    if len(stride) == len(padding) == len(dilation) == dims:
        return Geometry(stride, padding, dilation, groups)
    stride, padding, dilation = (
        each if len(each) == dims else [*each] * dims for each in (stride, padding, dilation)
    )
    return Geometry(stride, padding, dilation, groups)
