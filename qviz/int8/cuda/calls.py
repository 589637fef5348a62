"""What an operator was asked, in one value, with what decides which kernel can answer it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qviz.int8.epilogue import Epilogue
from qviz.int8.layout import keeps_channels_last, laid_out
from qviz.int8.operands import Geometry, Weight

Signature = tuple[object, ...]


def result_dtype(then: Epilogue, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype of an output: codes, the float type asked for, or float32."""
    if then.out_scale is not None:
        return torch.int8
    return wanted or torch.float32


def _laid(x: Tensor) -> Signature:
    """Shape, strides, type and whether wide loads can begin at the first element."""
    on_host = x.device.type in ("meta", "cpu")
    return (*x.shape, *x.stride(), x.dtype, x.device, on_host or x.data_ptr() % 16 == 0)


class Linear(NamedTuple):
    """A linear layer on rows.

    Attributes:
        x: int8 [M, K].
        x_scale: of ``x``.
        weight: int8 [N, K] with scale and bias.
        then: what follows the sum.
        residual: contiguous [M, N], or None.
        dtype: of the output.
    """

    x: Tensor
    x_scale: float
    weight: Weight
    then: Epilogue
    residual: Tensor | None
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """N."""
        return self.weight.packed.weight.shape[0]

    def empty(self) -> Tensor:
        """The output before it is written."""
        return self.x.new_empty((self.x.shape[0], self.width), dtype=self.dtype)

    def signature(self) -> Signature:
        """What the choice of a kernel may depend on."""
        return (*_laid(self.x), self.width)

    def __str__(self) -> str:
        return f"{_sizes(self.x)} by {_sizes(self.weight.packed.weight)}"


class Convolution(NamedTuple):
    """A convolution.

    Attributes:
        x: int8 [B, C, *in], any layout.
        x_scale: of ``x``.
        weight: int8 [N, C / groups, *kernel] with scale and bias.
        how: the window.
        then: what follows the sum.
        residual: of the output's shape, any layout, or None.
        dtype: of the output.
    """

    x: Tensor
    x_scale: float
    weight: Weight
    how: Geometry
    then: Epilogue
    residual: Tensor | None
    dtype: torch.dtype

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return tuple(self.weight.packed.weight.shape[2:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output: [B, N, *out]."""
        sizes = self.how.out_size(self.x.shape[2:], self.kernel)
        return (self.x.shape[0], self.weight.packed.weight.shape[0], *sizes)

    def signature(self) -> Signature:
        """What the choice of a kernel may depend on."""
        how = (tuple(self.how.stride), tuple(self.how.padding), tuple(self.how.dilation))
        return (*_laid(self.x), *self.weight.packed.weight.shape, *how, self.how.groups)

    def __str__(self) -> str:
        stride, padding, dilation, groups = self.how
        return (
            f"{_sizes(self.x)} by {_sizes(self.weight.packed.weight)} stride {list(stride)} "
            f"padding {list(padding)} dilation {list(dilation)} groups {groups}"
        )


class Matmul(NamedTuple):
    """A product of two activations.

    Attributes:
        a: int8 [*batch, M, K], expanded over the batch, any strides.
        b: int8 [*batch, K, N], likewise.
        scale: of the product.
        then: ``out_scale`` and its grid.
        dtype: of the output.
    """

    a: Tensor
    b: Tensor
    scale: float
    then: Epilogue
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output: [*batch, M, N]."""
        return (*self.a.shape[:-1], self.b.shape[-1])

    def signature(self) -> Signature:
        """What the choice of a kernel may depend on."""
        return (*_laid(self.a), *_laid(self.b))

    def __str__(self) -> str:
        return f"{_sizes(self.a)} by {_sizes(self.b)}"


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


def rows_of(x: Tensor) -> Tensor:
    """[B, C, *in] as rows of channels [B * in, C]: a view where ``x`` is channels last."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def settled(out: Tensor, like: Tensor) -> Tensor:
    """``out`` as a convolution of ``like`` answers, strides of single elements included."""
    out = laid_out(out, like)
    return out if keeps_channels_last(like) else out.flatten().view(out.shape)
