"""ACTIVATIONS: aten ops on one tensor, value by value or along an axis, written in ONNX."""

from __future__ import annotations

from typing import Any

from qviz.export.onnx_call import Call, Translator
from qviz.rewrite import aten


def unary(kind: str, **attributes: Any) -> Translator:
    """An op of one tensor that ONNX has too."""

    def translate(c: Call) -> str:
        return c.result(kind, c.tensor("self"), **attributes)

    return translate


def _clip(c: Call) -> str:
    low = c.a.get("min_val", c.a.get("min"))
    high = c.a.get("max_val", c.a.get("max"))
    limits = ["" if v is None else c.cast(v, c.val.dtype) for v in (low, high)]
    return c.result("Clip", c.tensor("self"), *limits)


def _relu6(c: Call) -> str:
    return c.result("Clip", c.tensor("self"), *(c.b.scalar(v, c.val.dtype) for v in (0.0, 6.0)))


def _silu(c: Call) -> str:
    x = c.tensor("self")
    return c.result("Mul", x, c.emit("Sigmoid", x, main=True), main=False)


def _softmax(c: Call) -> str:
    return c.result("Softmax", c.tensor("self"), axis=c.axis(c.a["dim"]))


def _safe_softmax(c: Call) -> str:
    """Zero where a row is hidden completely, for which Softmax gives NaN."""
    weights = c.emit("Softmax", c.tensor("self"), main=True, axis=c.axis(c.a["dim"]))
    hidden = c.emit("IsNaN", weights)
    return c.result("Where", hidden, c.b.scalar(0.0, c.val.dtype), weights, main=False)


def _log_softmax(c: Call) -> str:
    return c.result("LogSoftmax", c.tensor("self"), axis=c.axis(c.a["dim"]))


def _gelu(c: Call) -> str:
    return c.result("Gelu", c.tensor("self"), approximate=c.a["approximate"])


def _leaky(c: Call) -> str:
    return c.result("LeakyRelu", c.tensor("self"), alpha=float(c.a["negative_slope"]))


def _elu(c: Call) -> str:
    if c.a["scale"] != 1 or c.a["input_scale"] != 1:
        raise c.refuse("a scaled elu")
    return c.result("Elu", c.tensor("self"), alpha=float(c.a["alpha"]))


def _prelu(c: Call) -> str:
    slope, rank = c.tensor("weight"), c.val.dim()
    if rank > 2 and c.shape("weight")[0] > 1:  # one slope per channel, which is axis 1
        shape = c.b.integers(-1, *[1] * (rank - 2))
        slope = c.emit("Reshape", slope, shape)
    return c.result("PRelu", c.tensor("self"), slope)


def _softplus(c: Call) -> str:
    if c.a["beta"] != 1:
        raise c.refuse("softplus with a beta")
    return c.result("Softplus", c.tensor("self"))


_PLAIN = {
    aten.relu.default: "Relu",
    aten.sigmoid.default: "Sigmoid",
    aten.tanh.default: "Tanh",
    aten.hardswish.default: "HardSwish",
    aten.mish.default: "Mish",
}

ACTIVATIONS: dict[Any, Translator] = {
    **{target: unary(kind) for target, kind in _PLAIN.items()},
    aten.hardsigmoid.default: unary("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    aten.selu.default: unary("Selu"),
    aten.relu6.default: _relu6,
    aten.hardtanh.default: _clip,
    aten.clamp.default: _clip,
    aten.clamp_min.default: _clip,
    aten.clamp_max.default: _clip,
    aten.silu.default: _silu,
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
    aten._safe_softmax.default: _safe_softmax,
    aten.log_softmax.int: _log_softmax,
    aten.gelu.default: _gelu,
    aten.leaky_relu.default: _leaky,
    aten.elu.default: _elu,
    aten.prelu.default: _prelu,
    aten.softplus.default: _softplus,
}
