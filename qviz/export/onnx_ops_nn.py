"""LAYERS: aten ops with weights or windows, written in ONNX."""

from __future__ import annotations

import math
from typing import Any

import torch

from qviz.export.onnx_call import Call, Translator
from qviz.rewrite import CONVS, TRANSPOSED_CONVS, aten


def _each(value: Any, count: int) -> list[int]:  # noqa: ANN401 - a number or a list
    """A setting per axis; torch lets one number stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _conv(c: Call) -> str:
    dims = len(c.shape("weight")) - 2
    kernel = c.shape("weight")[2:]
    stride, dilation = (_each(c.a[k], dims) for k in ("stride", "dilation"))
    pads = _pads(c.a["padding"], kernel, dilation)
    x = c.read(0)
    single = len(c.shape("input")) == dims + 1  # one sample without a batch axis
    if single:
        x = c.emit("Unsqueeze", x, c.b.integers(0))
    write = c.emit if single else c.result
    y = write(
        "Conv",
        *_present(x, c.read(1), c.optional("bias")),
        main=True,
        strides=stride,
        dilations=dilation,
        pads=pads,
        group=c.a["groups"],
        kernel_shape=kernel,
    )
    return c.result("Squeeze", y, c.b.integers(0), main=False) if single else y


def _pads(padding: Any, kernel: list[int], dilation: list[int]) -> list[int]:  # noqa: ANN401
    """Zeros before every axis, then after every axis."""
    if padding == "valid":
        return [0] * (2 * len(kernel))
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    return _each(padding, len(kernel)) * 2


def _present(*names: str) -> list[str]:
    """Names without the empty ones at the end."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _conv_transpose(c: Call) -> str:
    kernel = c.shape("weight")[2:]
    dims = len(kernel)
    if len(c.shape("input")) != dims + 2:
        raise c.refuse("a single sample without a batch axis")
    stride, dilation, extra = (
        _each(c.a[k], dims) for k in ("stride", "dilation", "output_padding")
    )
    return c.result(
        "ConvTranspose",
        *_present(c.read(0), c.read(1), c.optional("bias")),
        strides=stride,
        dilations=dilation,
        pads=_each(c.a["padding"], dims) * 2,
        output_padding=extra,
        group=c.a["groups"],
        kernel_shape=kernel,
    )


def _linear(c: Call) -> str:
    if len(c.shape("input")) == 2:
        inputs = _present(c.read(0), c.read(1), c.optional("bias"))
        return c.result("Gemm", *inputs, transB=1)
    x = c.read(0)
    weight = _transposed_weight(c)
    if c.a["bias"] is None:
        return c.result("MatMul", x, weight)
    product = c.emit("MatMul", x, weight, main=True)
    return c.result("Add", product, c.value("bias").name, main=False)


def _transposed_weight(c: Call) -> str:
    """A linear weight as MatMul wants it, (inputs, outputs)."""
    if c.transposed_weights and c.operands.rounds(c.node, 1):
        return c.read(1, transpose=True)
    return c.emit("Transpose", c.read(1), perm=[1, 0])


def _addmm(c: Call) -> str:
    factors = {"alpha": float(c.a["alpha"]), "beta": float(c.a["beta"])}
    given: dict[str, Any] = {k: v for k, v in factors.items() if v != 1.0}
    return c.result("Gemm", c.read(1), c.read(2), c.value().name, **given)


def _matmul(c: Call) -> str:
    return c.result("MatMul", c.read(0), c.read(1))


def _baddbmm(c: Call) -> str:
    product = c.emit("MatMul", c.read(1), c.read(2), main=True)
    added = c.value().name
    if c.a["alpha"] != 1:
        product = c.emit("Mul", product, c.b.scalar(c.a["alpha"], c.val.dtype))
    if c.a["beta"] != 1:
        added = c.emit("Mul", added, c.b.scalar(c.a["beta"], c.val.dtype))
    return c.result("Add", product, added, main=False)


def _layer_norm(c: Call) -> str:
    shape = list(c.a["normalized_shape"])
    weight = c.optional("weight") or c.b.store_once(torch.ones(shape), f"ones/{shape}")
    inputs = _present(c.value("input").name, weight, c.optional("bias"))
    return c.result("LayerNormalization", *inputs, axis=-len(shape), epsilon=float(c.a["eps"]))


def _group_norm(c: Call) -> str:
    """Instance normalization of the groups: opset 20 has no form with a factor per channel."""
    groups, rank = c.a["num_groups"], c.val.dim()
    ones = c.b.store_once(torch.ones(groups), f"ones/{groups}")
    zeros = c.b.store_once(torch.zeros(groups), f"zeros/{groups}")
    flat = c.emit("Reshape", c.value("input").name, c.b.integers(0, groups, -1))
    y = c.emit("InstanceNormalization", flat, ones, zeros, main=True, epsilon=float(c.a["eps"]))
    shape = c.emit("Shape", c.value("input").name)
    last = c.a["weight"] is None and c.a["bias"] is None
    if last:
        return c.result("Reshape", y, shape, main=False)
    y = c.emit("Reshape", y, shape)
    per_channel = c.b.integers(-1, *[1] * (rank - 2))
    if c.a["weight"] is not None:
        factor = c.emit("Reshape", c.value("weight").name, per_channel)
        write = c.emit if c.a["bias"] is not None else c.result
        y = write("Mul", y, factor, main=False)
    if c.a["bias"] is not None:
        y = c.result("Add", y, c.emit("Reshape", c.value("bias").name, per_channel), main=False)
    return y


