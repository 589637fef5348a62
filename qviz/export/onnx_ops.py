"""TRANSLATORS: how each aten op is written in ONNX. Here arithmetic, activations and logic.

A row for each op; ``onnx_ops_shape.py`` has what moves values, ``onnx_ops_index.py`` what looks
them up or makes them, ``onnx_ops_nn.py`` what has weights or windows,
``onnx_ops_activations.py`` the activations. What is not in the table is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qviz.export.onnx_call import Call, Translator
from qviz.export.onnx_ops_activations import ACTIVATIONS, unary
from qviz.export.onnx_ops_index import LOOKUPS
from qviz.export.onnx_ops_nn import LAYERS
from qviz.export.onnx_ops_shape import MOVES
from qviz.rewrite import aten


def _binary(kind: str) -> Translator:
    """``self kind alpha * other`` in the dtype of the result."""

    def translate(c: Call) -> str:
        alpha = c.a.get("alpha", 1)
        if c.node.target is aten.add.Tensor and alpha == 1:
            return c.result(kind, *_addends(c))
        other = c.tensor("other")
        if alpha != 1:
            other = c.emit("Mul", other, c.b.scalar(alpha, c.val.dtype))
        return c.result(kind, c.tensor("self"), other)

    return translate


def _addends(c: Call) -> tuple[str, str]:
    """Both inputs of an add; a residual's may be rounded."""
    if all(_real(c, p) for p in (0, 1)):
        return c.read(0), c.read(1)
    return c.tensor("self"), c.tensor("other")


def _real(c: Call, position: int) -> bool:
    value = getattr(c.node.args[position], "meta", {}).get("val")
    return isinstance(value, Tensor) and value.dtype == c.val.dtype


def _promoted(c: Call, keys: tuple[str, str] = ("self", "other")) -> torch.dtype:
    """The dtype in which two arguments meet; a plain number takes the tensor's."""
    kinds: list[torch.dtype] = []
    for key in keys:
        value = getattr(c.a[key], "meta", {}).get("val")
        if isinstance(value, Tensor):
            kinds.append(value.dtype)
        elif isinstance(c.a[key], float):
            kinds.append(torch.float32)
    return kinds[0] if len(kinds) == 1 else torch.promote_types(*kinds)


def _comparison(kind: str, *, inverted: bool = False) -> Translator:
    def translate(c: Call) -> str:
        dtype = _promoted(c)
        if dtype == torch.bool and kind != "Equal":
            dtype = torch.int32
        pair = (c.cast(c.a["self"], dtype), c.cast(c.a["other"], dtype))
        if not inverted:
            return c.result(kind, *pair)
        return c.result("Not", c.emit(kind, *pair))

    return translate


def _logic(kind: str) -> Translator:
    def translate(c: Call) -> str:
        bits = c.val.dtype != torch.bool
        name = f"Bitwise{kind}" if bits else kind
        if "other" not in c.a:
            return c.result(name, c.cast(c.a["self"], c.val.dtype))
        return c.result(name, c.tensor("self"), c.tensor("other"))

    return translate


def _division(c: Call) -> str:
    mode = c.a.get("rounding_mode")
    pair = (c.tensor("self"), c.tensor("other"))
    if mode is None:
        return c.result("Div", *pair)
    if not c.val.is_floating_point():
        if mode == "trunc":
            return c.result("Div", *pair)
        raise c.refuse("a whole-number division that rounds down")
    if mode == "floor":
        return c.result("Floor", c.emit("Div", *pair))
    raise c.refuse(f"rounding mode {mode}")


def _power(c: Call) -> str:
    exponent = c.a["exponent"]
    x = c.tensor("self")
    if exponent == 2:
        return c.result("Mul", x, x)
    return c.result("Pow", x, c.tensor("exponent"))


def _square(c: Call) -> str:
    return c.result("Mul", c.tensor("self"), c.tensor("self"))


def _rsqrt(c: Call) -> str:
    return c.result("Reciprocal", c.emit("Sqrt", c.tensor("self"), main=True), main=False)


def _where(c: Call) -> str:
    return c.result("Where", c.value("condition").name, c.tensor("self"), c.tensor("other"))


def _masked_fill(c: Call) -> str:
    return c.result("Where", c.cast(c.a["mask"], torch.bool), c.tensor("value"), c.tensor("self"))


