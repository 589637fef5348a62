"""Metrics: from model outputs to one score per sample, each with its unit and direction.

``METRICS`` holds the built-in ones. With labels: top1, top5. Against the float model's outputs, so
that no labels are needed: agreement, kl, cosine, mse, sqnr. A user's own function
``(outputs, targets)`` is a metric too: if it returns a score per sample it counts as such, if it
returns one number it is a metric of the whole corpus (a rank correlation, a BLEU score).

Class scores lie on axis 1 of ``[n, C]`` and ``[n, C, H, W]`` outputs, and on the last axis of
``[n, T, C]`` ones, unless the labels' shape says otherwise. A dense output scores the mean over its
positions; a position labelled -100 (PyTorch's ``ignore_index``) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from qviz import scores
from qviz.errors import MetricError, NotFiniteError
from qviz.intervals import (
    Interval,
    Scores,
    mcnemar,
    paired_bootstrap,
    relative_change,
    resampled,
    tie_groups,
)
from qviz.scores import IGNORED, SQNR_LIMIT, PerSample

__all__ = [
    "IGNORED",
    "METRICS",
    "SQNR_LIMIT",
    "Interval",
    "Metric",
    "Scores",
    "drop",
    "mcnemar",
    "metric",
    "paired_bootstrap",
    "relative_change",
    "resampled",
    "score",
    "tie_groups",
]

#: Called as ``(outputs, targets)``; who takes labels for granted need not write ``| None``.
UserFunction = Callable[..., object]


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Attributes:
        name: how it is asked for.
        title: what a chart calls it.
        unit: of its values: "fraction" is 0 to 1; "" has none.
        higher_is_better: the direction.
        description: one sentence for a tooltip.
        needs_labels: whether it needs targets.
        needs_reference: whether it needs the float model's outputs.
        per_sample: ``(outputs [n, ...], targets [n, ...] | None, reference [n, ...] | None)`` to
            float64 ``[n]``; None for a user's function.
        corpus: a user's function ``(outputs, targets)``: a number, or one per sample.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    description: str
    needs_labels: bool
    needs_reference: bool
    per_sample: PerSample | None = None
    corpus: UserFunction | None = None


def metric(spec: str | Metric | UserFunction) -> Metric:
    """The metric that ``spec`` stands for.

    Args:
        spec: a name in ``METRICS``, a ``Metric``, or a function ``(outputs, targets)``. The
            function may carry the attributes ``higher_is_better`` (default True), ``needs_labels``
            (default True) and ``unit`` (default "").

    Raises:
        MetricError: no metric has this name, or it is none of these.
    """
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, str):
        if spec not in METRICS:
            raise MetricError(
                spec, "is not a metric", f"Choose one of {', '.join(METRICS)}, or give a function"
            )
        return METRICS[spec]
    if not callable(spec):
        raise MetricError(
            repr(spec),
            f"an object of type {type(spec).__name__} is not a metric",
            "Give a name or a function (outputs, targets)",
        )
    name = str(getattr(spec, "__name__", type(spec).__name__))
    lines = (getattr(spec, "__doc__", None) or "").strip().splitlines()
    return Metric(
        name,
        name,
        str(getattr(spec, "unit", "")),
        bool(getattr(spec, "higher_is_better", True)),
        lines[0] if lines else "A function of the caller's.",
        bool(getattr(spec, "needs_labels", True)),
        needs_reference=False,
        corpus=spec,
    )


def score(
    spec: str | Metric | UserFunction,
    outputs: Tensor,
    targets: Tensor | None = None,
    reference: Tensor | None = None,
) -> Scores:
    """Score outputs.

    Args:
        spec: see ``metric``.
        outputs: ``[n, ...]`` of the model that is scored.
        targets: ``[n, ...]``, or None without labels.
        reference: ``[n, ...]`` of the float model on the same samples.

    Raises:
        MetricError: it needs labels or a reference that are not there, or does not fit the outputs.
        NotFiniteError: an output is NaN.
    """
    what = metric(spec)
    _check(what, outputs, targets, reference)
    if what.per_sample is not None:
        values = what.per_sample(outputs, targets, reference)
        return Scores(what.name, float(values.mean()), len(values), values)
    result = _call(what, outputs, targets)
    if isinstance(result, Tensor):
        return Scores(what.name, float(result.mean()), len(result), result)

    def resample(indices: Tensor) -> float:
        some = None if targets is None else targets[indices]
        value = _call(what, outputs[indices], some)
        return value if isinstance(value, float) else float(value.mean())

    return Scores(what.name, result, len(outputs), resample=resample)


def drop(spec: str | Metric | UserFunction, value: float, reference: float) -> float:
    """How much worse than the float model, relative to it: 0.01 is one per cent worse.

    ``relative_change`` with the sign turned so that positive is worse, whichever the direction.
    """
    change = relative_change(value, reference)
    return -change if metric(spec).higher_is_better else change


def _check(what: Metric, outputs: Tensor, targets: Tensor | None, ref: Tensor | None) -> None:
    if what.needs_labels and targets is None:
        raise MetricError(
            what.name,
            "it needs labels, and the evaluation data has none",
            "Give labelled data, or use agreement, which compares with the float model",
        )
    if what.needs_reference and ref is None:
        raise MetricError(
            what.name,
            "it needs the float model's outputs",
            "Score the float model on the same samples first",
        )
    if outputs.ndim == 0 or len(outputs) == 0:
        raise MetricError(what.name, "there are no outputs", "Give at least one sample")
    if ref is not None and what.needs_reference and ref.shape != outputs.shape:
        raise MetricError(
            what.name,
            f"outputs of shape {tuple(outputs.shape)} and float outputs of "
            f"{tuple(ref.shape)} cannot be compared",
            "Score both models on the same samples",
        )
    if targets is not None and what.needs_labels and len(targets) != len(outputs):
        raise MetricError(
            what.name,
            f"{len(targets)} targets for {len(outputs)} outputs",
            "Give one target per sample",
        )
    nan = outputs.isnan().reshape(len(outputs), -1).any(1)  # [n, ...] -> [n]
    if nan.any():
        raise NotFiniteError(
            what.name,
            f"the output of sample {int(nan.nonzero()[0])} contains NaN",
            "Find the op that makes it: run the float model on that sample",
        )


def _call(what: Metric, outputs: Tensor, targets: Tensor | None) -> Tensor | float:
    """Call a user's function: float64 ``[n]``, or one number."""
    assert what.corpus is not None  # metric() gives every Metric one of the two
    try:
        result = what.corpus(outputs, targets)
    except Exception as error:
        raise MetricError(
            what.name,
            f"it raised {type(error).__name__}: {error}",
            "Correct the function; it is called as (outputs, targets)",
        ) from error
    if isinstance(result, Tensor | np.ndarray | list | tuple | Real):
        values = torch.as_tensor(result).detach().cpu().double()
        if values.ndim == 0:
            return float(values)
        if values.shape == (len(outputs),):
            return values
        got = f"values of shape {tuple(values.shape)}"
    else:
        got = f"a {type(result).__name__}"
    raise MetricError(
        what.name,
        f"it returned {got} for {len(outputs)} samples",
        "Return one number, or one number per sample",
    )


