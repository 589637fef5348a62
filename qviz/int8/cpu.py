"""The CPU's answer to every op: which backend, which layout, and what when a kernel declines.

Each op asks ``selftest.backend(kind)`` once per call (a dictionary look-up) and takes oneDNN's int8
kernel (onednn.py) where that has proved exact on this CPU, else the float-carried integers of
exact.py. A shape that a kernel declines goes to exact.py as well; ``refusals`` says so by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qviz.errors import InputError
from qviz.int8 import exact, onednn, products, selftest, shortcut
from qviz.int8.epilogue import Epilogue, as_float, check_activation, finish_
from qviz.int8.layout import keeps_channels_last, laid_out
from qviz.int8.onednn import carried
from qviz.int8.operands import Geometry, Weight

#: Below this many multiplications a matrix is worth less than the call of an int8 kernel (5 us).
SMALLEST_PRODUCT = 1 << 18

_REFUSALS: dict[str, str] = {}


def refusals() -> dict[str, str]:
    """What a chosen kernel declined so far: op kind -> its latest reason. Those calls ran exact."""
    return dict(_REFUSALS)


def refused(kind: str, error: RuntimeError) -> None:
    """Note that a kernel declined a call."""
    _REFUSALS[kind] = str(error).strip().splitlines()[0]


def check_codes(x: Tensor, op: str) -> None:
    """Refuse anything but int8.

    Raises:
        InputError: ``x`` holds something else.
    """
    if x.dtype is not torch.int8:
        raise InputError(
            f"qviz::{op}", f"got {x.dtype}, not int8 codes", "Put qviz::quantize before it"
        )


def readable(residual: Tensor | None) -> Tensor | None:
    """A residual as the kernels here read it: codes or float32."""
    if residual is None or residual.dtype is torch.int8 or residual.dtype is torch.float32:
        return residual
    return residual.to(torch.float32)


def conv_kind(weight: Tensor, groups: int) -> str:
    """The kind of a convolution in ``selftest.capabilities``."""
    if groups > 1 and weight.shape[1] == 1 and weight.dim() == 4:
        return "depthwise"
    return f"conv{weight.dim() - 2}d"


def conv(
    x: Tensor,
    x_scale: float,
    weight: Weight,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None,
    x_qmin: int,
    key: tuple[object, ...],
) -> Tensor:
    """``qviz::conv`` on the CPU; see ops.py, and shortcut.py for ``key``."""
    check_codes(x, "conv")
    check_activation(then.activation, then.args)
    kind = conv_kind(weight.packed.weight, how.groups)
    if selftest.backend(kind) == "onednn":
        try:
            if residual is not None:
                # A kernel would read past the end of a residual that is to be broadcast.
                size = how.out_size(x.shape[2:], weight.packed.weight.shape[2:])
                residual = residual.expand(x.shape[0], weight.packed.weight.shape[0], *size)
            if kind == "conv1d":
                return _conv1d(x, x_scale, weight, how, then, residual, x_qmin)
            carrier = carried(x, x_scale, x_qmin)
            out = laid_out(onednn.conv(carrier, weight, how, then, residual), x)
            shortcut.leave(
                key,
                onednn.conv_call(x.dim(), how, then, residual),
                carrier, onednn.packed_conv(x, weight, how), weight, then, residual,
                contiguous=not keeps_channels_last(x),
            )  # fmt: skip
            return out
        except RuntimeError as error:
            refused(kind, error)
    y = exact.conv(x, x_scale, weight, how)
    return laid_out(finish_(y, residual, then), x)


def _conv1d(
    x: Tensor,
    x_scale: float,
    weight: Weight,
    how: Geometry,
    then: Epilogue,
    residual: Tensor | None,
    x_qmin: int,
) -> Tensor:
    """As a 2d convolution of height 1: only that one fuses a residual."""
    flat = Geometry((1, *how.stride), (0, *how.padding), (1, *how.dilation), how.groups)
    carrier = carried(x.unsqueeze(2), x_scale, x_qmin)
    plane = residual if residual is None else residual.unsqueeze(2)
    return onednn.conv(carrier, weight, flat, then, plane).squeeze(2).contiguous()


def conv_transpose(
    x: Tensor,
    x_scale: float,
    weight: Weight,
    how: Geometry,
    output_padding: Sequence[int],
    then: Epilogue,
    residual: Tensor | None,
) -> Tensor:
    """``qviz::conv_transpose`` on the CPU: always carried, oneDNN has no such int8 kernel here."""
    check_codes(x, "conv_transpose")
    check_activation(then.activation, then.args)
    y = exact.conv_transpose(x, x_scale, weight, how, output_padding)
    return laid_out(finish_(y, residual, then), x)


def linear(
    x: Tensor,
    x_scale: float,
    weight: Weight,
    then: Epilogue,
    residual: Tensor | None,
    x_qmin: int,
    key: tuple[object, ...],
) -> Tensor:
    """``qviz::linear`` on the CPU; see ops.py, and shortcut.py for ``key``."""
    check_codes(x, "linear")
    check_activation(then.activation, then.args)
    if selftest.backend("linear") == "onednn":
        try:
            if residual is not None:
                residual = residual.expand(*x.shape[:-1], weight.packed.weight.shape[0])
            carrier = carried(x.contiguous(), x_scale, x_qmin)
            out = onednn.linear(carrier, weight, then, residual)
            if x.is_contiguous():
                shortcut.leave(
                    key,
                    onednn.linear_call(then, residual),
                    carrier, onednn.packed_linear(x, weight), weight, then, residual,
                    contiguous=False,
                )  # fmt: skip
            return out
        except RuntimeError as error:
            refused("linear", error)
    return finish_(exact.linear(x, x_scale, weight), residual, then)


def matmul(a: Tensor, a_scale: float, b: Tensor, b_scale: float, then: Epilogue) -> Tensor:
    """``qviz::matmul`` on the CPU; see ops.py."""
    check_codes(a, "matmul")
    check_codes(b, "matmul")
    scale = a_scale * b_scale
    work = a.shape[-2] * a.shape[-1] * b.shape[-1] if min(a.dim(), b.dim()) > 1 else 0
    if work >= SMALLEST_PRODUCT and selftest.backend("matmul") == "onednn":
        try:
            return _batched(a, b, scale, then)
        except RuntimeError as error:
            refused("matmul", error)
    return finish_(exact.matmul(a, b, scale), None, then)


def _batched(a: Tensor, b: Tensor, scale: float, then: Epilogue) -> Tensor:
    if a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0]:
        return products.matmul(a, b, scale, then)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = a.expand(*batch, *a.shape[-2:]).reshape(-1, *a.shape[-2:])
    right = b.expand(*batch, *b.shape[-2:]).reshape(-1, *b.shape[-2:])
    return products.matmul(left, right, scale, then).view(*batch, a.shape[-2], b.shape[-1])


def add(a: Tensor, a_scale: float, b: Tensor, b_scale: float, then: Epilogue) -> Tensor:
    """``qviz::add`` on the CPU; see ops.py."""
    check_activation(then.activation, then.args)
    whole = a.dtype is b.dtype is torch.int8 and then.out_scale is not None
    if whole and a.shape == b.shape and selftest.backend("add") == "onednn":
        try:
            out = products.add(a, a_scale, b, then._replace(residual_scale=b_scale))
            if out is not None:
                return out
        except RuntimeError as error:
            refused("add", error)
    left, right = as_float(a, a_scale), as_float(b, b_scale)
    for mine, other in ((left, right), (right, left)):
        if (
            mine is not a
            and mine is not b
            and mine.shape == torch.broadcast_shapes(a.shape, b.shape)
        ):
            return finish_(mine.add_(other), None, then)
    return finish_(left.add(right), None, then)