def _cast(c: Call) -> str:
    name = c.value().name
    to = c.b.element(c.val.dtype)
    same = c.b.dtype(c.value().val.dtype) == c.b.dtype(c.val.dtype)
    return name if same else c.result("Cast", name, to=to)


def _reduction(kind: str) -> Translator:
    def translate(c: Call) -> str:
        dims: Any = c.a.get("dim")
        dims = list(range(len(c.shape()))) if dims is None or dims == [] else dims
        dims = [dims] if isinstance(dims, int) else dims
        axes = c.b.integers(*(c.axis(d) for d in dims))
        keep = int(c.a.get("keepdim", False))
        return c.result(kind, c.tensor("self"), axes, keepdims=keep)

    return translate


def _norm(c: Call) -> str:
    kind = {1: "ReduceL1", 2: "ReduceL2"}.get(c.a["ord"])
    if kind is None:
        raise c.refuse(f"a norm of order {c.a['ord']}")
    return str(_reduction(kind)(c))


def _cumsum(c: Call) -> str:
    x = c.cast(c.a["self"], c.val.dtype)
    return c.result("CumSum", x, c.b.scalar(c.axis(c.a["dim"]), torch.int64))


def _argmax(kind: str) -> Callable[[Call], str]:
    def translate(c: Call) -> str:
        if c.a["dim"] is None:
            raise c.refuse("an index into the flattened values")
        keep = int(c.a["keepdim"])
        return c.result(kind, c.value().name, axis=c.axis(c.a["dim"]), keepdims=keep)

    return translate


_UNARY = {
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sqrt.default: "Sqrt",
    aten.abs.default: "Abs",
    aten.neg.default: "Neg",
    aten.cos.default: "Cos",
    aten.sin.default: "Sin",
    aten.erf.default: "Erf",
    aten.floor.default: "Floor",
    aten.ceil.default: "Ceil",
    aten.round.default: "Round",
    aten.sign.default: "Sign",
    aten.reciprocal.default: "Reciprocal",
}
_BINARY = {
    "Add": (aten.add.Tensor, aten.add.Scalar),
    "Sub": (aten.sub.Tensor, aten.sub.Scalar),
    "Mul": (aten.mul.Tensor, aten.mul.Scalar),
    "Max": (aten.maximum.default, aten.max.other),
    "Min": (aten.minimum.default, aten.min.other),
}
_COMPARED = {"eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual"}
_COMPARED |= {"lt": "Less", "le": "LessOrEqual"}
_REDUCED = {
    "ReduceMean": (aten.mean.dim, aten.mean.default),
    "ReduceSum": (aten.sum.dim_IntList, aten.sum.default),
    "ReduceMax": (aten.amax.default,),
    "ReduceMin": (aten.amin.default,),
}

#: aten op -> how it is written.
TRANSLATORS: dict[Any, Translator] = {
    **ACTIVATIONS,
    **LAYERS,
    **LOOKUPS,
    **MOVES,
    **{target: unary(kind) for target, kind in _UNARY.items()},
    **{target: _binary(kind) for kind, targets in _BINARY.items() for target in targets},
    **{
        getattr(getattr(aten, name), form): _comparison(kind)
        for name, kind in _COMPARED.items()
        for form in ("Scalar", "Tensor")
    },
    **{target: _reduction(kind) for kind, targets in _REDUCED.items() for target in targets},
    aten.ne.Scalar: _comparison("Equal", inverted=True),
    aten.ne.Tensor: _comparison("Equal", inverted=True),
    aten.div.Tensor: _division,
    aten.div.Tensor_mode: _division,
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Tensor_Tensor: _power,
    aten.square.default: _square,
    aten.rsqrt.default: _rsqrt,
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    aten.to.dtype: _cast,
    aten.to.device: _cast,
    aten.to.dtype_layout: _cast,
    aten._to_copy.default: _cast,
    aten.type_as.default: _cast,
    aten.logical_not.default: _logic("Not"),
    aten.bitwise_not.default: _logic("Not"),
    aten.logical_and.default: _logic("And"),
    aten.logical_or.default: _logic("Or"),
    aten.__and__.Tensor: _logic("And"),
    aten.__or__.Tensor: _logic("Or"),
    aten.bitwise_and.Tensor: _logic("And"),
    aten.bitwise_or.Tensor: _logic("Or"),
    aten.cumsum.default: _cumsum,
    aten.linalg_vector_norm.default: _norm,
    aten.argmax.default: _argmax("ArgMax"),
    aten.argmin.default: _argmax("ArgMin"),
}
