"""The integer operators of a lowered model, as PyTorch operators in the namespace ``qviz``.

Importing this module registers them, which is all a ``.pt2`` that contains them needs. Between them
tensors are int8 codes with zero point 0; floats enter by ``quantize`` and leave by an op with
``out_scale=None`` or by ``dequantize``. Every op computes

    acc = integer sum, exact
    y   = acc * (x_scale * weight_scale) + bias        float32, weight_scale per output channel
    y   = y + residual                                 int8 codes * residual_scale, or float
    y   = none | relu | hardtanh(lo, hi) of y
    out = y                                            out_scale is None: in out_dtype
        | clamp(round_half_even(y * (1 / out_scale)), out_qmin, out_qmax)           int8

with ``1 / out_scale`` in float32. ``out_dtype`` is a float type, None is float32; float inputs and
residuals may have any. ``x_qmin`` is a promise of the caller: no code of ``x`` is below
it. From 0 upwards (an input that comes out of a ReLU) it saves the CPU a pass over the input; a
broken promise gives wrong results.

Layouts: a convolution answers channels-last input with channels-last output and any other with
contiguous output. All other ops keep the layout of their first input.

Backends are registered per device: the CPU's in this file (cpu.py), CUDA's in qviz/int8/cuda, which
is imported when an op meets a CUDA tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qviz.int8 import cpu, cuda, shapes, shortcut
from qviz.int8.epilogue import QMAX, QMIN, Epilogue, dequantize, round_to_codes
from qviz.int8.operands import Weight, geometry
from qviz.int8.packing import packed_weight

_TARGET = f"float? out_scale=None, int out_qmin={QMIN}, int out_qmax={QMAX}"
_AFTER = (
    "Tensor? residual=None, float residual_scale=1.0, "
    f'str activation="none", float[] activation_args=[], {_TARGET}'
)
_WEIGHTED = "Tensor x, float x_scale, Tensor weight, Tensor weight_scale, Tensor? bias"
_DTYPE = "ScalarType? out_dtype=None"
_WINDOW = "int[] stride, int[] padding, int[] dilation, int groups"

SCHEMAS = (
    f"quantize(Tensor x, float scale, int qmin={QMIN}, int qmax={QMAX}) -> Tensor",
    f"dequantize(Tensor q, float scale, {_DTYPE}) -> Tensor",
    f"linear({_WEIGHTED}, {_AFTER}, int x_qmin={QMIN}, {_DTYPE}) -> Tensor",
    f"conv({_WEIGHTED}, {_WINDOW}, {_AFTER}, int x_qmin={QMIN}, {_DTYPE}) -> Tensor",
    f"conv_transpose({_WEIGHTED}, int[] stride, int[] padding, int[] output_padding, "
    f"int[] dilation, int groups, {_AFTER}, {_DTYPE}) -> Tensor",
    f"matmul(Tensor a, float a_scale, Tensor b, float b_scale, {_TARGET}, {_DTYPE}) -> Tensor",
    'add(Tensor a, float a_scale, Tensor b, float b_scale, str activation="none", '
    f"float[] activation_args=[], {_TARGET}, {_DTYPE}) -> Tensor",
)

#: The open registration: whoever adds a device calls ``LIBRARY.impl(name, function, "CUDA")``.
LIBRARY = torch.library.Library("qviz", "DEF")
for _schema in SCHEMAS:
    # Library.define and not torch.library.custom_op: a call costs 6 instead of 19 us.
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _quantize(x: Tensor, scale: float, qmin: int = QMIN, qmax: int = QMAX) -> Tensor:
    return round_to_codes(x, scale, qmin, qmax)


def _in(out_dtype: torch.dtype | None, out: Tensor) -> Tensor:
    """A kernel's output in the float type that was asked for; codes stay codes."""
    return out if out_dtype is None or out.dtype is torch.int8 else out.to(out_dtype)


def _dequantize(q: Tensor, scale: float, out_dtype: torch.dtype | None = None) -> Tensor:
    cpu.check_codes(q, "dequantize")
    return _in(out_dtype, dequantize(q, scale))


def _linear(
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
    weighted, residual = Weight(packed_weight(weight), weight_scale, bias), cpu.readable(residual)
    key = (
        x.shape, x.stride(), x.dtype, shortcut.kind_of(residual), residual_scale,
        activation, activation_args, out_scale, out_qmin, out_qmax, x_qmin,
    )  # fmt: skip
    note = shortcut.find(weighted, key)
    if note is not None:
        return _in(out_dtype, shortcut.run(note, x, x_scale, weighted, residual))
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    return _in(out_dtype, cpu.linear(x, x_scale, weighted, then, residual, x_qmin, key))


def _conv(
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
    weighted, residual = Weight(packed_weight(weight), weight_scale, bias), cpu.readable(residual)
    key = (
        x.shape, x.stride(), x.dtype, stride, padding, dilation, groups, shortcut.kind_of(residual),
        residual_scale, activation, activation_args, out_scale, out_qmin, out_qmax, x_qmin,
    )  # fmt: skip
    note = shortcut.find(weighted, key)
    if note is not None:
        return _in(out_dtype, shortcut.run(note, x, x_scale, weighted, residual))
    how = geometry(weight.dim() - 2, stride, padding, dilation, groups)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    return _in(out_dtype, cpu.conv(x, x_scale, weighted, how, then, residual, x_qmin, key))


def _conv_transpose(
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
    how = geometry(weight.dim() - 2, stride, padding, dilation, groups)
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax, residual_scale)
    weighted = Weight(packed_weight(weight), weight_scale, bias)
    return _in(
        out_dtype, cpu.conv_transpose(x, x_scale, weighted, how, output_padding, then, residual)
    )


def _matmul(
    a: Tensor,
    a_scale: float,
    b: Tensor,
    b_scale: float,
    out_scale: float | None = None,
    out_qmin: int = QMIN,
    out_qmax: int = QMAX,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    then = Epilogue("none", (), out_scale, out_qmin, out_qmax)
    return _in(out_dtype, cpu.matmul(a, a_scale, b, b_scale, then))


def _add(
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
    then = Epilogue(activation, activation_args, out_scale, out_qmin, out_qmax)
    return _in(out_dtype, cpu.add(a, a_scale, b, b_scale, then))


IMPLEMENTED = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "add": _add,
}
for _name, _function in IMPLEMENTED.items():
    LIBRARY.impl(_name, _function, "CPU")

cuda.register(LIBRARY, *IMPLEMENTED)
shapes.register(LIBRARY)
