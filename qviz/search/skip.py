"""Partial quantization: leave the fewest ops in float that bring the metric within a target.

Wu et al. 2020, section 6.2: sort by sensitivity, skip the worst, measure, until within the target.
``greedy`` does that and afterwards tries to give back each skip, because an op skipped early is
often not needed once later ones are skipped too. ``bisect`` searches the length of the prefix
instead: log2(n) measurements, right only as far as the loss falls monotonically along the ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from qviz.estimate import Anchor, Effects, drop_interval, effects, estimate
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.progress import OnProgress, Reporter
from qviz.recipe import Recipe
from qviz.sensitivity import Sensitivity, targets_of

Method = Literal["greedy", "bisect"]
Measure = Callable[[Recipe], Evaluation]


@dataclass(frozen=True)
class SkipPoint:
    """One measured set of skipped ops.

    Attributes:
        skipped: ops left in float.
        drop: measured relative drop of the metric, positive is worse.
        low: lower limit of its 95 % interval.
        high: upper limit.
        predicted: the drop that the divergences of the ops still int8 add up to (``estimate.py``),
            None if not all are known.
        float_macs: share of multiply-accumulates left in float.
        value: the metric.
        step: ``add``, ``give back`` or ``bisect``; what the app measures is a ``draft``.
        divergence: measured divergence from float.
        predicted_divergence: the sum of what the ops still int8 cause alone.
    """

    skipped: tuple[str, ...]
    drop: float
    low: float
    high: float
    predicted: float | None
    float_macs: float
    value: float
    step: str
    divergence: float | None = None
    predicted_divergence: float | None = None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        recipe: the best recipe found.
        reached: whether it is within the target.
        max_drop: the target, relative.
        best: the point of ``recipe``.
        curve: every point measured, in order.
        quantizable: number of ops that the recipe could make int8.
        flat: sensitivity is spread evenly: no small set explains the loss.
        method: how it searched.
        ranking: ops, worst first; empty if none was needed, since the recipe meets the target.
    """

    recipe: Recipe
    reached: bool
    max_drop: float
    best: SkipPoint
    curve: tuple[SkipPoint, ...]
    quantizable: int
    flat: bool
    method: Method
    ranking: tuple[str, ...] = field(default=())

    @property
    def summary(self) -> str:
        """One or two sentences for a person."""
        count, share = len(self.best.skipped), self.best.float_macs
        text = (
            f"{count} of {self.quantizable} ops in float ({share:.1%} of MACs): "
            f"drop {self.best.drop:.2%}, target {self.max_drop:.2%}"
        )
        if not self.reached:
            text += ". Target not reached: this is the best found"
        if self.flat and count:
            text += ". Sensitivity is flat: no small set of ops explains the loss"
        return text


def search(
    recipe: Recipe,
    graph: Graph,
    sensitivity: Sensitivity | Callable[[], Sensitivity],
    measure: Measure,
    *,
    max_drop: float = 0.01,
    method: Method = "greedy",
    on_point: Callable[[SkipPoint], None] | None = None,
    progress: OnProgress | None = None,
) -> SearchResult:
    """Find a small set of ops to leave in float.

    Args:
        recipe: the recipe to improve; its own skips stay.
        graph: the model.
        sensitivity: an only-this ranking of it, or what measures one; that is called only if the
            recipe does not meet the target as it is.
        measure: measures a recipe on the evaluation data.
        max_drop: largest relative drop allowed, 0.01 is 1 %.
        method: ``greedy`` or ``bisect``.
        on_point: called with each measured point.
        progress: told after each measurement.
    """
    walk = _Walk(recipe, graph, sensitivity, measure, max_drop, on_point, progress)
    best = walk.greedy() if method == "greedy" else walk.bisect()
    ranked = walk.ranked
    sites = targets_of(recipe, graph, operands="both", granularity="op")
    count = len(sites if ranked is None else ranked.rows)
    return SearchResult(
        recipe=recipe.skip(*best.skipped),
        reached=best.drop <= max_drop and len(best.skipped) < count,
        max_drop=max_drop,
        best=best,
        curve=tuple(walk.curve),
        quantizable=count,
        flat=ranked is not None and ranked.flat,
        method=method,
        ranking=() if ranked is None else tuple(row.name for row in ranked.rows),
    )


