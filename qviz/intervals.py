"""How sure a score is: paired bootstrap intervals, McNemar's test, ties.

Two models scored on the same samples are compared sample by sample: resampling draws the same
samples for both, so that what is hard for both cancels out. Everything here is a pure function of
the scores and a seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qviz.errors import MetricError

Floats = npt.NDArray[np.float64]

#: Most resampling weights held at a time, in elements (8 bytes each).
_WEIGHTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Scores:
    """What a metric says about one model on all samples.

    Attributes:
        metric: its name.
        value: the score of the whole; the mean of ``per_sample`` if there are such scores.
        count: number of samples.
        per_sample: float64 ``[count]``, None for a metric of the whole corpus.
        resample: the score of some of the samples, given their indices ``int64 [k]`` (an index may
            repeat); only for a metric of the whole corpus.
    """

    metric: str
    value: float
    count: int
    per_sample: Tensor | None = None
    resample: Callable[[Tensor], float] | None = None


@dataclass(frozen=True)
class Interval:
    """Limits between which a number lies with a stated confidence."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a number in common."""
        return self.low <= other.high and other.low <= self.high


def relative_change(value: float, reference: float) -> float:
    """Change relative to the float model, ``(value - reference) / |reference|``.

    Negative is a drop: -0.01 is one per cent less than the reference. Equal values, also two
    infinite ones, have a change of 0. A reference of 0 (the KL divergence of the float model from
    itself) has no relative change: NaN.

    Source: Wu et al. 2020, arXiv:2004.09602, section 5; |reference| so that the sign keeps its
    meaning for a negative score.
    """
    if value == reference:
        return 0.0
    if reference == 0 or not math.isfinite(reference):
        return math.nan
    return (value - reference) / abs(reference)


def resampled(scores: Scores, *, seed: int = 0, resamples: int = 1000) -> Floats:
    """The score on each of ``resamples`` draws with replacement; equal seeds draw equal samples.

    Returns:
        float64 ``[resamples]``.
    """
    if scores.per_sample is not None:
        values = scores.per_sample.double().cpu().numpy()
        weights = _weights(scores.count, seed, resamples)
        return np.concatenate([chunk @ values for chunk in weights]) / scores.count
    if scores.resample is None:
        raise MetricError(
            scores.metric, "these scores cannot be resampled", "Make them with metrics.score"
        )
    draw = scores.resample
    indices = _draws(scores.count, seed, resamples)
    return np.array([draw(torch.from_numpy(row)) for chunk in indices for row in chunk])


def paired_bootstrap(
    quantized: Scores | Tensor,
    reference: Scores | Tensor,
    *,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the relative change from ``reference`` to ``quantized``.

    Args:
        quantized: scores of the quantized model, or per-sample scores ``[n]``.
        reference: scores of the float model on the same samples in the same order.
        seed: of the draws.
        resamples: how many draws.
        confidence: share of the draws that lie in the interval.

    Returns:
        Limits of ``relative_change``; NaN if the reference scores 0 on every draw. Draws on which
        the reference scores 0 are left out.

    Raises:
        MetricError: the two have different numbers of samples, or there are none.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    first, second = _as_scores(quantized), _as_scores(reference)
    _check_paired(first, second)
    q = resampled(first, seed=seed, resamples=resamples)
    f = resampled(second, seed=seed, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(q == f, 0.0, (q - f) / np.abs(f))
    return _percentiles(change, confidence)


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> float:
    """Probability of flips at least this one-sided if both models were equally good.

    Args:
        correct_a: bool ``[n]``, which samples the first model gets right.
        correct_b: bool ``[n]``, the same of the second.

    Returns:
        The exact two-sided binomial p value; 1.0 if no prediction flipped.

    Raises:
        MetricError: the lengths differ.

    Source: McNemar 1947; exact form as in Edwards 1948.
    """
    if correct_a.shape != correct_b.shape:
        raise MetricError(
            "mcnemar",
            f"{correct_a.numel()} and {correct_b.numel()} predictions cannot be paired",
            "Score both models on the same samples",
        )
    only_a = int((correct_a.bool() & ~correct_b.bool()).sum())
    only_b = int((correct_b.bool() & ~correct_a.bool()).sum())
    flips = only_a + only_b
    tail, term = 0, 1  # term = C(flips, k), whole numbers throughout: no rounding, no overflow
    for k in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (flips - k) // (k + 1)
    p: float = 2 * tail / 2**flips
    return min(1.0, p)


def tie_groups(
    ranked: Sequence[Scores | Tensor], *, seed: int = 0, resamples: int = 1000
) -> tuple[int, ...]:
    """Number the groups of a ranking whose members the data cannot tell apart.

    Each group is led by its first member; those that follow belong to it as long as the 95 %
    interval of their paired difference from the leader contains 0.

    Args:
        ranked: scores on the same samples, in the order of the ranking.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        Group of each, counted from 0: ``(0, 0, 1)`` says that the first two are tied.
    """
    groups: list[int] = []
    leader: Floats | None = None
    first: Scores | None = None
    for scores in map(_as_scores, ranked):
        first = first or scores
        _check_paired(scores, first)
        values = resampled(scores, seed=seed, resamples=resamples)
        if leader is not None and 0.0 in _percentiles(values - leader, 0.95):
            groups.append(groups[-1])
            continue
        leader = values
        groups.append(groups[-1] + 1 if groups else 0)
    return tuple(groups)


def _as_scores(scores: Scores | Tensor) -> Scores:
    if isinstance(scores, Scores):
        return scores
    values = scores.double()
    return Scores("scores", float(values.mean()) if len(values) else math.nan, len(values), values)


def _check_paired(a: Scores, b: Scores) -> None:
    if a.count != b.count:
        raise MetricError(
            a.metric,
            f"scores of {a.count} and of {b.count} samples cannot be paired",
            "Score both models on the same samples",
        )
    if a.count == 0:
        raise MetricError(a.metric, "there are no samples", "Give at least one")


def _percentiles(values: Floats, confidence: float) -> Interval:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Interval(math.nan, math.nan)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _draws(count: int, seed: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices ``[k, count]`` of k draws at a time, ``resamples`` draws in all."""
    generator = np.random.default_rng(seed)
    step = max(1, _WEIGHTS // count)
    for start in range(0, resamples, step):
        yield generator.integers(0, count, (min(step, resamples - start), count))


def _weights(count: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each sample is in each draw, ``[k, count]`` for k draws at a time."""
    if count * resamples <= _WEIGHTS:
        yield _all_weights(count, seed, resamples)
        return
    for indices in _draws(count, seed, resamples):
        yield _counts(indices)


@functools.lru_cache(maxsize=2)
def _all_weights(count: int, seed: int, resamples: int) -> Floats:
    """The same for one table, kept: a sensitivity analysis draws the same for every op."""
    return np.concatenate([_counts(i) for i in _draws(count, seed, resamples)])


def _counts(indices: npt.NDArray[np.int64]) -> Floats:
    draws, count = indices.shape
    flat = indices + count * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=draws * count).reshape(draws, count).astype(float)
