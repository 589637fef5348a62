"""Measure a recipe: run the data, score every sample, compare with the float model.

Scores are per sample and paired: the same samples in the same order for float and int8. Beside
the user's metric every evaluation carries a *divergence* from the float outputs (KL of the class
probabilities, or the squared error), because on a few hundred samples accuracy does not move at
all for most ops while the divergence tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qviz.data import Data
from qviz.errors import MetricError, NotFiniteError
from qviz.execute import Edits, Program, Watch
from qviz.intervals import Interval, Scores, mcnemar, paired_bootstrap, relative_change
from qviz.metrics import METRICS, Metric, score
from qviz.progress import OnProgress, Reporter


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model gave for all samples of a data set.

    Attributes:
        values: the first floating point output, ``[n, ...]``.
        targets: ``[n, ...]`` or None.
    """

    values: Tensor
    targets: Tensor | None


@dataclass(frozen=True)
class Flip:
    """A prediction that quantization changed."""

    sample: int
    target: int | None
    float_class: int
    int8_class: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One recipe measured against the float model on the same samples.

    Attributes:
        scores: the metric of the quantized model.
        reference: the metric of the float model.
        change: relative change, ``(int8 - float) / |float|`` (Wu et al. 2020, section 5).
        interval: 95 % paired bootstrap interval of ``change``.
        divergence: mean distance of the outputs from the float model's.
        divergence_name: ``kl`` or ``mse``.
        flips: predictions that changed, in sample order; empty unless the model classifies.
        p_value: exact McNemar test that flips to right and to wrong are equally likely; None
            without labels or classes.
        divergences: the divergence of each sample, so that two recipes can be compared by it.
    """

    metric: Metric
    scores: Scores
    reference: Scores
    change: float
    interval: Interval
    divergence: float
    divergence_name: str
    flips: tuple[Flip, ...]
    p_value: float | None
    divergences: Scores | None = None

    @property
    def value(self) -> float:
        """The metric of the quantized model."""
        return self.scores.value

    @property
    def drop(self) -> float:
        """Relative change with the sign turned so that positive is worse."""
        return -self.change if self.metric.higher_is_better else self.change


def outputs(
    program: Program,
    data: Data,
    edits: Edits | None = None,
    *,
    batch_size: int,
    progress: OnProgress | None = None,
    watch: Watch | None = None,
) -> Outputs:
    """Run a program over all samples; ``watch`` sees every value on the way."""
    made: list[Tensor] = []
    targets: list[Tensor] = []
    report = Reporter("evaluate", data.count, progress)
    for batch in data.batches(batch_size):
        results = program.run(program.inputs(batch), edits, watch=watch)
        made.append(first_output(results, batch.size, program))
        if batch.targets is not None:
            targets.append(batch.targets)
        report.step("", batch.size)
    return Outputs(torch.cat(made), torch.cat(targets) if targets else None)


def extremes(program: Program, seen: dict[str, tuple[float, float]]) -> Watch:
    """A watch that notes the smallest and largest value of every observed tensor in ``seen``."""
    graph = program.graph
    watched = {program.slot_of_tensor[name]: name for name in graph.observed}

    def watch(slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        name = watched.get(slot)
        if name is not None:
            low, high = (float(v) for v in torch.aminmax(value))
            before = seen.get(name, (low, high))
            seen[name] = (min(low, before[0]), max(high, before[1]))

    return watch


def first_output(values: list[object], size: int, program: Program) -> Tensor:
    """The output that metrics read: the first floating point tensor with one row per sample.

    Raises:
        MetricError: the model has none.
    """
    for value in values:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.dim() and value.shape[0] == size:
            return value
    raise MetricError(
        program.graph.name,
        "no output is a float tensor with one row per sample, so nothing can be scored",
        "Wrap the model so that it returns such a tensor first",
    )


def divergence_metric(values: Tensor) -> Metric:
    """KL for class scores ``[n, C]``, squared error for anything else."""
    return METRICS["kl" if values.dim() == 2 and values.shape[1] > 1 else "mse"]


def compare(quantized: Tensor, reference: Outputs, metric: Metric, *, seed: int = 0) -> Evaluation:
    """Score quantized outputs against the float model's.

    Args:
        quantized: ``[n, ...]``, as ``Outputs.values``.
        reference: the float model's outputs and the targets.
        metric: what to measure.
        seed: of the bootstrap.
    """
    targets, values = reference.targets, reference.values
    base = score(metric, values, targets, values)
    _check_reference(base, metric)
    own = score(metric, quantized, targets, values)
    distance = score(divergence_metric(values), quantized, None, values)
    flips, p_value = _flips(quantized, reference)
    return Evaluation(
        metric=metric,
        scores=own,
        reference=base,
        change=relative_change(own.value, base.value),
        interval=paired_bootstrap(own, base, seed=seed),
        divergence=distance.value,
        divergence_name=distance.metric,
        flips=flips,
        p_value=p_value,
        divergences=distance,
    )


def _check_reference(base: Scores, metric: Metric) -> None:
    if base.value != base.value:
        raise NotFiniteError(
            metric.name, "is NaN for the float model", "Check the labels and the model's outputs"
        )


def _flips(quantized: Tensor, reference: Outputs) -> tuple[tuple[Flip, ...], float | None]:
    values, targets = reference.values, reference.targets
    if values.dim() != 2 or values.shape[1] < 2:
        return (), None
    before, after = values.argmax(1), quantized.argmax(1)
    column = targets is not None and targets.shape == (len(values), 1)
    labels = targets[:, 0] if targets is not None and column else targets
    labels = labels if labels is not None and labels.dim() == 1 else None
    if labels is not None and labels.is_floating_point():
        labels = None
    flips = tuple(
        Flip(int(i), None if labels is None else int(labels[i]), int(before[i]), int(after[i]))
        for i in (before != after).nonzero().flatten()
    )
    p = None if labels is None else mcnemar(before == labels, after == labels)
    return flips, p
