"""Predict what leaving ops in float does, from what each op does alone; check the prediction.

*Divergence adds up.* To second order the KL divergence (or the squared error) of the outputs is a
quadratic form of the rounding errors, and its mixed terms average out where the errors of two ops
are independent. So the divergence of a recipe is predicted as the sum over the operands still int8.

*The metric follows the divergence.* A change of the outputs with zero mean flips, to first order,
as many predictions to right as to wrong; what is left over grows with its square, as the divergence
does. So the drop is predicted as rate x divergence, and the rate is measured where both are largest
and best known: with everything int8. Adding up the ops' own metric changes instead adds up noise:
on a few hundred samples most of them are sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from qviz.evaluate import Evaluation
from qviz.graph import Graph, Op
from qviz.intervals import Interval
from qviz.ranking import Sensitivity
from qviz.recipe import Recipe, resolve

#: A prediction wrong by more than this factor says that the errors are not independent.
FACTOR = 2.0
#: Below this share of the all-int8 divergence neither number matters.
NOISE = 0.01


@dataclass(frozen=True, eq=False)
class Effects:
    """Divergence from float that each op, and each operand, causes when it alone is int8.

    Attributes:
        of: by name of op or operand.
        measured: names whose divergence was measured; the others are gradient estimates.
    """

    of: Mapping[str, float]
    measured: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Anchor:
    """Everything int8, measured: what a unit of divergence costs.

    Attributes:
        drop: relative drop of the metric, positive is worse.
        interval: 95 % interval of it.
        divergence: from float.
    """

    drop: float
    interval: Interval
    divergence: float

    @staticmethod
    def of(evaluation: Evaluation) -> Anchor:
        """From the measurement of the recipe with everything int8."""
        return Anchor(evaluation.drop, drop_interval(evaluation), evaluation.divergence)

    def drop_at(self, divergence: float) -> tuple[float, Interval] | None:
        """Predicted drop and its interval; None if the drop or the divergence has no value.

        Rounding is not expected to help: where it did, sampling error did, and the rate is zero.
        """
        if not math.isfinite(self.drop) or not self.divergence > 0:
            return None
        share = divergence / self.divergence
        low, high = max(0.0, self.interval.low), max(0.0, self.interval.high)
        return max(0.0, self.drop) * share, Interval(low * share, high * share)


@dataclass(frozen=True)
class Estimate:
    """What is predicted of a recipe.

    Attributes:
        divergence: sum over what is still int8.
        drop: relative drop of the metric, None until all int8 is measured.
        interval: of the drop; it holds the sampling error of the rate only.
        measured: ops still int8 whose own divergence was measured.
        ops: ops still int8.
    """

    divergence: float
    drop: float | None
    interval: Interval | None
    measured: int
    ops: int


def drop_interval(evaluation: Evaluation) -> Interval:
    """95 % interval of ``evaluation.drop``: that of the change with the sign turned."""
    low, high = evaluation.interval.low, evaluation.interval.high
    return Interval(-high, -low) if evaluation.metric.higher_is_better else Interval(low, high)


def effects(rankings: Iterable[Sensitivity]) -> Effects:
    """Join rankings, by op and by operand, of one recipe; what was measured wins over estimates.

    Only ``only_this`` rankings of weights and activations together say what an op does alone;
    others are left out, and so are rows that are neither measured nor estimated.
    """
    of: dict[str, float] = {}
    measured: set[str] = set()
    for ranking in rankings:
        if ranking.mode != "only_this" or ranking.operands != "both":
            continue
        for row in ranking.rows:
            if row.exact:
                measured.add(row.name)
                of[row.name] = row.divergence
            elif row.name in ranking.proxy and row.name not in measured:
                of[row.name] = ranking.proxy[row.name]
    return Effects(of, frozenset(measured))


def estimate(
    known: Effects, graph: Graph, recipe: Recipe, anchor: Anchor | None = None
) -> Estimate | None:
    """What a recipe does, predicted.

    Args:
        known: what each op does alone, with the recipe's ranges.
        graph: the model.
        recipe: says which operands are int8.
        anchor: all int8, measured; without it there is a divergence but no drop.

    Returns:
        None if nothing is known of an op that is int8.
    """
    decisions = resolve(recipe, graph)
    total, measured, count = 0.0, 0, 0
    for op in graph.quantizable:
        int8 = [o.name for o in op.operands if decisions[o.name].int8]
        if not int8:
            continue
        part = any(decisions[o.name].by_choice for o in op.operands)
        own = _own(known, op, int8, part=part)
        if own is None:
            return None
        total += own
        count += 1
        measured += op.name in known.measured
    predicted = None if anchor is None else anchor.drop_at(total)
    drop, interval = predicted or (None, None)
    return Estimate(total, drop, interval, measured, count)


def _own(known: Effects, op: Op, int8: Collection[str], *, part: bool) -> float | None:
    """Divergence of one op; ``part``: some of its operands are float by choice."""
    parts = {o.name: max(0.0, known.of[o.name]) for o in op.operands if o.name in known.of}
    whole = known.of.get(op.name)
    left = sum(parts.get(name, 0.0) for name in int8)
    if whole is None:
        return left if all(name in parts for name in int8) else None
    whole = max(0.0, whole)
    if not part:
        return whole
    # the operands say how it is shared out, the op's own row how much there is
    shared = sum(parts.values())
    return whole * left / shared if shared else (None if not parts else 0.0)


def additivity(measured: float, predicted: float, whole: float) -> str | None:
    """Why a measured divergence is not the sum of its parts, in words; None if it is.

    Args:
        measured: divergence of a recipe.
        predicted: sum of what its int8 ops cause alone.
        whole: measured divergence with everything int8; far below it neither number matters.
    """
    if max(measured, predicted) <= NOISE * whole or not predicted > 0:
        return None
    ratio = measured / predicted
    if ratio > FACTOR:
        return (
            f"The errors reinforce each other: the divergence measured is {ratio:.1f} times the "
            "sum of what the ops cause alone."
        )
    if ratio < 1 / FACTOR:
        return (
            f"The errors partly cancel: the divergence measured is {ratio:.2f} times the sum of "
            "what the ops cause alone."
        )
    return None


class Measured(Protocol):
    """A recipe measured on the evaluation data."""

    @property
    def drop(self) -> float:
        """Relative drop, positive is worse."""

    @property
    def low(self) -> float:
        """Lower limit of its 95 % interval."""

    @property
    def high(self) -> float:
        """Upper limit."""


class Point(Measured, Protocol):
    """A measured set of skips."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """What is left in float."""


P = TypeVar("P", bound=Point)


def not_monotone(points: Sequence[P]) -> tuple[tuple[P, P], ...]:
    """Pairs where leaving more in float made it worse, by more than sampling error explains.

    Returns:
        For each such point the best of the points whose skips it contains, and the point.
    """
    found = []
    for point in points:
        own = set(point.skipped)
        below = [p for p in points if set(p.skipped) < own and p.drop < point.low]
        below = [p for p in below if p.high < point.drop]
        if below:
            found.append((min(below, key=lambda p: p.drop), point))
    return tuple(found)
