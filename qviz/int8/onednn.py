"""The int8 kernels that stock PyTorch carries for x86: oneDNN convolution, linear and matmul.

They read activations as *unsigned* bytes. A tensor travels here in one of two carriers:

    zero point 128    code + 128; int8 becomes it by flipping the top bit of every byte
    zero point 0      the code itself, when none is negative (after ReLU): the same bytes, no work

Signed bytes are refused by the convolution and *accepted* by linear, which then runs a reference
kernel some thousand times slower; so nothing here passes them. Results may be written signed.

Whether these kernels are exact depends on the CPU (selftest.py); whether one takes a given shape is
known only by calling it: a refusal is a RuntimeError, and cpu.py answers it with exact.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qviz.int8.epilogue import QMAX, QMIN, Epilogue, activate_, as_float, code_limits, finish_
from qviz.int8.layout import is_dense
from qviz.int8.operands import Carried, Geometry, Weight
from qviz.int8.packing import packed_weight

SHIFT = 128
#: A tensor, because with a Python number each call would make one: 3.1 instead of 1.4 us.
_TOP_BIT = torch.tensor(SHIFT, dtype=torch.uint8)


def available() -> bool:
    """Whether this build of PyTorch has the kernels at all."""
    return hasattr(torch.ops.onednn, "qconv3d_pointwise") and torch.backends.mkldnn.is_available()


if available():
    _CONV: dict[int, Any] = {
        4: torch.ops.onednn.qconv2d_pointwise.default,
        5: torch.ops.onednn.qconv3d_pointwise.default,
    }
    _CONV_SUM: Any = torch.ops.onednn.qconv2d_pointwise.binary
    _CONV_PACK: Any = torch.ops.onednn.qconv_prepack.default
    _LINEAR: Any = torch.ops.onednn.qlinear_pointwise.default
    _LINEAR_BINARY: Any = torch.ops.onednn.qlinear_pointwise.binary
    _LINEAR_PACK: Any = torch.ops.onednn.qlinear_prepack.default
    _INT_MM: Any = torch.ops.aten._int_mm.out


def shifted(codes: Tensor) -> Tensor:
    """int8 codes in the zero-point-128 carrier: a new uint8 tensor of the same layout."""
    return torch.bitwise_xor(codes.view(torch.uint8), _TOP_BIT)


def unshifted(carrier: Tensor) -> Tensor:
    """int8 codes of a zero-point-128 carrier: a new tensor of the same layout."""
    return torch.bitwise_xor(carrier, _TOP_BIT).view(torch.int8)


def carried(codes: Tensor, scale: float, lowest: int = QMIN) -> Carried:
    """The carrier of int8 codes that are known to be at least ``lowest``."""
    if lowest >= 0:
        return Carried(codes.view(torch.uint8), scale, 0)
    return Carried(shifted(codes), scale, SHIFT)


def _target(then: Epilogue, zero_point: int) -> tuple[float, int, torch.dtype]:
    """Scale, zero point and dtype of the output, as the kernels want to hear them."""
    if then.out_scale is None:
        return 1.0, 0, torch.float32
    return then.out_scale, zero_point, torch.uint8 if zero_point else torch.int8


def _limited_(out: Tensor, then: Epilogue, zero_point: int, fused: bool) -> Tensor:
    """Do in place what the kernel did not: a narrow grid, and the activation if it is not fused."""
    if then.out_scale is None:
        return out if fused else activate_(out, then.activation, then.args)
    lo, hi = (then.qmin, then.qmax) if fused else code_limits(then)
    return out.clamp_(lo + zero_point, hi + zero_point) if lo > QMIN or hi < QMAX else out


def _unfused(y: Tensor, residual: Tensor, then: Epilogue, zero_point: int) -> Tensor:
    """Follow a float result by what no kernel fuses."""
    plain = unshifted(residual) if residual.dtype is torch.uint8 else residual
    out = finish_(y, plain, then)
    return shifted(out) if zero_point and then.out_scale is not None else out


def _conv_weight(x: Tensor, weight: Weight, how: Geometry) -> Tensor:
    def pack() -> Tensor:
        plain = weight.packed.weight
        packed: Tensor = _CONV_PACK(
            plain.unsqueeze(2) if plain.dim() == 3 else plain,
            weight.scale, 1.0, SHIFT, *how, list(x.shape),
        )  # fmt: skip
        return packed

    # The best layout depends on the input's size: packed without it, a 512-channel 3x3 at batch 1
    # is rearranged at every call, 1.7 instead of 0.6 ms.
    return weight.packed.form((x.shape, *how.stride, *how.padding, *how.dilation), pack)


def conv(
    x: Carried,
    weight: Weight,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None = None,
    zero_point: int = 0,
) -> Tensor:
    """A convolution in 2 or 3 dimensions with everything fused that the kernel can fuse.

    Args:
        x: [N, C, *in] of any layout.
        weight: int8 [K, C / groups, *kernel]; a 1d kernel may come with 4d ``x`` of height 1.
        how: one entry per spatial dimension of ``x``.
        then: what follows the sum.
        residual: the output's shape; float, or codes in the carrier of the output.
        zero_point: of the output's carrier: 0 for int8, 128 for uint8; no matter for float output.

    Returns:
        [N, K, *out], channels last: float32, int8 or uint8.

    Raises:
        RuntimeError: the kernel does not take these shapes.
    """
    dims = x.data.dim()
    packed = _conv_weight(x.data, weight, how)
    head = (*x, packed, weight.scale, weight.packed.zero_points)
    scale, target_point, dtype = _target(then, zero_point)
    out: Tensor
    if residual is None:
        fused = dims == 4  # the 3d kernel knows no activation
        activation = (then.activation, then.args) if fused else ("none", ())
        out = _CONV[dims](*head, weight.bias, *how, scale, target_point, dtype, *activation, "")
        return _limited_(out, then, zero_point, fused)
    codes = not residual.is_floating_point()
    if dims == 5 or (then.out_scale is not None and not codes):
        return _unfused(conv(x, weight, how, Epilogue()), residual, then, zero_point)
    # The kernel adds onto the residual in place and returns a copy of it; the caller's stays.
    residual = as_float(residual, then.residual_scale) if dtype is torch.float32 else residual
    accumulator = residual.clone(memory_format=torch.channels_last)
    sum_scale = then.residual_scale if codes and dtype is not torch.float32 else 1.0
    fused = then.activation != "hardtanh"
    out = _CONV_SUM(
        *head, accumulator, weight.bias, *how, scale, target_point, dtype,
        sum_scale, target_point, "sum", 1.0, then.activation if fused else "none", [], "",
    )  # fmt: skip
    return _limited_(out, then, zero_point, fused)


def linear(
    x: Carried,
    weight: Weight,
    then: Epilogue,
    residual: Tensor | None = None,
    zero_point: int = 0,
) -> Tensor:
    """A linear layer with everything fused.

    Args:
        x: [M, K].
        weight: int8 [N, K].
        then: what follows the sum.
        residual: [M, N]; float, or codes in the carrier of the output.
        zero_point: as for ``conv``.

    Returns:
        [M, N]: float32, int8 or uint8.

    Raises:
        RuntimeError: the kernel does not take these shapes.
    """
    packed = weight.packed.form("linear", lambda: _linear_weight(weight, x.data))
    head = (*x, packed, weight.scale, weight.packed.zero_points)
    scale, target_point, dtype = _target(then, zero_point)
    out: Tensor
    if residual is None:
        out = _LINEAR(
            *head, weight.bias, scale, target_point, dtype, then.activation, then.args, ""
        )
        return _limited_(out, then, zero_point, fused=True)
    # "sum" adds codes onto the residual in place; "add" reads floats and leaves them alone.
    if residual.is_floating_point() or dtype is torch.float32:
        other = as_float(residual, then.residual_scale).contiguous()
        how = (1.0, 0, "add")
    else:
        other = residual.clone(memory_format=torch.contiguous_format)
        how = (then.residual_scale, target_point, "sum")
    fused = then.activation != "hardtanh"
    out = _LINEAR_BINARY(
        *head,
        other,
        weight.bias,
        scale,
        target_point,
        dtype,
        *how,
        1.0,
        then.activation if fused else "none",
        [],
        "",
    )
    return _limited_(out, then, zero_point, fused)


def _linear_weight(weight: Weight, x: Tensor) -> Tensor:
    packed: Tensor = _LINEAR_PACK(weight.packed.weight.contiguous(), list(x.shape))
    return packed


def matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Matrix products of codes, times ``scale``: one int8 kernel per pair of matrices.

    Args:
        a: int8 [B, M, K], any strides.
        b: int8 [B, K, N], any strides.
        scale: of the product.

    Returns:
        float32 [B, M, N].
    """
    sums = torch.empty((*a.shape[:-1], b.shape[-1]), dtype=torch.int32)
    for left, right, out in zip(a.unbind(), b.unbind(), sums.unbind(), strict=True):
        _INT_MM(left, right, out=out)
    # Not `sums * scale`: an int32 tensor times a Python float takes twenty times as long.
    return sums.to(torch.float32).mul_(scale)


