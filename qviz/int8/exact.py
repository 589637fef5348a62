"""Integer arithmetic carried by floating point: right on every CPU, for every shape.

A sum of K products of codes is an integer below K * 128 * 128. float32 holds every integer up to
2**24, so while the sum stays below that, a float32 convolution of codes *is* the integer
convolution, in whatever order it adds (and bfloat16 or TF32 inputs change nothing: codes fit them).
Longer sums are carried in float64. This is the backend of CPUs whose int8 instructions saturate,
and of every op and shape that the fast backend does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.int8.operands import Geometry, Weight

#: Largest product of two codes: activations reach -128, and nothing forbids it for the other side.
LARGEST_PRODUCT = 128 * 128
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def carrier(length: int) -> torch.dtype:
    """The float type that adds ``length`` products of codes without rounding."""
    return torch.float32 if length * LARGEST_PRODUCT <= 2**24 else torch.float64


def unchanged() -> AbstractContextManager[None]:
    """Autocast off: it would hand out the sums in bfloat16."""
    return torch.autocast("cpu", enabled=False)


def _scaled(acc: Tensor, scale: Tensor, bias: Tensor | None, channel_dim: int) -> Tensor:
    """Scale and shift per channel in float32; ``acc`` is overwritten when it is float32."""
    shape = [1] * acc.dim()
    shape[channel_dim] = -1
    y = acc.to(torch.float32).mul_(scale.view(shape))
    return y if bias is None else y.add_(bias.view(shape))


def linear(x: Tensor, x_scale: float, weight: Weight) -> Tensor:
    """A linear layer over codes: x @ weight.T * (x_scale * scale) + bias.

    Args:
        x: codes of any number type, [..., K].
        x_scale: of ``x``.
        weight: int8 [N, K].

    Returns:
        float32 [..., N], a new tensor.
    """
    dtype = carrier(weight.packed.weight.shape[1])
    with unchanged():
        acc = F.linear(x.to(dtype), weight.packed.carried(dtype))
    return _scaled(acc, weight.scale * x_scale, weight.bias, acc.dim() - 1)


def conv(x: Tensor, x_scale: float, weight: Weight, how: Geometry) -> Tensor:
    """A convolution in 1, 2 or 3 dimensions over codes; float32 [N, K, *out], a new tensor."""
    plain = weight.packed.weight
    dtype = carrier(plain[0].numel())
    function = CONVOLUTIONS[plain.dim() - 2]
    with unchanged():
        acc = function(x.to(dtype), weight.packed.carried(dtype), None, *how)
    return _scaled(acc, weight.scale * x_scale, weight.bias, 1)


def conv_transpose(
    x: Tensor, x_scale: float, weight: Weight, how: Geometry, output_padding: Sequence[int]
) -> Tensor:
    """A transposed convolution; weight [C, K / groups, *kernel], its scale has K values."""
    plain = weight.packed.weight
    dtype = carrier(plain[:, 0].numel() // how.groups)
    function = TRANSPOSED[plain.dim() - 2]
    with unchanged():
        acc = function(
            x.to(dtype), weight.packed.carried(dtype), None,
            how.stride, how.padding, output_padding, how.groups, how.dilation,
        )  # fmt: skip
    return _scaled(acc, weight.scale * x_scale, weight.bias, 1)


def matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Matrix product of codes, times ``scale``; broadcasts like torch.matmul; float32."""
    dtype = carrier(a.shape[-1])
    with unchanged():
        acc = torch.matmul(a.to(dtype), b.to(dtype))
    return acc.to(torch.float32).mul_(scale)
