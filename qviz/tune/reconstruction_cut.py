"""Which part of an op's values is kept to fit it on: windows, rows or elements of every sample.

A conv on a large image has thousands of output positions per sample, each a sample of the layer's
regression; a few hundred are enough, and cost as much less. So a conv keeps one window at a random
place of every sample (its input padded and cut to what the window reads), a linear keeps random
rows, an add random elements. Everything else is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.graph import TensorInfo
from qviz.tune.importance import Importance, is_product, samples_first

#: Output positions kept per sample, about.
POSITIONS = 256
#: Rows kept of a batch whose samples are mixed.
MIXED = 32 * POSITIONS
#: Elements of an add kept per sample.
ELEMENTS = 4096


#: What an op reads, and what it makes with the weights of that if there are any.
Parts = tuple[list[Tensor], list[Tensor]]
Take = Callable[[Sequence[Tensor], Sequence[Tensor], torch.Generator, Importance | None], Parts]


@dataclass(frozen=True)
class Cut:
    """How values are cut, and how the op is called on the parts.

    Attributes:
        take: from whole values, samples first, to parts: (inputs, the output and what else has its
            shape, generator, what counts or None) -> (inputs, outputs), each ``[E, ...]`` with
            ``E`` a multiple of the number of samples.
        arguments: the op's arguments for parts, from those for whole values.
        native: a part of an input as the op reads it, by the input's index.
        common: the op's output for parts, entries first.
    """

    take: Take
    arguments: Callable[[list[Any]], list[Any]]
    native: Callable[[int, Tensor], Tensor]
    common: Callable[[Tensor], Tensor]


def _as_read(value: Tensor, info: TensorInfo) -> Tensor:
    """The inverse of ``samples_first`` for samples that can be told apart."""
    assert info.batch_dim is not None
    first = value if info.batch_multiple == 1 else value.flatten(0, 1)
    return first.movedim(0, info.batch_dim)


def cut_of(
    kind: str,
    args: Sequence[Any],
    weight: Tensor | None,
    reads: Sequence[TensorInfo],
    made: TensorInfo,
) -> Cut:
    """How to cut one op.

    Args:
        kind: its type.
        args: its arguments.
        weight: its stored weight.
        reads: the values it reads, in the order of its arguments.
        made: its output.
    """
    if kind in ("conv1d", "conv2d", "conv3d") and weight is not None:
        window = _window(args, weight, made)
        if window is not None:
            return window
    if kind == "linear" and weight is not None:
        return Cut(_rows, list, _same, _entries)
    if kind == "add" and len(reads) == 2:
        return Cut(_elements, list, _same, _entries)
    return Cut(
        _product if kind == "matmul" and len(args) == 2 and is_product(*reads, made) else _whole,
        list,
        lambda index, part: _as_read(part, reads[index]),
        lambda value: samples_first(value, made),
    )


def _same(index: int, part: Tensor) -> Tensor:
    return part


def _entries(value: Tensor) -> Tensor:
    return value


def _whole(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    generator: torch.Generator,
    importance: Importance | None,
) -> Parts:
    return list(inputs), list(outputs)


def _rows(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    generator: torch.Generator,
    importance: Importance | None,
) -> Parts:
    """Random rows of what a linear reads and makes: ``[B k, in]`` and ``[B k, out]``."""
    values = [v.reshape(v.shape[0], -1, v.shape[-1]) for v in (*inputs, *outputs)]
    samples, rows = values[-1].shape[:2]
    most = POSITIONS if samples > 1 else MIXED
    live = None if importance is None else importance.rows > 0
    chosen, each = _chosen(samples, rows, most, generator, live)
    parts = [v.gather(1, chosen[..., None].expand(-1, -1, v.shape[-1])) for v in values]
    made = [parts[len(inputs)], *(w * each[:, None, None] for w in parts[len(inputs) + 1 :])]
    return [v.flatten(0, 1) for v in parts[: len(inputs)]], [v.flatten(0, 1) for v in made]


def _elements(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    generator: torch.Generator,
    importance: Importance | None,
) -> Parts:
    """The same random elements of what an add reads and makes: ``[B, k]``."""
    values = [v.reshape(v.shape[0], -1) for v in (*inputs, *outputs)]
    samples, count = values[-1].shape
    live = None
    if importance is not None:
        rows = importance.rows > 0
        live = rows.repeat_interleave(count // rows.shape[1], 1)
    chosen, each = _chosen(samples, count, ELEMENTS, generator, live)
    parts = [v.gather(1, chosen) for v in values]
    made = [parts[len(inputs)], *(w * each[:, None] for w in parts[len(inputs) + 1 :])]
    return parts[: len(inputs)], made


def _product(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    generator: torch.Generator,
    importance: Importance | None,
) -> Parts:
    """Random rows of the first factor and columns of the second, and what they make."""
    left, right = inputs
    *lead, rows, columns = outputs[0].shape
    live = [torch.ones(*lead, count, dtype=torch.bool) for count in (rows, columns)]
    if importance is not None:
        live = [importance.rows > 0, importance.columns > 0]
    (of_rows, each_row), (of_columns, each_column) = (
        _chosen(own.numel() // count, count, POSITIONS, generator, own.reshape(-1, count))
        for own, count in zip(live, (rows, columns), strict=True)
    )
    of_rows, of_columns = (chosen.reshape(*lead, -1) for chosen in (of_rows, of_columns))
    made = [_columns(_columns(y.mT, of_rows).mT, of_columns) for y in outputs]
    each = (each_row * each_column).reshape(*lead, 1, 1)
    made = [made[0], *(w * each for w in made[1:])]
    return [_columns(left.mT, of_rows).mT, _columns(right, of_columns)], made


def _columns(value: Tensor, chosen: Tensor) -> Tensor:
    """Some columns of each matrix of ``[..., m, n]``; which ones is ``[..., k]``."""
    return value.gather(-1, chosen[..., None, :].expand(*value.shape[:-1], -1))


def _chosen(
    samples: int, count: int, most: int, generator: torch.Generator, live: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices below ``count`` for each sample, ``[samples, min(count, most)]``.

    They are different, but where fewer than that are ``live``, ``[samples, count]``: then these
    come again.

    Returns:
        The indices, and how many live ones each of them stands for, ``[samples]``.
    """
    if live is not None and not bool(live.all()):
        live = live | ~live.any(1, keepdim=True)  # where none is, none is better than another
        alive = live.sum(1, keepdim=True)
        keys = torch.rand(samples, count, generator=generator) + live
        places = torch.arange(min(count, most)) % alive
        return keys.argsort(1, descending=True).gather(1, places), alive[:, 0] / places.shape[1]
    each = torch.full((samples,), count / min(count, most))
    if count <= most:
        return torch.arange(count).expand(samples, count), each
    keys = torch.rand(samples, count, generator=generator)
    return keys.topk(most, 1).indices, each


