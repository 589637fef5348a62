"""The frontier of cost and loss: the best allocation under each of a sweep of limits.

CalibTIP sweeps the compressed size from 0.13 to 0.24 of float32 in steps of 0.01 (0.25 is all 8
bits, 0.125 all 4 bits); ``limits_of`` does the like between the smallest limit that can be met and
the base. What the programme adds up from single layers is then measured, on evaluation data: the
rank correlation along the frontier says whether its order can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from qviz.errors import TuneError
from qviz.estimate import drop_interval
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress, Reporter
from qviz.ranking import spearman
from qviz.search.allocation import allocate
from qviz.search.allocation_greedy import greedy
from qviz.search.allocation_problem import Problem
from qviz.search.widths import (
    Allocation,
    CostKind,
    Frontier,
    FrontierPoint,
    Limit,
    cost_of,
)

#: Limits swept unless asked otherwise.
POINTS = 12

Measure = Callable[[Allocation], Evaluation]


def limits_of(problem: Problem, kind: CostKind, points: int = POINTS) -> tuple[Limit, ...]:
    """Limits evenly spaced from the smallest that can be met to the base, tightest first."""
    low = cost_of(problem.least(kind).costs, kind)
    high = cost_of(problem.base().costs, kind)
    steps = max(1, points - 1)
    values = {low + (high - low) * step / steps for step in range(steps + 1)}
    return tuple(Limit(kind, value) for value in sorted(values))


def frontier(
    problem: Problem, kind: CostKind = "size", *, limits: Sequence[Limit] | None = None
) -> Frontier:
    """The allocations of a sweep of limits, by the integer programme and by greed; not measured.

    Args:
        problem: what there is to choose from.
        kind: what is limited.
        limits: None for ``limits_of``; those that cannot be met are an error.

    Raises:
        TuneError: a limit cannot be met.
    """
    swept = limits or limits_of(problem, kind)
    best = [allocate(problem, limit) for limit in swept]
    return Frontier(
        kind=kind,
        points=_distinct(best),
        greedy=_distinct([greedy(problem, limit) for limit in swept]),
        loss=problem.losses.loss,
        loss_samples=problem.losses.samples,
    )


def _distinct(found: Sequence[Allocation]) -> tuple[FrontierPoint, ...]:
    """One point per allocation, under the tightest limit that gave it."""
    kept: dict[tuple[object, ...], FrontierPoint] = {}
    for allocation in found:
        kept.setdefault(allocation.widths, FrontierPoint(allocation))
    return tuple(kept.values())


def measured(
    found: Frontier,
    measure: Measure,
    *,
    with_greedy: bool = False,
    on_point: Callable[[Frontier], None] | None = None,
    progress: OnProgress | None = None,
) -> Frontier:
    """The same frontier with its points measured on evaluation data, tightest first.

    Args:
        found: predicted.
        measure: of an allocation.
        with_greedy: measure the greedy points too.
        on_point: called with the frontier after each point.
        progress: told after each point.
    """
    own, other = list(found.points), list(found.greedy)
    lines = (own, other) if with_greedy else (own,)
    report = Reporter("measure the frontier", sum(map(len, lines)), progress)
    for line in lines:
        for index, point in enumerate(line):
            result = measure(point.allocation)
            line[index] = with_measurement(point, result)
            found = replace(
                found,
                points=tuple(own),
                greedy=tuple(other),
                metric=result.metric.name,
                float_value=result.reference.value,
                samples=result.scores.count,
            )
            if on_point is not None:
                on_point(found)
            report.step(f"{point.allocation.summary}: drop {result.drop:.2%}")
    return correlated(found)


def with_measurement(point: FrontierPoint, result: Evaluation) -> FrontierPoint:
    """A point with what was measured of its recipe."""
    interval = drop_interval(result)
    return replace(
        point,
        divergence=result.divergence,
        value=result.value,
        drop=result.drop,
        low=interval.low,
        high=interval.high,
    )


def correlated(found: Frontier) -> Frontier:
    """The frontier with Spearman's correlation of its prediction with what was measured."""
    points = [p for p in found.points if p.divergence is not None and p.drop is not None]
    if len(points) < 3:
        return found
    predicted = torch.tensor([p.allocation.loss for p in points], dtype=torch.float64)
    divergence = torch.tensor([p.divergence for p in points], dtype=torch.float64)
    drop = torch.tensor([p.drop for p in points], dtype=torch.float64)
    return replace(
        found,
        spearman=spearman(predicted, divergence),
        spearman_drop=spearman(predicted, drop),
    )


def cheapest(found: Frontier, max_drop: float) -> FrontierPoint:
    """The measured point of least cost whose drop is within a target.

    Raises:
        TuneError: no point is, or none is measured.
    """
    points = [p for p in found.points if p.drop is not None]
    good = [p for p in points if p.drop is not None and p.drop <= max_drop]
    if not good:
        least = min((p.drop for p in points if p.drop is not None), default=float("nan"))
        raise TuneError(
            f"drop of {max_drop:.2%}",
            f"no allocation measured keeps to it: the smallest drop is {least:.2%}",
            "Allow more, or tune the layers first: the advanced pipeline does",
        )
    return min(good, key=lambda p: cost_of(p.allocation.costs, found.kind))
