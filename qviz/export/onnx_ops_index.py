"""LOOKUPS: aten ops that look values up by index, or make values of a size, written in ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qviz.export.onnx_call import Call, Translator
from qviz.rewrite import aten


def _embedding(c: Call) -> str:
    return c.result("Gather", c.value("weight").name, c.value("indices").name, axis=0)


def _index_select(c: Call) -> str:
    return c.result("Gather", c.value().name, c.value("index").name, axis=c.axis(c.a["dim"]))


def _gather(c: Call) -> str:
    index = c.value("index").name
    return c.result("GatherElements", c.value().name, index, axis=c.axis(c.a["dim"]))


def _index(c: Call) -> str:
    """Advanced indexing by integers: one axis, or the leading ones together."""
    given: list[fx.Node | None] = list(c.a["indices"])
    used = [i for i, v in enumerate(given) if v is not None]
    kinds = {given[i].meta["val"].dtype for i in used}  # type: ignore[union-attr]
    if kinds & {torch.bool, torch.uint8}:
        raise c.refuse("a mask as an index gives a size that depends on the data")
    if len(used) == 1:
        index = c.cast(given[used[0]], torch.int64)
        return c.result("Gather", c.value().name, index, axis=used[0])
    if used != list(range(len(used))):
        raise c.refuse("several indices that do not begin at the first axis")
    indices = [c.cast(given[i], torch.int64) for i in used]
    together = indices[0]
    for index in indices[1:]:
        together = c.emit("Add", together, index)
    shape = c.emit("Shape", together)  # they broadcast against each other
    last = c.b.integers(-1)
    spread = [c.emit("Unsqueeze", c.emit("Expand", i, shape), last) for i in indices]
    return c.result("GatherND", c.value().name, c.emit("Concat", *spread, axis=-1))


def _arange(c: Call) -> str:
    start, end, step = (c.a.get(k, d) for k, d in (("start", 0), ("end", None), ("step", 1)))
    limits = (c.cast(v, c.val.dtype) for v in (start, end, step))
    return c.result("Range", *limits)


def _filled(number: float | None) -> Translator:
    """A tensor of one number, of a size that depends on the batch."""

    def translate(c: Call) -> str:
        value = c.a["fill_value"] if number is None else number
        scalar = c.b.scalar(value, c.val.dtype)
        if "size" in c.a:
            return c.result("Expand", scalar, c.sizes(c.a["size"]))
        return c.result("Expand", scalar, c.emit("Shape", c.value().name))

    return translate


def _triangle(upper: bool) -> Translator:
    def translate(c: Call) -> str:
        shift = c.b.scalar(c.a["diagonal"], torch.int64)
        return c.result("Trilu", c.value().name, shift, upper=int(upper))

    return translate


LOOKUPS: dict[Any, Translator] = {
    aten.embedding.default: _embedding,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.index.Tensor: _index,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.ones.default: _filled(1),
    aten.zeros.default: _filled(0),
    aten.full.default: _filled(None),
    aten.new_ones.default: _filled(1),
    aten.new_zeros.default: _filled(0),
    aten.new_full.default: _filled(None),
    aten.ones_like.default: _filled(1),
    aten.zeros_like.default: _filled(0),
    aten.full_like.default: _filled(None),
    aten.triu.default: _triangle(True),
    aten.tril.default: _triangle(False),
}
