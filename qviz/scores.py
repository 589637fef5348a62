"""The arithmetic of the built-in metrics: one float64 score per sample.

All are called ``(outputs, targets, reference)`` and return ``[n]``; ``metrics.score`` has made sure
that what they need is there and of the right shape. A dense output scores the mean over positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qviz.errors import MetricError

PerSample = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

#: Label of a position that does not count, PyTorch's ``ignore_index``.
IGNORED = -100
#: SQNR in dB of outputs that are equal; float32 rounding alone is below 150 dB.
SQNR_LIMIT = 200.0


def _class_axis(name: str, outputs: Tensor, labels: Tensor | None) -> int:
    """The axis of the class scores."""
    shape = outputs.shape
    if outputs.ndim < 2:
        raise MetricError(
            name,
            f"outputs of shape {tuple(shape)} have no axis of class scores",
            "Use a metric for numbers (mse, sqnr) or your own function",
        )
    last = outputs.ndim - 1
    if labels is None:
        return last if outputs.ndim == 3 else 1
    if shape[2:] == labels.shape[1:] and not (outputs.ndim == 3 and shape[1] == shape[2]):
        return 1
    if shape[1:-1] == labels.shape[1:]:
        return last
    raise MetricError(
        name,
        f"labels of shape {tuple(labels.shape)} do not fit outputs of shape {tuple(shape)}",
        f"Give one class index per position: {(shape[0], *shape[2:])}",
    )


def top(k: int, name: str) -> PerSample:
    """Share of positions whose label is among the ``k`` highest class scores."""

    def per_sample(outputs: Tensor, targets: Tensor | None, _: Tensor | None) -> Tensor:
        assert targets is not None  # score() has checked
        scores, labels = _classes(name, outputs, targets)
        if scores.shape[-1] < k:
            raise MetricError(
                name, f"the model has only {scores.shape[-1]} classes", "Use top1 instead"
            )
        hits = (scores.topk(k, dim=-1).indices == labels[..., None]).any(-1)  # [n, P, k] -> [n, P]
        counted = labels != IGNORED
        return (hits & counted).double().sum(1) / counted.double().sum(1)

    return per_sample


def _classes(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Class scores ``[n, positions, C]`` and labels ``[n, positions]``, checked."""
    n = len(outputs)
    if targets.shape == (n, 1) and outputs.ndim == 2:
        targets = targets[:, 0]
    axis = _class_axis(name, outputs, targets)
    scores = outputs.movedim(axis, -1).reshape(n, -1, outputs.shape[axis])
    if targets.is_floating_point() or targets.dtype == torch.bool:
        dtype = str(targets.dtype).removeprefix("torch.")
        raise MetricError(
            name, f"the labels are {dtype}, not class indices", "Give whole numbers as labels"
        )
    labels = targets.reshape(n, -1).to(scores.device, torch.int64)
    classes = scores.shape[-1]
    wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
    empty = (labels == IGNORED).all(1)
    if wrong.any():
        row, position = (int(i) for i in wrong.nonzero()[0])
        raise MetricError(
            name,
            f"the label {int(labels[row, position])} of sample {row} is not one of the model's "
            f"{classes} classes",
            f"Number the classes from 0; give {IGNORED} to positions that do not count",
        )
    if empty.any():
        raise MetricError(
            name,
            f"every position of sample {int(empty.nonzero()[0])} is labelled {IGNORED}",
            "Leave that sample out",
        )
    return scores, labels


def agreement(outputs: Tensor, targets: Tensor | None, reference: Tensor | None) -> Tensor:
    """Share of positions with the same predicted class."""
    assert reference is not None
    axis = _class_axis("agreement", outputs, None)
    same = outputs.argmax(axis) == reference.argmax(axis)
    return same.double().reshape(len(outputs), -1).mean(1)


def kl(outputs: Tensor, targets: Tensor | None, reference: Tensor | None) -> Tensor:
    """KL(reference || outputs) of the softmax over classes, in nats; mean over positions."""
    assert reference is not None
    axis = _class_axis("kl", outputs, None)
    q = outputs.double().log_softmax(axis)
    f = reference.double().log_softmax(axis)
    terms = torch.where(f.exp() > 0, f.exp() * (f - q), 0.0)  # 0 log 0 = 0, also for -inf scores
    return terms.sum(axis).reshape(len(outputs), -1).mean(1).clamp(min=0.0)


def _flat(x: Tensor) -> Tensor:
    return x.double().reshape(len(x), -1)


def cosine(outputs: Tensor, targets: Tensor | None, reference: Tensor | None) -> Tensor:
    """Cosine of the angle between the two; 1 if they are equal, even if both are 0."""
    assert reference is not None
    q, f = _flat(outputs), _flat(reference)
    norms = q.norm(dim=1) * f.norm(dim=1)
    equal = (q == f).all(1)
    cosine = torch.where(norms > 0, (q * f).sum(1) / norms.clamp(min=1e-300), 0.0)
    return torch.where(equal, 1.0, cosine.clamp(-1.0, 1.0))


def mse(outputs: Tensor, targets: Tensor | None, reference: Tensor | None) -> Tensor:
    """Mean squared difference."""
    assert reference is not None
    return (_flat(outputs) - _flat(reference)).square().mean(1)


def sqnr(outputs: Tensor, targets: Tensor | None, reference: Tensor | None) -> Tensor:
    """Signal to noise in dB, limited to plus and minus ``SQNR_LIMIT``."""
    assert reference is not None
    signal = _flat(reference).square().sum(1)
    noise = (_flat(outputs) - _flat(reference)).square().sum(1)
    decibels = 10 * (signal.log10() - noise.log10())  # 0 / 0 is NaN here, caught below
    return torch.where(noise == 0, SQNR_LIMIT, decibels.clamp(-SQNR_LIMIT, SQNR_LIMIT))
