"""What each aten op is to quantization: its type, its operands, whether codes pass it, its cost.

A table per question; ``capture.py`` asks them of every node.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from qviz.rewrite import CONVS, TRANSPOSED_CONVS, aten

#: Matrix products of two activations (or an activation and a parameter).
MATMULS = {
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
    aten.mm.default: "matmul",
    aten.baddbmm.default: "matmul",
}
LINEARS = {aten.linear.default: "linear", aten.addmm.default: "linear"}
ADDS = {aten.add.Tensor: "add"}

#: Ops through which int8 codes pass unchanged, with the scale of what they read.
PASSTHROUGH = {
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.adaptive_max_pool2d.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.numpy_T.default,
    aten.movedim.int,
    aten.slice.Tensor,
    aten.select.int,
    aten.narrow.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.unbind.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.roll.default,
    aten.flip.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.channel_shuffle.default,
}
#: Padding passes codes only where it pads with zero, which every grid represents exactly.
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
#: Concatenation passes codes too, but several tensors meet: its output has a range of its own.
CONCATENATIONS = {aten.cat.default, aten.stack.default}

NONNEGATIVE = {
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softmax.int,
    aten._softmax.default,
    aten._safe_softmax.default,
    aten.abs.default,
    aten.exp.default,
    aten.square.default,
    aten.softplus.default,
}
#: Non-negative if what they read is.
_KEEP_SIGN = (
    PASSTHROUGH
    | _PADS
    | CONCATENATIONS
    | {
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.mean.dim,
        aten.mul.Tensor,
        aten.add.Tensor,
    }
)

_OPAQUE = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
#: Ops that read only some rows of a table.
LOOKUPS = {"embedding", "embedding_bag", "index", "gather", "index_select"}


def label(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``; linear for addmm; matmul for bmm and mm."""
    for table in (CONVS, TRANSPOSED_CONVS, LINEARS, MATMULS):
        if node.target in table:
            return table[node.target]
    name = getattr(node.target, "_schema", None)
    text = name.name.split("::")[1] if name is not None else getattr(node.target, "__name__", "")
    text = text.removesuffix("_").removeprefix("_")
    return {"safe_softmax": "softmax"}.get(text, text)


def passes_codes(node: fx.Node) -> bool:
    """Whether int8 codes pass the op unchanged (max-pool, reshape, zero padding, cat ...)."""
    if node.target in _PADS:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        if node.target is aten.constant_pad_nd.default:
            mode, value = "constant", node.args[2] if len(node.args) > 2 else 0
        return mode != "constant" or not value
    return node.target in PASSTHROUGH or node.target in CONCATENATIONS


def nonnegative(node: fx.Node, known: dict[fx.Node, bool]) -> bool:
    """Whether no output value can be below zero."""
    if node.target in NONNEGATIVE:
        return True
    if node.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min_val", -1.0)
        return isinstance(low, int | float) and low >= 0
    if node.target in _KEEP_SIGN or getattr(node.target, "__name__", "") == "getitem":
        tensors = [
            n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor | tuple | list)
        ]
        return bool(tensors) and all(known.get(n, False) for n in tensors) and not _negative(node)
    return False


def _negative(node: fx.Node) -> bool:
    """Whether a number among the arguments of a product, sum or padding is below zero."""
    if node.target not in _PADS | {aten.mul.Tensor, aten.add.Tensor}:
        return False  # numbers are axes and sizes
    numbers = (*node.args, *node.kwargs.values())
    return any(isinstance(a, int | float) and a < 0 for a in numbers)


def elements(value: Tensor, hint: dict[Any, int]) -> int:
    """Number of elements of a fake tensor with the batch symbol set to its hint; 0 if unknown."""
    return max(0, math.prod(concrete(s, hint) for s in value.shape))


def concrete(size: int | torch.SymInt, hint: dict[Any, int]) -> int:
    """A size as a number, with the batch symbol set to its hint; -1 if it depends on the data."""
    if isinstance(size, int):
        return size
    value = size.node.expr.subs(hint)
    return int(value) if value.is_number else -1


def macs(node: fx.Node, hint: dict[Any, int], samples: int) -> int:
    """Multiply-accumulates per sample; 0 for ops without products over a sum."""
    out = node.meta.get("val")
    if not isinstance(out, Tensor):
        return 0
    count = elements(out, hint)
    if node.target in CONVS:
        weight = node.args[1].meta["val"]  # type: ignore[union-attr]
        return count * math.prod(int(s) for s in weight.shape[1:]) // samples
    if node.target in TRANSPOSED_CONVS:
        weight, x = node.args[1].meta["val"], node.args[0].meta["val"]  # type: ignore[union-attr]
        return elements(x, hint) * math.prod(int(s) for s in weight.shape[1:]) // samples
    if node.target is aten.linear.default or node.target in MATMULS or node.target in LINEARS:
        first = {aten.addmm.default: 1, aten.baddbmm.default: 1}.get(node.target, 0)
        x = node.args[first].meta["val"]  # type: ignore[union-attr]
        return count * concrete(x.shape[-1], hint) // samples
    return 0


def float_reason(node: fx.Node) -> str:
    """Why an op that is neither quantizable nor pass-through stays float, in words."""
    kind = label(node)
    value = node.meta.get("val")
    if isinstance(value, Tensor) and not value.is_floating_point():
        return "works on integers or booleans, not on float values"
    if kind in _OPAQUE:
        return f"{kind} is one opaque op: torch.export does not show the products inside"
    if kind in LOOKUPS:
        return f"{kind} looks values up by index: no arithmetic to quantize"
    if kind == "batch_norm":
        return _norm_reason(node)
    if kind == "add":
        return add_reason(node) or ""
    if kind == "einsum":
        return "einsum is not split into matmuls: write it as torch.matmul to quantize it"
    if not any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes):
        return "makes a constant"
    return f"{kind} has no int8 arithmetic"


def _norm_reason(node: fx.Node) -> str:
    source = node.args[0]
    if node.args[5]:
        return "normalizes with the statistics of the batch, so there is nothing to fold"
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return "no conv or linear directly before it to be folded into"
    if source.target not in CONVS | TRANSPOSED_CONVS | LINEARS:
        return "no conv or linear directly before it to be folded into"
    if len(source.users) > 1:
        return f"the {label(source)} before it has other readers, so it cannot be folded"
    return f"not folded into the {label(source)} before it"


def add_reason(node: fx.Node) -> str | None:
    """Why an addition is not a residual add of two activations, None if it is one."""
    left, right = node.args[:2]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return "adds a constant"
    if node.kwargs.get("alpha", 1) != 1:
        return "adds with a factor"
    if left is right:
        return "adds a tensor to itself"
    a, b = left.meta["val"], right.meta["val"]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return "adds a constant"
    if tuple(a.shape) != tuple(b.shape):
        return "adds with broadcasting"
    return None