#: Channel counts in which a flat tensor is handed to the convolution that adds.
WIDTHS = (64, 32, 16)
_ONES = {width: torch.ones(width, 1, 1, 1, dtype=torch.int8) for width in WIDTHS}
_UNIT = {width: torch.ones(width) for width in WIDTHS}
_POINT = Geometry((1, 1), (0, 0), (1, 1), 1)


def add(a: Tensor, a_scale: float, b: Tensor, then: Epilogue) -> Tensor | None:
    """Sum of two tensors of codes as codes: a convolution of ``a`` by ones that adds onto ``b``.

    One pass where float arithmetic takes five: 1.8 instead of 13.7 ms for 6.4 million elements.

    Args:
        a: int8, any dense layout.
        b: int8, the same shape.
        a_scale: of ``a``.
        then: with ``out_scale``; its ``residual_scale`` is the scale of ``b``.

    Returns:
        int8 in the layout of ``a``; None when the tensor cannot be cut into channels.
    """
    size = a.numel()
    width = next((width for width in WIDTHS if size % width == 0), None)
    if width is None or size == 0 or not is_dense(a):
        return None
    if a.stride() != b.stride():
        b = torch.empty_like(a).copy_(b)
    shape, stride = (1, width, size // width, 1), (size, 1, width, width)
    carrier = carried(a.as_strided(shape, stride), a_scale)
    weight = Weight(packed_weight(_ONES[width]), _UNIT[width], None)
    out = conv(carrier, weight, _POINT._replace(groups=width), then, b.as_strided(shape, stride))
    return out.as_strided(a.shape, a.stride())
