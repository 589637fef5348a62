"""What each op does to the labels of the channels it reads: a table, op -> rule.

A rule gives the labels of the op's result, or None if a factor cannot pass. Only ops f with
f(s x) = s f(x) for s > 0 have one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qviz import optypes
from qviz.execute import Step, fill
from qviz.rewrite import aten
from qviz.tune.channel_labels import FIXED, ZERO

if TYPE_CHECKING:
    from qviz.tune.channel_flow import Walk

Rule = Callable[["Walk", Step, Any], Any]


def spread(labels: Tensor, value: Tensor, axis: int) -> Tensor:
    """Labels ``[C]`` in the shape of a value that has them along ``axis``; takes no memory."""
    shape = [1] * value.dim()
    shape[axis] = -1
    return labels.reshape(shape).expand(value.shape)


def single(labels: Tensor, dims: Sequence[int]) -> Tensor | None:
    """The one label along ``dims``, which keep size 1; None if there are several."""
    for d in dims:
        if labels.stride(d) == 0 and labels.shape[d]:
            labels = labels.narrow(d, 0, 1)  # all entries are one
    if not dims or not labels.numel():
        return labels
    top = labels.amax(tuple(dims), keepdim=True)
    return top if bool(((labels == top) | (labels == ZERO)).all()) else None


def per_channel(labels: Tensor, axis: int) -> Tensor | None:
    """``[C]``: the label of each channel along ``axis``; None if they vary elsewhere."""
    axis %= labels.dim()
    found = single(labels, [d for d in range(labels.dim()) if d != axis])
    return None if found is None else found.flatten()


def narrowed(labels: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Labels of a tensor of ``shape`` that is broadcast to that of ``labels``; None if several."""
    extra = labels.dim() - len(shape)
    dims = [d for d in range(labels.dim()) if d < extra or shape[d - extra] == 1]
    found = single(labels, [d for d in dims if labels.shape[d] > 1])
    if found is None:
        return None
    for _ in range(extra):
        found = found[0]
    return found.expand(*shape).contiguous() if len(shape) else found


def _labels(walk: Walk, argument: object, like: Tensor) -> Tensor:
    """Labels of an argument of a step; what has none must keep its scale."""
    index = getattr(argument, "index", None)
    known = walk.labels.get(index) if isinstance(index, int) else None
    return (known if isinstance(known, Tensor) else torch.tensor(FIXED)).expand(like.shape)


def _has(walk: Walk, argument: object) -> bool:
    return getattr(argument, "index", None) in walk.labels


