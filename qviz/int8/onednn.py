"""The int8 kernels that stock PyTorch carries for x86: oneDNN's convolution and linear.

They read activations as *unsigned* bytes. A tensor travels here in one of two carriers:

    zero point 128    code + 128; int8 becomes it by flipping the top bit of every byte
    zero point 0      the code itself, when none is negative (after ReLU): the same bytes, no work

Signed bytes are refused by the convolution and *accepted* by linear, which then runs a reference
kernel some thousand times slower; so nothing here passes them. Results may be written signed.

Whether these kernels are exact depends on the CPU (selftest.py); whether one takes a given shape is
known only by calling it: a refusal is a RuntimeError, and cpu.py answers it with exact.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qviz.int8.epilogue import QMAX, QMIN, Epilogue, activate_, as_float, code_limits, finish_
from qviz.int8.operands import Carried, Geometry, Weight

SHIFT = 128
#: Flipping fewer bytes than this costs less than a kernel takes longer with a zero point of 0
#: (measured: 8 us, whatever the size).
WORTH_A_PROMISE = 1 << 18
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


def shifted(codes: Tensor) -> Tensor:
    """int8 codes in the zero-point-128 carrier: a new uint8 tensor of the same layout."""
    return torch.bitwise_xor(codes.view(torch.uint8), _TOP_BIT)


def unshifted(carrier: Tensor) -> Tensor:
    """int8 codes of a zero-point-128 carrier: a new tensor of the same layout."""
    return torch.bitwise_xor(carrier, _TOP_BIT).view(torch.int8)


def carried(codes: Tensor, scale: float, lowest: int = QMIN) -> Carried:
    """The carrier of int8 codes that are known to be at least ``lowest``."""
    if lowest >= 0 and codes.numel() >= WORTH_A_PROMISE:
        return Carried(codes.view(torch.uint8), scale, 0)
    return Carried(shifted(codes), scale, SHIFT)


class Call(NamedTuple):
    """A kernel and its arguments after the tensors; what it leaves to do is not ``fused``.

    ``residual_format`` is set when the kernel writes onto the residual, which must then be a copy.
    """

    kernel: Any
    tail: tuple[object, ...]
    fused: bool
    residual_format: torch.memory_format | None = None


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


def packed_conv(x: Tensor, weight: Weight, how: Geometry) -> Tensor:
    """The weight as the kernel wants it for an input like ``x``."""

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


def packed_linear(x: Tensor, weight: Weight) -> Tensor:
    """The weight as the kernel wants it; one form serves every number of rows."""

    def pack() -> Tensor:
        rows = [x.numel() // max(x.shape[-1], 1), x.shape[-1]]
        packed: Tensor = _LINEAR_PACK(weight.packed.weight.contiguous(), rows)
        return packed

    return weight.packed.form("linear", pack)


def conv_call(
    dims: int, how: Geometry, then: Epilogue, residual: Tensor | None, zero_point: int = 0
) -> Call | None:
    """The kernel for a convolution of a tensor with ``dims`` dimensions; None: add it yourself."""
    scale, target_point, dtype = _target(then, zero_point)
    if residual is None:
        fused = dims == 4  # the 3d kernel knows no activation
        activation = (then.activation, then.args) if fused else ("none", ())
        return Call(_CONV[dims], (*how, scale, target_point, dtype, *activation, ""), fused)
    if dims == 5 or (then.out_scale is not None and residual.is_floating_point()):
        return None
    # It adds onto a residual of its output's dtype, in place, and returns a copy of that.
    sum_scale = 1.0 if dtype is torch.float32 else then.residual_scale
    fused = then.activation != "hardtanh"
    activation = (then.activation if fused else "none", [])
    tail = (*how, scale, target_point, dtype, sum_scale, target_point, "sum", 1.0, *activation, "")
    return Call(_CONV_SUM, tail, fused, torch.channels_last)


def linear_call(then: Epilogue, residual: Tensor | None, zero_point: int = 0) -> Call:
    """The kernel for a linear layer."""
    scale, target_point, dtype = _target(then, zero_point)
    if residual is None:
        activation = (then.activation, then.args)
        return Call(_LINEAR, (scale, target_point, dtype, *activation, ""), fused=True)
    fused = then.activation != "hardtanh"
    after: tuple[object, ...] = (1.0, then.activation if fused else "none", [], "")
    if residual.is_floating_point() or dtype is torch.float32:
        # "add" reads floats and leaves them alone; for codes it is wrong.
        return Call(_LINEAR_BINARY, (scale, target_point, dtype, 1.0, 0, "add", *after), fused)
    tail = (scale, target_point, dtype, then.residual_scale, target_point, "sum", *after)
    return Call(_LINEAR_BINARY, tail, fused, torch.contiguous_format)


def _run(
    call: Call, x: Carried, packed: Tensor, weight: Weight, then: Epilogue, residual: Tensor | None
) -> Tensor:
    head = (*x, packed, weight.scale, weight.packed.zero_points)
    out: Tensor
    if residual is None:
        out = call.kernel(*head, weight.bias, *call.tail)
        return out
    other = residual
    if residual.is_floating_point() or then.out_scale is None:
        other = as_float(residual, then.residual_scale)
    form = call.residual_format
    if form is None:
        other = other.contiguous()
    else:
        other = (
            other.clone(memory_format=form)
            if other is residual
            else other.contiguous(memory_format=form)
        )
    out = call.kernel(*head, other, weight.bias, *call.tail)
    return out


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
    call = conv_call(x.data.dim(), how, then, residual, zero_point)
    if call is None and residual is not None:
        return _unfused(conv(x, weight, how, Epilogue()), residual, then, zero_point)
    assert call is not None
    out = _run(call, x, packed_conv(x.data, weight, how), weight, then, residual)
    return _limited_(out, then, zero_point, call.fused)


def linear(
    x: Carried,
    weight: Weight,
    then: Epilogue,
    residual: Tensor | None = None,
    zero_point: int = 0,
) -> Tensor:
    """A linear layer with everything fused.

    Args:
        x: [..., K], contiguous.
        weight: int8 [N, K].
        then: what follows the sum.
        residual: [..., N]; float, or codes in the carrier of the output.
        zero_point: as for ``conv``.

    Returns:
        [..., N]: float32, int8 or uint8.

    Raises:
        RuntimeError: the kernel does not take these shapes.
    """
    call = linear_call(then, residual, zero_point)
    out = _run(call, x, packed_linear(x.data, weight), weight, then, residual)
    return _limited_(out, then, zero_point, call.fused)
