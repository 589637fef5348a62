"""Faster CPU kernels for the same float arithmetic, chosen when a Program is built.

* Element-wise ops that are the only reader of a fresh value overwrite it: a new block of memory
  costs more than the arithmetic on it.
* Linear layers use oneDNN with the weight packed once, which beats the BLAS call on some CPUs.
* So do convolutions with large weights, whose packing at every call costs up to a fifth of it.

Both are for running only: neither has a gradient. ``Program(graph, plain=True)`` does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from qviz.rewrite import CONVS, TRANSPOSED_CONVS, aten


def softmax_(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """``softmax`` over ``x`` itself where that gives the same bits, else a new tensor.

    A row is read before it is written if it lies in one piece: of the last axis, on the CPU.
    """
    last = dim in (-1, x.dim() - 1)
    if last and dtype in (None, x.dtype) and x.is_contiguous() and x.device.type == "cpu":
        y: Tensor = aten._softmax.out(x, dim, False, out=x)
        return y
    z: Tensor = aten.softmax.int(x, dim, dtype)
    return z


#: Functional op -> the op that overwrites its first argument. Both give the same bits in the same
#: memory format, so that a resumed run equals a full one (masked_fill changes the format).
IN_PLACE: dict[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.relu6.default: aten.relu6_.default,
    aten.silu.default: aten.silu_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.hardsigmoid.default: aten.hardsigmoid_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.leaky_relu.default: aten.leaky_relu_.default,
    aten.elu.default: aten.elu_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.softmax.int: softmax_,
}
#: Ops whose result is a block of memory of its own, so that overwriting it changes nothing else.
FRESH = {
    *CONVS,
    *TRANSPOSED_CONVS,
    *IN_PLACE,
    aten.linear.default,
    aten.addmm.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.batch_norm.default,
    aten.layer_norm.default,
}

#: Elements from which on a convolution's weight is packed once. Where weights are small, images are
#: large, and for some of those (the first layer) the packed form is the slower one.
LARGE = 1 << 18

_packed = WeakTensorKeyDictionary()  # weight -> (its version, packed)


def _kept(weight: Tensor, pack: Callable[[], Tensor]) -> Tensor:
    """The packed weight, kept as long as ``weight`` lives and is not written to."""
    known = _packed.get(weight)
    if known is None or known[0] != weight._version:
        known = (weight._version, pack())
        _packed[weight] = known
    packed: Tensor = known[1]
    return packed


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` by oneDNN."""
    rows = x.numel() // x.shape[-1]
    packed = _kept(weight, lambda: torch.ops.mkldnn._reorder_linear_weight(weight, rows))
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


def packed_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """``conv2d`` by oneDNN if the weight is large and all lies channels-last, else as it is."""
    y: Tensor
    if (
        groups != 1
        or weight.numel() < LARGE
        or x.dim() != 4
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        y = aten.conv2d.default(x, weight, bias, stride, padding, dilation, groups)
        return y
    window = tuple(
        [*each] * 2 if len(each) == 1 else [*each] for each in (padding, stride, dilation)
    )
    packed = _kept(
        weight,
        lambda: torch.ops.mkldnn._reorder_convolution_weight(weight, *window, groups, [*x.shape]),
    )
    y = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *window, groups, "none", [], "")
    return y


def quick_kernels() -> dict[Any, Callable[..., Any]]:
    """Op -> the kernel that runs it fastest here; empty if this build of torch lacks oneDNN."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return {}
    return {aten.linear.default: packed_linear, aten.conv2d.default: packed_conv2d}