def _kept(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """Entry by entry, homogeneous in its first argument, which alone has labels."""
    if not _has(walk, step.args[0]) or any(_has(walk, a) for a in step.args[1:]):
        return None
    labels: Tensor = walk.labels[step.args[0].index]
    return labels.expand(value.shape)


def _moves(walk: Walk, step: Step, value: Any) -> Any:  # noqa: ANN401 - one tensor or several
    """The op only moves entries: let it move the labels."""
    args, kwargs = fill(step, walk.values)
    args[0] = walk.labels[step.args[0].index]
    made = step.target(*args, **kwargs)
    return made if isinstance(made, Tensor) else tuple(made)


def _part(walk: Walk, step: Step, value: Any) -> Any:  # noqa: ANN401 - a part of a tuple
    return walk.labels[step.args[0].index][step.args[1]]


def _pad(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    if not optypes.passes_codes(walk.node[step.slot]):
        return None  # not with zero
    sizes: Any = step.args[1]
    labels: Tensor = walk.labels[step.args[0].index]
    return torch.constant_pad_nd(labels, sizes, ZERO)


def _cat(walk: Walk, step: Step, value: Tensor) -> Tensor:
    args, kwargs = fill(step, walk.values)
    parts = [_labels(walk, a, v) for a, v in zip(step.args[0], args[0], strict=True)]
    made: Tensor = step.target(parts, *args[1:], **kwargs)
    return made


def _window(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """Pools and resizing: windows of the axes whose size they change."""
    labels: Tensor = walk.labels[step.args[0].index]
    channels = labels.dim() - _SPATIAL[step.target]
    found = single(labels, range(channels, labels.dim()))
    return None if found is None else found.expand(value.shape)


def _reduced(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    args, _ = fill(step, walk.values)
    dims = args[1] if len(args) > 1 else None
    labels: Tensor = walk.labels[step.args[0].index]
    every = list(range(labels.dim()))
    chosen = every if not dims else [dims] if isinstance(dims, int) else list(dims)
    found = single(labels, [d % labels.dim() for d in chosen])
    return None if found is None else found.reshape(value.shape)


def _sum(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """``a + b``: channels that meet have one factor; a stored ``b`` is scaled with them."""
    first, second = step.args[:2]
    args, _ = fill(step, walk.values)
    if not all(isinstance(a, Tensor) for a in args[:2]):
        return None  # a number added to every channel
    for place, other in ((0, second), (1, first)):
        if not _has(walk, other):
            continue
        labels = _labels(walk, other, args[1 - place]).expand(value.shape)
        if walk.added_constant(step, place, labels):
            return labels
    a = _labels(walk, first, args[0]).expand(value.shape)
    b = _labels(walk, second, args[1]).expand(value.shape)
    for d in range(value.dim()):
        if a.stride(d) == b.stride(d) == 0:  # all entries are one
            a, b = a.narrow(d, 0, 1), b.narrow(d, 0, 1)
    walk.found.join(a, b, "is added to a value that must keep its scale")
    return torch.where(a == ZERO, b, a).expand(value.shape)


def _gated(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """``x * gate``: homogeneous in ``x`` alone; with labels on both sides it is quadratic."""
    first, second = step.args[:2]
    if _has(walk, first) and _has(walk, second):
        return None
    labels: Tensor = walk.labels[(first if _has(walk, first) else second).index]
    return labels.expand(value.shape)


def _mixed(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """``p @ x``: rows are mixed, channels are not; likewise ``x @ p``."""
    first, second = step.args[:2]
    if _has(walk, first) and _has(walk, second):
        return None
    left = _has(walk, first)
    labels: Tensor = walk.labels[(first if left else second).index]
    if labels.dim() < 2 or value.dim() < 2:
        return None
    found = single(labels, [labels.dim() - (1 if left else 2)])
    return None if found is None else found.expand(value.shape)


def _clamped(walk: Walk, step: Step, value: Tensor) -> Tensor | None:
    """Homogeneous where the limits are 0 and infinity, or provably never reached."""
    low, high = _clamp_limits(step)
    if low > 0 or high < 0:
        return None
    slot = step.args[0].index
    labels: Tensor = walk.labels[slot]
    ends = [end for end in (low, high) if end not in (0.0, -math.inf, math.inf)]
    if not ends:
        return labels
    producer, reads = walk.made.get(slot, (None, None))
    if producer is None or producer.layout is None or reads is None:
        return None
    weight, bias = (
        None if name is None else walk.program.parameter(name)
        for name in (producer.weight, producer.bias)
    )
    assert weight is not None
    least, most = producer.layout.bounds(weight, bias, *reads)
    # how much of the way to a limit the value can go: 1 is just there
    share = torch.zeros_like(most)
    if high not in (0.0, math.inf):
        share = torch.maximum(share, most / high)
    if low not in (0.0, -math.inf):
        share = torch.maximum(share, least / low)
    free = share <= 1
    walk.found.fix(producer.labels[~free], f"may reach the clamp at {ends[-1]:g}")
    for label, least_factor in zip(
        producer.labels[free].tolist(), share[free].tolist(), strict=True
    ):
        walk.found.floor[label] = max(walk.found.floor.get(label, 0.0), least_factor)
    return labels


def _clamp_limits(step: Step) -> tuple[float, float]:
    """Limits of hardtanh, relu6, clamp and clamp_min; -inf or inf where there is none."""
    if step.target is aten.relu6.default:
        return 0.0, 6.0
    default: tuple[Any, Any] = (-1, 1) if step.target is aten.hardtanh.default else (None, None)
    given = {"min": default[0], "max": default[1], "min_val": default[0], "max_val": default[1]}
    given |= dict(zip(("min", "max"), step.args[1:3], strict=False)) | step.kwargs
    low = given["min_val"] if "min_val" in step.kwargs else given["min"]
    high = given["max_val"] if "max_val" in step.kwargs else given["max"]
    if not all(end is None or isinstance(end, int | float) for end in (low, high)):
        return 1.0, 1.0  # limits that are tensors: no rule
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def limit(walk: Walk, step: Step) -> None:
    """Note between which limits the values of a step lie, where it says so."""
    if step.target in _CLAMPS:
        low, high = _clamp_limits(step)
        if math.isfinite(low) and math.isfinite(high):
            walk.limits[step.slot] = (min(low, 0.0), max(high, 0.0))
    elif step.target in _UNIT:
        walk.limits[step.slot] = _UNIT[step.target]
    elif step.reads and step.reads[0] in walk.limits and RULES.get(step.target) in _INSIDE:
        walk.limits[step.slot] = walk.limits[step.reads[0]]


_SPATIAL: dict[Any, int] = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten.upsample_nearest1d.vec: 1,
    aten.upsample_nearest2d.vec: 2,
    aten.upsample_nearest3d.vec: 3,
    aten.upsample_bilinear2d.vec: 2,
}
_CLAMPS = {
    aten.hardtanh.default,
    aten.relu6.default,
    aten.clamp.default,
    aten.clamp_min.default,
}
_UNIT: dict[Any, tuple[float, float]] = {
    aten.sigmoid.default: (0.0, 1.0),
    aten.hardsigmoid.default: (0.0, 1.0),
    aten.softmax.int: (0.0, 1.0),
    aten.tanh.default: (-1.0, 1.0),
}

RULES: dict[Any, Rule] = {
    **dict.fromkeys(optypes.PASSTHROUGH - {aten.adaptive_max_pool2d.default}, _moves),
    **dict.fromkeys(_SPATIAL, _window),
    **dict.fromkeys(_CLAMPS, _clamped),
    **dict.fromkeys(
        (
            aten.relu.default,
            aten.leaky_relu.default,
            aten.prelu.default,
            aten.abs.default,
            aten.neg.default,
            aten.mul.Scalar,
            aten.div.Scalar,
            aten.div.Tensor,
        ),
        _kept,
    ),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default), _reduced),
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default), _mixed),
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), _pad),
    **dict.fromkeys((aten.cat.default, aten.stack.default), _cat),
    operator.getitem: _part,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.mul.Tensor: _gated,
}
#: Rules that put out no value beyond the limits of what they read, zero included.
_INSIDE = (_moves, _part, _pad, _window)
