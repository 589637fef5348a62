"""``qviz::`` operators on CUDA: arguments as in the schemas of ops.py, shapes made regular."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qviz.int8 import epilogue
from qviz.int8.cpu import check_codes
from qviz.int8.cuda import patches, registry, weights
from qviz.int8.cuda.calls import Convolution, Linear, Matmul, result_dtype, settled
from qviz.int8.epilogue import QMAX, QMIN, Epilogue, check_activation, finish_
from qviz.int8.operands import Geometry, Weight, geometry
from qviz.int8.packing import packed_weight


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with the strides of ``like``, which is dense; a copy if it has others."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def _readable(x: Tensor) -> Tensor:
    """A residual in a type that kernels read."""
    return x.to(torch.float32) if x.dtype is torch.float64 else x


def quantize(x: Tensor, scale: float, qmin: int = QMIN, qmax: int = QMAX) -> Tensor:
    """``qviz::quantize``; see ops.py."""
    if not registry.uses_triton(x.device):
        return epilogue.round_to_codes(x, scale, qmin, qmax)
    from qviz.int8.cuda import elementwise

    out = torch.empty_like(x, dtype=torch.int8)
    return elementwise.quantize(_dense(_readable(x), out), scale, qmin, qmax, out)


def dequantize(q: Tensor, scale: float, out_dtype: torch.dtype | None = None) -> Tensor:
    """``qviz::dequantize``; see ops.py."""
    check_codes(q, "dequantize")
    wanted = out_dtype or torch.float32
    if not registry.uses_triton(q.device):
        return epilogue.dequantize(q, scale).to(wanted)
    from qviz.int8.cuda import elementwise

    out = torch.empty_like(q, dtype=wanted)
    return elementwise.dequantize(_dense(q, out), scale, out)


def linear(
    x: Tensor,
    x_scale: float,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    activation: str = "none",
    activation_args: Sequence[float] = (),
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    x_qmin: int = QMIN,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``qviz::linear``; see ops.py."""
    check_codes(x, "linear")
    check_activation(activation, activation_args)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    shape = (*x.shape[:-1], weight.shape[0])
    if residual is not None:
        residual = _readable(residual).expand(shape).reshape(-1, shape[-1]).contiguous()
    call = Linear(
        x.reshape(-1, x.shape[-1]),
        x_scale,
        Weight(packed_weight(weight), weight_scale, bias),
        then,
        residual,
        result_dtype(then, out_dtype),
    )
    return registry.answer("linear", call).view(shape)


def _convolved(
    x: Tensor,
    x_scale: float,
    weight: Weight,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None,
    out_dtype: torch.dtype | None,
) -> Tensor:
    call = Convolution(x, x_scale, weight, how, then, None, result_dtype(then, out_dtype))
    if residual is not None:
        call = call._replace(residual=_readable(residual).expand(call.shape))
    return registry.answer("conv", call)


def conv(
    x: Tensor,
    x_scale: float,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    activation: str = "none",
    activation_args: Sequence[float] = (),
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    x_qmin: int = QMIN,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``qviz::conv``; see ops.py."""
    check_codes(x, "conv")
    check_activation(activation, activation_args)
    how = geometry(weight.dim() - 2, stride, padding, dilation, groups)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    operand = Weight(packed_weight(weight), weight_scale, bias)
    return _convolved(x, x_scale, operand, how, then, residual, out_dtype)


def conv_transpose(
    x: Tensor,
    x_scale: float,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    activation: str = "none",
    activation_args: Sequence[float] = (),
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``qviz::conv_transpose``; see ops.py."""
    check_codes(x, "conv_transpose")
    check_activation(activation, activation_args)
    how = geometry(weight.dim() - 2, stride, padding, dilation, groups)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    wide, plain = patches.spread(x, weight.shape[2:], how, output_padding)
    turned = packed_weight(weights.flipped(packed_weight(weight), groups))
    operand = Weight(turned, weight_scale, bias)
    return settled(_convolved(wide, x_scale, operand, plain, then, residual, out_dtype), x)


def matmul(
    a: Tensor,
    a_scale: float,
    b: Tensor,
    b_scale: float,
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``qviz::matmul``; see ops.py."""
    check_codes(a, "matmul")
    check_codes(b, "matmul")
    then = Epilogue("none", (), out_scale, out_qmin, out_qmax)
    left = a.unsqueeze(0) if a.dim() == 1 else a
    right = b.unsqueeze(1) if b.dim() == 1 else b
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    call = Matmul(
        left.expand(*batch, *left.shape[-2:]),
        right.expand(*batch, *right.shape[-2:]),
        a_scale * b_scale,
        then,
        result_dtype(then, out_dtype),
    )
    empty = 0 in call.shape
    out = a.new_empty(call.shape, dtype=call.dtype) if empty else registry.answer("matmul", call)
    out = out.squeeze(-2) if a.dim() == 1 else out
    return out.squeeze(-1) if b.dim() == 1 else out


def add(
    a: Tensor,
    a_scale: float,
    b: Tensor,
    b_scale: float,
    activation: str = "none",
    activation_args: Sequence[float] = (),
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``qviz::add``; see ops.py."""
    check_activation(activation, activation_args)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, b_scale)
    made = result_dtype(then, out_dtype)
    if not registry.uses_triton(a.device):
        left = epilogue.as_float(a, a_scale) + epilogue.as_float(b, b_scale)
        return finish_(left, None, then).to(made)
    from qviz.int8.cuda import elementwise

    shape = torch.broadcast_shapes(a.shape, b.shape)
    same = a.shape == b.shape
    out = torch.empty_like(a, dtype=made) if same else a.new_empty(shape, dtype=made)
    first, second = (_dense(_readable(x).expand(shape), out) for x in (a, b))
    return elementwise.add(first, a_scale, second, then, out)


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """``qviz::max_pool``; see pool.py."""
    from qviz.int8 import pool

    dims = len(kernel)
    if dims > 2 or x.dim() != dims + 2 or not registry.uses_triton(x.device):
        return pool.max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    from qviz.int8.cuda import pooling

    image = x.unsqueeze(2) if dims == 1 else x
    ones, zero = [1] * (2 - dims), [0] * (2 - dims)
    how = Geometry([*ones, *stride], [*zero, *padding], [*ones, *dilation], 1)
    window = [*ones, *kernel]
    sizes = [
        pool.out_size(n, window[i], how.stride[i], how.padding[i], how.dilation[i], ceil_mode)
        for i, n in enumerate(image.shape[2:])
    ]
    out = image.new_empty((*image.shape[:2], *sizes))
    if dims == 2 and x.stride(1) == 1:
        out = out.contiguous(memory_format=torch.channels_last)
    pooling.max_pool(image, (window[0], window[1]), how, out)
    return out.squeeze(2) if dims == 1 else out