def _built_in(
    name: str,
    title: str,
    unit: str,
    function: PerSample,
    description: str,
    *,
    higher_is_better: bool = True,
) -> Metric:
    labels = name.startswith("top")
    return Metric(name, title, unit, higher_is_better, description, labels, not labels, function)


#: The built-in metrics by name.
METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        _built_in(
            "top1",
            "Top-1 accuracy",
            "fraction",
            scores.top(1, "top1"),
            "Share of samples whose highest class score is the label's.",
        ),
        _built_in(
            "top5",
            "Top-5 accuracy",
            "fraction",
            scores.top(5, "top5"),
            "Share of samples whose label is among the five highest class scores.",
        ),
        _built_in(
            "agreement",
            "Agreement with float",
            "fraction",
            scores.agreement,
            "Share of samples on which the predicted class is the float model's.",
        ),
        _built_in(
            "kl",
            "KL divergence from float",
            "nats",
            scores.kl,
            "KL(float || quantized) of the class probabilities.",
            higher_is_better=False,
        ),
        _built_in(
            "cosine",
            "Cosine similarity to float",
            "",
            scores.cosine,
            "Cosine of the angle between the float model's outputs and these.",
        ),
        _built_in(
            "mse",
            "Mean squared error to float",
            "output units squared",
            scores.mse,
            "Mean squared difference from the float model's outputs.",
            higher_is_better=False,
        ),
        _built_in(
            "sqnr",
            "SQNR",
            "dB",
            scores.sqnr,
            "Power of the float model's outputs over that of the difference from them; "
            f"{SQNR_LIMIT:g} dB if there is none.",
        ),
    )
}