def point_of(
    recipe: Recipe,
    graph: Graph,
    result: Evaluation,
    skipped: tuple[str, ...],
    step: str,
    known: Effects,
    anchor: Anchor | None,
) -> SkipPoint:
    """A measured recipe as a point of the curve.

    Args:
        recipe: what was measured.
        graph: the model.
        result: the measurement.
        skipped: ops, or operands, that it leaves in float.
        step: why it was measured.
        known: what each op does alone.
        anchor: all int8, measured.
    """
    interval = drop_interval(result)
    predicted = estimate(known, graph, recipe, anchor)
    operands = graph.operands
    ops = {operands[name].op if name in operands else name for name in skipped}
    return SkipPoint(
        skipped=skipped,
        drop=result.drop,
        low=interval.low,
        high=interval.high,
        predicted=None if predicted is None else predicted.drop,
        float_macs=sum(graph.ops[name].macs for name in ops) / max(1, graph.macs),
        value=result.value,
        step=step,
        divergence=result.divergence,
        predicted_divergence=None if predicted is None else predicted.divergence,
    )


class _Walk:
    def __init__(
        self,
        recipe: Recipe,
        graph: Graph,
        sensitivity: Sensitivity | Callable[[], Sensitivity],
        measure: Measure,
        max_drop: float,
        on_point: Callable[[SkipPoint], None] | None,
        progress: OnProgress | None,
    ) -> None:
        self.recipe, self.graph, self.measure, self.max_drop = recipe, graph, measure, max_drop
        self.curve: list[SkipPoint] = []
        self.ranked = sensitivity if isinstance(sensitivity, Sensitivity) else None
        self._rank = sensitivity
        self._all_int8: Evaluation | None = None
        self.report = Reporter("search", 1 + self._sites, progress)
        self.on_point = on_point

    @property
    def _sites(self) -> int:
        return 0 if self.ranked is None else len(self.ranked.rows)

    @cached_property
    def ranking(self) -> list[str]:
        """Ops, worst first; measured now if they were not before."""
        if self.ranked is None:
            assert not isinstance(self._rank, Sensitivity)
            self.ranked = self._rank()
            self.report.total += self._sites
            if self._all_int8 is not None:
                self.curve[0] = self._point(self._all_int8, (), self.curve[0].step)
        return [row.name for row in self.ranked.rows]

    def point(self, skipped: tuple[str, ...], step: str) -> SkipPoint:
        """Measure one set, once."""
        for known in self.curve:
            if set(known.skipped) == set(skipped):
                return known
        result = self.measure(self.recipe.skip(*skipped))
        self._all_int8 = self._all_int8 or result  # the first one measured skips nothing
        point = self._point(result, skipped, step)
        self.curve.append(point)
        if self.on_point is not None:
            self.on_point(point)
        self.report.step(f"{len(skipped)} skipped: drop {point.drop:.2%}")
        return point

    def _point(self, result: Evaluation, skipped: tuple[str, ...], step: str) -> SkipPoint:
        assert self._all_int8 is not None
        known = effects([] if self.ranked is None else [self.ranked])
        anchor, recipe = Anchor.of(self._all_int8), self.recipe.skip(*skipped)
        return point_of(recipe, self.graph, result, skipped, step, known, anchor)

    def greedy(self) -> SkipPoint:
        """Skip the worst until within the target, then give back what is not needed."""
        point = self.point((), "add")
        if point.drop <= self.max_drop:
            return point
        for count in range(1, len(self.ranking)):  # with every op in float nothing is won
            if point.drop <= self.max_drop:
                break
            point = self.point(tuple(self.ranking[:count]), "add")
        if point.drop > self.max_drop:
            return self.lowest()
        self.report.total = self.report.done + len(point.skipped)
        for name in reversed(point.skipped[:-1]):  # without the last one the target was missed
            fewer = tuple(n for n in point.skipped if n != name)
            candidate = self.point(fewer, "give back")
            if candidate.drop <= self.max_drop:
                point = candidate
        return point

    def bisect(self) -> SkipPoint:
        """Search the shortest prefix of the ranking that is within the target."""
        if (all_int8 := self.point((), "bisect")).drop <= self.max_drop:
            return all_int8
        self.report.total = len(self.ranking).bit_length() + 2
        low, high = 0, max(1, len(self.ranking) - 1)  # with every op in float nothing is won
        found = self.point(tuple(self.ranking[:high]), "bisect")
        if found.drop > self.max_drop:
            return self.lowest()
        while high - low > 1:
            middle = (low + high) // 2
            point = self.point(tuple(self.ranking[:middle]), "bisect")
            if point.drop <= self.max_drop:
                high, found = middle, point
            else:
                low = middle
        return found

    def lowest(self) -> SkipPoint:
        """The point with the smallest drop; of equal ones that with the fewest skips."""
        return min(self.curve, key=lambda p: (p.drop, len(p.skipped)))
