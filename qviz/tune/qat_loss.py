"""The loss that quantization-aware training minimizes: on labels, on the float model, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from qviz.collate import Batch
from qviz.errors import TuneError
from qviz.evaluate import first_output
from qviz.execute import Program
from qviz.metrics import IGNORED

#: A loss of the caller's: (what the model returns, targets or None) -> mean over samples, 0-d.
Loss = Callable[[Any, Tensor | None], Tensor]


class Objective:
    """``(1 - distill) x loss on the labels + distill x distance from the float model``.

    The distance is the KL divergence of the class probabilities from the float model's (Hinton et
    al. 2015, arXiv 1503.02531, at temperature 1), or the squared error where the output is not
    class scores.

    Args:
        program: of the model, for its name and the shape of its outputs.
        teacher: the float model, called with a batch, without gradients.
        distill: 0 to 1.
        loss: of the caller's; None is the cross entropy with the class labels.
    """

    def __init__(
        self,
        program: Program,
        teacher: Callable[[Batch], Any],
        distill: float,
        loss: Loss | None,
    ) -> None:
        self._program, self._teacher = program, teacher
        self._distill, self._loss = distill, loss

    def __call__(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Mean loss of a batch.

        Raises:
            TuneError: the labels do not fit the outputs, or the loss is no number.
        """
        outputs = model(*batch.args, **batch.kwargs)
        parts = []
        if self._distill < 1:
            given = self._on_labels(outputs, batch)
            parts.append(given if self._distill == 0 else (1 - self._distill) * given)
        if self._distill > 0:
            with torch.no_grad():
                wanted = self._scores(self._teacher(batch), batch.size)
            away = distance(self._scores(outputs, batch.size), wanted)
            parts.append(away if self._distill == 1 else self._distill * away)
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _scores(self, outputs: Any, size: int) -> Tensor:  # noqa: ANN401 - what a model returns
        return first_output(pytree.tree_leaves(outputs), size, self._program)

    def _on_labels(self, outputs: Any, batch: Batch) -> Tensor:  # noqa: ANN401
        targets = batch.targets
        if self._loss is None:
            scores = self._scores(outputs, batch.size)
            return cross_entropy(scores, None if targets is None else targets.to(scores.device))
        device = self._scores(outputs, batch.size).device
        given = self._loss(outputs, None if targets is None else targets.to(device))
        if not isinstance(given, Tensor) or given.dim() != 0:
            what = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise TuneError(
                f"loss {getattr(self._loss, '__name__', type(self._loss).__name__)}",
                f"gives {what}, not one number as a tensor",
                "Return the mean over the samples",
            )
        return given


def distance(scores: Tensor, wanted: Tensor) -> Tensor:
    """KL divergence of class probabilities for ``[n, C]``, mean squared error for anything else."""
    if scores.dim() == 2 and scores.shape[1] > 1:
        own, other = F.log_softmax(scores, 1), F.log_softmax(wanted, 1)
        return F.kl_div(own, other, reduction="batchmean", log_target=True)
    return F.mse_loss(scores, wanted)


def cross_entropy(scores: Tensor, targets: Tensor | None) -> Tensor:
    """Cross entropy of class scores with whole-number labels.

    Class scores lie on axis 1 of ``[n, C]`` and ``[n, C, H, W]``, on the last axis of
    ``[n, T, C]``; a position labelled -100 is left out.

    Raises:
        TuneError: there are no labels, they are not classes, or do not fit the scores.
    """
    if targets is None:
        raise unlabelled("a batch of the training data")
    if targets.dim() == 2 and scores.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if scores.dim() == 3 and targets.shape == scores.shape[:2]:
        scores = scores.transpose(1, 2)  # (n, T, C) -> (n, C, T)
    fits = scores.dim() >= 2 and targets.shape == (scores.shape[0], *scores.shape[2:])
    if targets.is_floating_point() or not fits or scores.shape[1] < 2:
        raise TuneError(
            "training data",
            f"targets {str(targets.dtype).removeprefix('torch.')} {tuple(targets.shape)} are not "
            f"class labels for outputs {tuple(scores.shape)}",
            "Give a loss of your own, or distil from the float model alone (distill=1)",
        )
    largest, classes = int(targets.max()), scores.shape[1]
    if largest >= classes or bool(((targets < 0) & (targets != IGNORED)).any()):
        raise TuneError(
            "training data",
            f"labels from {int(targets.min())} to {largest}, the model has classes 0 to "
            f"{classes - 1}",
            "Give the labels that the model was trained with",
        )
    return F.cross_entropy(scores, targets.long(), ignore_index=IGNORED)


def unlabelled(name: str) -> TuneError:
    """The error of training on labels that are not there."""
    return TuneError(
        name,
        "has no labels to train on",
        "Give (inputs, label) samples, distil from the float model alone (distill=1), or give a "
        "loss of your own",
    )