def _window(args: Sequence[Any], weight: Tensor, made: TensorInfo) -> Cut | None:
    """Windows of a conv's output, None if it is small enough to be kept whole."""
    axes = weight.dim() - 2
    outputs = made.shape[-axes:]
    side = round(POSITIONS ** (1 / axes))
    sizes = [min(side, n) for n in outputs]
    named = dict(zip(("stride", "padding", "dilation"), args[3:6], strict=False))
    stride, padding, dilation = (
        _each(named.get(name, default), axes)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    if padding is None or stride is None or dilation is None or sizes == list(outputs):
        return None
    kernel = weight.shape[2:]
    spans = [
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(sizes, stride, dilation, kernel, strict=True)
    ]
    around = [p for side in reversed(padding) for p in (side, side)]

    def take(
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        generator: torch.Generator,
        importance: Importance | None,
    ) -> Parts:
        x, y = (v.flatten(0, -axes - 2) for v in (*inputs, *outputs))
        x = F.pad(x, around)
        xs, ys = [], []
        for one, other in zip(x, y, strict=True):
            for axis, (n, s, span) in enumerate(zip(sizes, stride, spans, strict=True), 1):
                room = other.shape[axis] - n + 1
                at = int(torch.randint(room, (), generator=generator))
                one, other = one.narrow(axis, at * s, span), other.narrow(axis, at, n)
            xs.append(one)
            ys.append(other)
        return [torch.stack(xs)], [torch.stack(ys)]

    def arguments(given: list[Any]) -> list[Any]:
        new = list(given)
        if len(new) > 4:
            new[4] = [0] * axes
        return new

    return Cut(take, arguments, _same, _entries)


def _each(value: object, axes: int) -> list[int] | None:
    """One number per axis; None for a padding that is given by name."""
    if isinstance(value, int):
        return [value] * axes
    if not isinstance(value, list | tuple):
        return None
    return [int(v) for v in value] * (axes if len(value) == 1 else 1)
