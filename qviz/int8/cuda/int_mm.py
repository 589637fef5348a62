"""Kernels out of PyTorch's own operators: cuBLASLt (``torch._int_mm``), floats that carry codes.

Both give the bare sums; what follows is several passes over memory. They are here to check the
Triton kernels against, and for machines without Triton, where they are asked for by name
(registry.py). Convolutions write their windows down (patches.py) and multiply those: cuDNN may
choose an algorithm that is not exact on integers, a matrix product has no such choice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.int8 import exact
from qviz.int8.cuda import patches, weights
from qviz.int8.cuda.calls import Convolution, Linear, Matmul, rows_of, settled
from qviz.int8.epilogue import finish_

#: int8 [M, K] by int8 [N, K] -> sums [M, N] in any number type.
Product = Callable[[Tensor, Tensor], Tensor]

#: What cuBLASLt takes: K and N multiples of 8, more than 16 rows.
STEP = 8
FEWEST_ROWS = 17


def int_mm(x: Tensor, w: Tensor) -> Tensor:
    """Sums of products by cuBLASLt; sizes that it refuses are padded with zeros.

    Args:
        x: int8 [M, K].
        w: int8 [N, K].

    Returns:
        int32 [M, N].
    """
    (M, K), N = x.shape, w.shape[0]
    if 0 in (M, K, N):
        return x.new_zeros((M, N), dtype=torch.int32)
    more_k, more_n = -K % STEP, -N % STEP
    left = F.pad(x, (0, more_k, 0, max(0, FEWEST_ROWS - M))).contiguous()
    right = F.pad(w, (0, more_k, 0, more_n)).contiguous()
    # cuBLASLt's int8 kernels want the second operand by columns, which w's rows are.
    return torch._int_mm(left, right.t())[:M, :N]


def carried(x: Tensor, w: Tensor) -> Tensor:
    """Sums of products in float32, or float64 where that would round; arguments as of ``int_mm``.

    Products of codes, and sums below 2**24, are exact in float32, also with TF32's short mantissa.
    """
    dtype = exact.carrier(x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        return x.to(dtype) @ w.to(dtype).t()


def _real(sums: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Sums * (x_scale * scale) + bias, channels along the last axis."""
    y = sums.to(torch.float32) * (scale * x_scale)
    return y if bias is None else y.add_(bias)


def linear(call: Linear, product: Product) -> Tensor:
    """A linear layer whose sums ``product`` makes."""
    _, scale, bias = call.weight
    y = _real(product(call.x, call.weight.packed.weight), call.x_scale, scale, bias)
    return finish_(y, call.residual, call.then).to(call.dtype)


def convolution(call: Convolution, product: Product) -> Tensor:
    """A convolution whose windows are written down and whose sums ``product`` makes."""
    packed, scale, bias = call.weight
    groups, depth = call.how.groups, packed.weight[0].numel()
    by_group = weights.rows(packed).unflatten(0, (groups, -1))[..., :depth]
    sums = torch.cat(
        [
            torch.cat([product(x, w) for x, w in zip(found, by_group, strict=True)], 1)
            for part in patches.in_parts(call.x, call.kernel, call.how)
            for found in (patches.patches(part, call.kernel, call.how),)
        ]
    )
    y = _real(sums, call.x_scale, scale, bias)
    residual = None if call.residual is None else rows_of(call.residual)
    out = finish_(y, residual, call.then).to(call.dtype)
    batch, width, *sizes = call.shape
    return settled(out.view(batch, *sizes, width).movedim(-1, 1), call.x)


def matmul(call: Matmul, product: Product) -> Tensor:
    """A product of activations, one matrix after the other."""
    a = call.a.reshape(-1, *call.a.shape[-2:])
    b = call.b.reshape(-1, *call.b.shape[-2:])
    y = call.a.new_empty((a.shape[0], a.shape[1], b.shape[2]), dtype=torch.float32)
    for left, right, out in zip(a, b, y, strict=True):
        out.copy_(product(left, right.t()))
    return finish_(y.mul_(call.scale), None, call.then).to(call.dtype).view(call.shape)
