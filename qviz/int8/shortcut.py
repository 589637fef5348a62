"""The second call of an op with the same sizes and numbers goes straight to the kernel.

What lies between an operator and its kernel (which backend, which carrier, which of a dozen
arguments the kernel wants) depends on nothing that changes from batch to batch. So the first call
leaves a note of it at its weight, and a call with an equal key runs the note: this
saves 10 us per op, a seventh of a small layer. Only plain cases leave one: int8's full grid, an
activation that the kernel itself applies, a residual that needs no conversion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qviz.int8.epilogue import QMAX, QMIN, Epilogue
from qviz.int8.layout import is_dense
from qviz.int8.onednn import Call, shifted
from qviz.int8.operands import Carried, Weight

#: Notes per weight: a full batch, the last one, a single sample, a second place that shares it.
MOST_NOTES = 4


class Note(NamedTuple):
    """How to call a kernel for one key."""

    key: tuple[object, ...]
    call: Call
    x_zero_point: int
    packed: Tensor
    contiguous: bool


def kind_of(residual: Tensor | None) -> object:
    """The part of a key that says what the residual is."""
    return residual if residual is None else (residual.dtype, residual.shape, residual.stride())


def find(weight: Weight, key: tuple[object, ...]) -> Note | None:
    """The note for ``key``, if there is one."""
    note: Note
    for note in weight.packed.notes:
        if note.key == key:
            return note
    return None


def leave(
    key: tuple[object, ...],
    call: Call | None,
    x: Carried,
    packed: Tensor,
    weight: Weight,
    then: Epilogue,
    residual: Tensor | None,
    *,
    contiguous: bool,
) -> None:
    """Note how a call that has just succeeded was made, if that is all there was to it.

    Args:
        key: everything about the call that may not change.
        call: the kernel and its arguments; None when there was more to it.
        x: the input.
        packed: the weight as the kernel wants it.
        weight: keeps the note.
        then: what follows the sum.
        residual: of the call.
        contiguous: the output is to be made contiguous.
    """
    if call is None or not call.fused or then.qmin > QMIN or then.qmax < QMAX:
        return
    if residual is not None:
        is_float = residual.dtype is torch.float32
        if not is_float and (residual.is_floating_point() or then.out_scale is None):
            return
        if not is_dense(residual) or (
            call.residual_format is None and not residual.is_contiguous()
        ):
            return
    note = Note(key, call, x.zero_point, packed, contiguous)
    weight.packed.notes = (note, *weight.packed.notes[: MOST_NOTES - 1])


def run(note: Note, x: Tensor, x_scale: float, weight: Weight, residual: Tensor | None) -> Tensor:
    """Call the kernel."""
    point = note.x_zero_point
    data = shifted(x) if point else x.view(torch.uint8)
    packed, scale, bias = weight
    kernel, tail, _, form = note.call
    out: Tensor
    if residual is None:
        out = kernel(data, x_scale, point, note.packed, scale, packed.zero_points, bias, *tail)
    else:
        other = residual if form is None else residual.clone(memory_format=form)
        out = kernel(
            data, x_scale, point, note.packed, scale, packed.zero_points, other, bias, *tail
        )
    return out.contiguous() if note.contiguous else out
