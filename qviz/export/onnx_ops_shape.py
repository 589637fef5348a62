"""MOVES: aten ops that move, select or make values, written in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qviz.export.onnx_call import Call, Size, Translator
from qviz.rewrite import aten

#: What torch writes for "to the end".
END = 2**63 - 1


def _reshape(c: Call) -> str:
    key = "shape" if "shape" in c.a else "size"
    sizes = [c.known(v) for v in c.a[key]]
    varying = [i for i, v in enumerate(sizes) if isinstance(v, Size)]
    if len(varying) == 1 and -1 not in sizes:  # then the engine can infer it
        sizes[varying[0]] = -1
    return c.result("Reshape", c.value().name, c.sizes(sizes))


def _as_captured(c: Call) -> str:
    return c.result("Reshape", c.value().name, c.captured_shape())


def _flatten(c: Call) -> str:
    rank = len(c.shape())
    if rank > 1 and c.axis(c.a["start_dim"]) == 1 and c.axis(c.a["end_dim"]) == rank - 1:
        return c.result("Flatten", c.value().name, axis=1)
    return _as_captured(c)


def _permuted(c: Call, order: list[int]) -> str:
    return c.result("Transpose", c.value().name, perm=order)


def _permute(c: Call) -> str:
    return _permuted(c, [c.axis(d) for d in c.a["dims"]])


def _transpose(c: Call) -> str:
    order = list(range(len(c.shape())))
    one, other = c.axis(c.a["dim0"]), c.axis(c.a["dim1"])
    order[one], order[other] = order[other], order[one]
    return _permuted(c, order)


def _reverse(c: Call) -> str:
    return _permuted(c, list(range(len(c.shape())))[::-1])


def _movedim(c: Call) -> str:
    order = list(range(len(c.shape())))
    order.insert(c.axis(c.a["destination"]), order.pop(c.axis(c.a["source"])))
    return _permuted(c, order)


def _slice(c: Call) -> str:
    start, end, step = c.a["start"], c.a["end"], c.a["step"]
    start = 0 if start is None else start
    end = END if end is None else end
    axis = c.axis(c.a["dim"])
    size = c.shape()[axis]
    whole = isinstance(end, int) and (end >= END or (isinstance(size, int) and end >= size))
    if start == 0 and step == 1 and whole:
        return c.value().name
    limits = (c.sizes([v]) for v in (start, end, axis, step))
    return c.result("Slice", c.value().name, *limits)


def _narrow(c: Call) -> str:
    start, length = c.a["start"], c.a["length"]
    if not isinstance(start, int) or not isinstance(length, int):
        raise c.refuse("a window that depends on the batch")
    limits = (c.b.integers(v) for v in (start, start + length, c.axis(c.a["dim"])))
    return c.result("Slice", c.value().name, *limits)


def _select(c: Call) -> str:
    index = c.cast(c.a["index"], torch.int64)
    return c.result("Gather", c.value().name, index, axis=c.axis(c.a["dim"]))


def _squeeze(c: Call) -> str:
    dims = c.a.get("dim")
    dims = list(range(len(c.shape()))) if dims is None else dims
    dims = [dims] if isinstance(dims, int) else dims
    axes = [c.axis(d) for d in dims if c.shape()[c.axis(d)] == 1]
    return c.result("Squeeze", c.value().name, c.b.integers(*axes)) if axes else c.value().name


def _unsqueeze(c: Call) -> str:
    return c.result("Unsqueeze", c.value().name, c.b.integers(c.a["dim"] % c.val.dim()))


def _expand(c: Call) -> str:
    sizes = [1 if isinstance(v, int) and v == -1 else v for v in c.a["size"]]  # 1 keeps a size
    before = c.shape()
    if len(sizes) == len(before) and all(
        v == 1 or (isinstance(v, int) and v == s) for v, s in zip(sizes, before, strict=True)
    ):
        return c.value().name
    return c.result("Expand", c.value().name, c.sizes(sizes))


def _expand_as(c: Call) -> str:
    return c.result("Expand", c.value().name, c.emit("Shape", c.value("other").name))


def _repeat(c: Call) -> str:
    x, extra = c.value().name, len(c.a["repeats"]) - len(c.shape())
    if extra:
        x = c.emit("Unsqueeze", x, c.b.integers(*range(extra)))
    return c.result("Tile", x, c.sizes(c.a["repeats"]))


def _indexed(c: Call, dim: int, order: Any) -> str:  # noqa: ANN401 - a list of numbers
    index = c.b.integers(*(int(i) for i in order))
    return c.result("Gather", c.value().name, index, axis=dim)


def _fixed(c: Call, dim: int) -> int:
    size = c.shape()[dim]
    if not isinstance(size, int):
        raise c.refuse("it goes along the batch")
    return size


def _repeat_interleave(c: Call) -> str:
    if c.a["dim"] is None or not isinstance(c.a["repeats"], int):
        raise c.refuse("repeats that are no fixed number along an axis")
    dim = c.axis(c.a["dim"])
    return _indexed(c, dim, np.repeat(np.arange(_fixed(c, dim)), c.a["repeats"]))


def _flip(c: Call) -> str:
    axes = [c.axis(d) for d in c.a["dims"]]
    one = [-1] * len(axes)
    limits = (c.b.integers(*one), c.b.integers(*([-END] * len(axes))), c.b.integers(*axes))
    return c.result("Slice", c.value().name, *limits, c.b.integers(*one))


def _roll(c: Call) -> str:
    x = c.value().name
    pairs = [(s, c.axis(d)) for s, d in zip(c.a["shifts"], c.a["dims"], strict=True)]
    for number, (shift, dim) in enumerate(pairs):
        cut = -shift % _fixed(c, dim)
        axis = c.b.integers(dim)
        tail = c.emit("Slice", x, c.b.integers(cut), c.b.integers(END), axis)
        head = c.emit("Slice", x, c.b.integers(0), c.b.integers(cut), axis)
        last = number == len(pairs) - 1
        join = c.result if last else c.emit
        x = join("Concat", tail, head, axis=dim)
    return x


def _unbind(c: Call) -> list[str]:
    dim = c.axis(c.a["dim"])
    return [
        c.b.node(
            "Gather",
            (c.value().name, c.b.scalar(i, torch.int64)),
            outputs=(f"{c.name}[{i}]",),
            axis=dim,
        )
        for i in range(_fixed(c, dim))
    ]


def _split(c: Call) -> list[str]:
    dim = c.axis(c.a["dim"])
    parts = [part.shape[dim] for part in c.val]
    if not all(isinstance(p, int) for p in parts):
        if c.node.target is not aten.chunk.default:
            raise c.refuse("it goes along the batch")
        names = [f"{c.name}[{i}]" for i in range(len(parts))]
        c.b.node(
            "Split", (c.value().name,), name=c.name, outputs=names, axis=dim,
            num_outputs=len(parts),
        )  # fmt: skip
        return names
    names = [f"{c.name}[{i}]" for i in range(len(parts))]
    sizes = c.b.integers(*parts)
    c.b.node("Split", (c.value().name, sizes), name=c.name, outputs=names, axis=dim)
    return names


def _concat(c: Call) -> str:
    dim = c.a["dim"] % c.val.dim()
    parts = [c.cast(v, c.val.dtype) for v in c.a["tensors"]]
    if c.node.target is aten.stack.default:
        parts = [c.emit("Unsqueeze", p, c.b.integers(dim)) for p in parts]
    return c.result("Concat", *parts, axis=dim)


def _pad(c: Call) -> str:
    given = list(c.a["pad"])
    mode = c.a.get("mode", "constant")
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    rank = c.val.dim()
    before, after = [0] * rank, [0] * rank
    for number in range(len(given) // 2):  # torch counts pairs from the last axis on
        before[rank - 1 - number] = given[2 * number]
        after[rank - 1 - number] = given[2 * number + 1]
    value = c.a.get("value") or 0
    inputs = [c.value().name, c.sizes([*before, *after])]
    if mode == "constant":
        inputs.append(c.b.scalar(value, c.val.dtype))
    return c.result("Pad", *inputs, mode=kinds[mode])


def _pixel_shuffle(c: Call) -> str:
    factor = c.a["upscale_factor"]
    return c.result("DepthToSpace", c.value().name, blocksize=factor, mode="CRD")


def _channel_shuffle(c: Call) -> str:
    count = _fixed(c, 1)
    order = np.arange(count).reshape(c.a["groups"], -1).T.reshape(-1)
    return _indexed(c, 1, order)


def _same(c: Call) -> str:
    return c.value().name


MOVES: dict[Any, Translator] = {
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _as_captured,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _reverse,
    aten.numpy_T.default: _reverse,
    aten.movedim.int: _movedim,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.squeeze.default: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.unsqueeze.default: _unsqueeze,
    aten.expand.default: _expand,
    aten.expand_as.default: _expand_as,
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.flip.default: _flip,
    aten.roll.default: _roll,
    aten.unbind.int: _unbind,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.cat.default: _concat,
    aten.stack.default: _concat,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.clone.default: _same,
    aten.contiguous.default: _same,
    aten.alias.default: _same,
}