def _instance_norm(c: Call) -> str:
    channels = c.shape("input")[1]
    if c.a["running_mean"] is not None and not c.a["use_input_stats"]:
        raise c.refuse("it normalizes with stored statistics")
    weight = c.optional("weight") or c.b.store_once(torch.ones(channels), f"ones/{channels}")
    bias = c.optional("bias") or c.b.store_once(torch.zeros(channels), f"zeros/{channels}")
    inputs = (c.value("input").name, weight, bias)
    return c.result("InstanceNormalization", *inputs, epsilon=float(c.a["eps"]))


def _batch_norm(c: Call) -> str:
    if c.a["training"] or c.a["running_mean"] is None:
        raise c.refuse("it normalizes with the statistics of the batch")
    channels = c.shape("input")[1]
    weight = c.optional("weight") or c.b.store_once(torch.ones(channels), f"ones/{channels}")
    bias = c.optional("bias") or c.b.store_once(torch.zeros(channels), f"zeros/{channels}")
    stored = (c.value(k).name for k in ("running_mean", "running_var"))
    inputs = (c.value("input").name, weight, bias, *stored)
    return c.result("BatchNormalization", *inputs, epsilon=float(c.a["eps"]))


def _window(c: Call, dims: int) -> dict[str, Any]:
    kernel = _each(c.a["kernel_size"], dims)
    return {
        "kernel_shape": kernel,
        "strides": _each(c.a["stride"] or kernel, dims),
        "pads": _each(c.a["padding"], dims) * 2,
        "ceil_mode": int(c.a["ceil_mode"]),
    }


def _batched(c: Call, dims: int) -> None:
    if c.val.dim() != dims + 2:
        raise c.refuse("a single sample without a batch axis")


def _max_pool(dims: int) -> Translator:
    def translate(c: Call) -> str:
        _batched(c, dims)
        dilation = _each(c.a["dilation"], dims)
        return c.result("MaxPool", c.value().name, dilations=dilation, **_window(c, dims))

    return translate


def _avg_pool(dims: int) -> Translator:
    def translate(c: Call) -> str:
        _batched(c, dims)
        if c.a.get("divisor_override") is not None:
            raise c.refuse("a divisor of its own")
        padded = int(c.a["count_include_pad"])
        x = c.value().name
        return c.result("AveragePool", x, count_include_pad=padded, **_window(c, dims))

    return translate


def _adaptive(kind: str, dims: int) -> Translator:
    def translate(c: Call) -> Any:  # noqa: ANN401 - one name, or two for max with indices
        _batched(c, dims)
        sizes, wanted = c.shape()[-dims:], _each(c.a["output_size"], dims)
        if all(w == 1 for w in wanted):
            return c.result(f"Global{kind}", c.value().name)
        if not all(isinstance(s, int) and s % w == 0 for s, w in zip(sizes, wanted, strict=True)):
            raise c.refuse(f"windows of unequal size, {sizes} to {wanted}")
        window = [s // w for s, w in zip(sizes, wanted, strict=True)]
        return c.result(kind, c.value().name, kernel_shape=window, strides=window)

    return translate


def _resize(mode: str) -> Translator:
    """Nearest or (bi)linear upsampling to the captured size."""

    def translate(c: Call) -> str:
        key = "input" if "input" in c.a else "self"
        target = list(c.val.shape[2:])
        if not all(isinstance(s, int) for s in target):
            raise c.refuse("a size that depends on the batch")
        x = c.value(key).name
        kept = c.emit("Shape", x, start=0, end=2)
        sizes = c.b.node("Concat", (kept, c.b.integers(*target)), axis=0)
        how: dict[str, Any]
        if mode == "nearest":
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        else:
            corners = c.a["align_corners"]
            how = {"coordinate_transformation_mode": "align_corners" if corners else "half_pixel"}
            how |= {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
        factors = c.a.get("scale_factors")
        if factors is not None and not all(
            math.isclose(s * f, t)
            for s, f, t in zip(c.shape(key)[2:], factors, target, strict=True)
        ):
            raise c.refuse("a scale factor that gives no whole size")
        return c.result("Resize", x, "", "", sizes, mode=mode, **how)

    return translate


LAYERS: dict[Any, Translator] = {
    **dict.fromkeys(CONVS, _conv),
    **dict.fromkeys(TRANSPOSED_CONVS, _conv_transpose),
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.baddbmm.default: _baddbmm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.batch_norm.default: _batch_norm,
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.avg_pool1d.default: _avg_pool(1),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
    aten.adaptive_avg_pool1d.default: _adaptive("AveragePool", 1),
    aten.adaptive_avg_pool2d.default: _adaptive("AveragePool", 2),
    aten.upsample_nearest2d.vec: _resize("nearest"),
    aten.upsample_bilinear2d.vec: _resize("linear"),
    aten.upsample_bicubic2d.vec: _resize("cubic"),
}
