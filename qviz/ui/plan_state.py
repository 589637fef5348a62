"""What the plan of one visit remembers: what is known of each op, and every measured point.

It belongs to the workspace, so that a reload finds it. Everything is kept by the recipe with
everything int8: with other ranges, other numbers hold. No widgets here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qviz.digits import percent
from qviz.estimate import (
    Anchor,
    Effects,
    Estimate,
    additivity,
    drop_interval,
    effects,
    estimate,
    not_monotone,
)
from qviz.evaluate import Evaluation
from qviz.intervals import Interval
from qviz.jobs import Job
from qviz.ranking import Sensitivity
from qviz.recipe import Recipe
from qviz.search.skip import SearchResult, SkipPoint
from qviz.tables_plan import Mark, Step
from qviz.ui.plan_choice import Choice, worst_first
from qviz.ui.workspace import Workspace

Predictions = dict[tuple[frozenset[str], Anchor | None], Estimate | None]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of each op, and each operand, alone; one version of it.

    Attributes:
        rankings: what it was made from, by op and by operand.
        effects: the same by name.
        predictions: what was predicted from it, made once.
        curves: the curve predicted along the ranking, made once.
    """

    rankings: tuple[Sensitivity, ...] = ()
    effects: Effects = field(default_factory=lambda: Effects({}))
    predictions: Predictions = field(default_factory=dict)
    curves: dict[Anchor | None, tuple[Step, ...]] = field(default_factory=dict)

    @staticmethod
    def of(rankings: Sequence[Sensitivity]) -> Known:
        """From some rankings of one recipe."""
        return Known(tuple(rankings), effects(rankings))

    @property
    def ties(self) -> dict[str, int]:
        """Group of each name that the data cannot tell from its neighbours."""
        found: dict[str, int] = {}
        for ranking in self.rankings:
            groups = [row.tie for row in ranking.rows if row.exact]
            if len(groups) == len(ranking.rows):  # ties are looked for when all is measured
                found |= {r.name: r.tie for r in ranking.rows if groups.count(r.tie) > 1}
        return found

    def estimate(self, choice: Choice, anchor: Anchor | None) -> Estimate | None:
        """What a choice is predicted to do."""
        key = (choice.left, anchor)
        if key not in self.predictions:
            self.predictions[key] = estimate(self.effects, choice.graph, choice.recipe, anchor)
        return self.predictions[key]


@dataclass(frozen=True)
class Search:
    """What a search was asked.

    Attributes:
        base: its recipe with everything int8.
        kept: operands that were to stay in float.
        target: largest relative drop allowed.
    """

    base: Recipe
    kept: frozenset[str]
    target: float


@dataclass(eq=False)
class PlanState:
    """The memory of one workspace's plan.

    Attributes:
        target: largest relative drop allowed.
        points: base -> operands in float -> what was measured on all samples, oldest first.
        shown: the last measurement that was on the page; greyed while a newer one is made.
        searches: by id of the job.
        learning: base -> the job that estimates what each op does.
        known: base -> what is known of each op.
    """

    target: float = 0.01
    points: dict[Recipe, dict[frozenset[str], SkipPoint]] = field(default_factory=dict)
    shown: Evaluation | None = None
    searches: dict[str, Search] = field(default_factory=dict)
    learning: dict[Recipe, Job] = field(default_factory=dict)
    known: dict[Recipe, Known] = field(default_factory=dict)

    def point(self, choice: Choice) -> SkipPoint | None:
        """What was measured of a choice on all samples."""
        return self.points.get(choice.base, {}).get(choice.left)

    def note(self, choice: Choice, result: Evaluation) -> None:
        """Keep a measurement on all samples as a point of the curve."""
        interval = drop_interval(result)
        self.points.setdefault(choice.base, {}).setdefault(
            choice.left,
            SkipPoint(
                skipped=choice.targets,
                drop=result.drop,
                low=interval.low,
                high=interval.high,
                predicted=None,
                float_macs=choice.float_macs,
                value=result.value,
                step="draft",
                divergence=result.divergence,
            ),
        )

    def note_search(self, job: Job, choice: Choice) -> bool:
        """Keep the points that a search has measured so far; whether there was a new one."""
        asked = self.searches.get(job.id)
        if asked is None or asked.base != choice.base:
            return False
        points = self.points.setdefault(asked.base, {})
        before = len(points)
        for point in searched(job):
            own = choice.with_left(asked.kept | choice.whole(point.skipped))
            if own.left not in points:
                points[own.left] = replace(
                    point, skipped=own.targets, float_macs=own.float_macs, step="search"
                )
        return len(points) > before


def state_of(workspace: Workspace) -> PlanState:
    """The memory of a workspace."""
    return workspace.memo("plan", PlanState)


def searched(job: Job) -> tuple[SkipPoint, ...]:
    """The points of a search, running, finished or cancelled."""
    shown = job.snapshot()
    if isinstance(shown.result, SearchResult):
        return shown.result.curve
    return tuple(shown.partial or ())


def anchor_of(point: SkipPoint) -> Anchor | None:
    """All int8 as the curve has it."""
    if point.divergence is None:
        return None
    return Anchor(point.drop, Interval(point.low, point.high), point.divergence)


def marks(
    state: PlanState,
    choice: Choice,
    known: Known,
    anchor: Anchor | None,
    names: Mapping[frozenset[str], str],
) -> tuple[Mark, ...]:
    """Every measured point, with its prediction and what is wrong with it.

    Args:
        state: where the points are kept.
        choice: the draft.
        known: what each op does alone.
        anchor: all int8, measured.
        names: of sets of operands in float, to label points with.
    """
    found = []
    for left, point in list(state.points.get(choice.base, {}).items()):
        predicted = known.estimate(choice.with_left(left), anchor)
        if predicted is not None:
            point = replace(
                point, predicted=predicted.drop, predicted_divergence=predicted.divergence
            )
        found.append((left, point))
    order = {id(worse): better for better, worse in not_monotone([p for _, p in found])}
    return tuple(
        Mark(
            ops=len(choice.with_left(left).ops),
            point=point,
            label=names.get(left, point.step),
            current=left == choice.left,
            flag=_flag(point, order.get(id(point)), anchor, known),
            key=index,
        )
        for index, (left, point) in enumerate(found)
    )


def _flag(
    point: SkipPoint, better: SkipPoint | None, anchor: Anchor | None, known: Known
) -> str | None:
    texts = []
    if None not in (point.divergence, point.predicted_divergence) and anchor is not None:
        assert point.divergence is not None
        assert point.predicted_divergence is not None
        text = additivity(point.divergence, point.predicted_divergence, anchor.divergence)
        if text is not None:
            whole = known.effects.of.keys() <= known.effects.measured
            texts.append(text if whole else f"{text} Some of that sum is estimated.")
    if better is not None:
        fewer = len(better.skipped)
        texts.append(
            f"Leaving more in float made it worse: the drop is {percent(point.drop)}, with only "
            f"{fewer} of these in float it is {percent(better.drop)}."
        )
    return " ".join(texts) or None


def steps(choice: Choice, known: Known, anchor: Anchor | None) -> tuple[Step, ...]:
    """The curve predicted along the ranking, worst first; empty while some op is unknown."""
    if anchor not in known.curves:
        known.curves[anchor] = _steps(choice, known, anchor)
    return known.curves[anchor]


def _steps(choice: Choice, known: Known, anchor: Anchor | None) -> tuple[Step, ...]:
    divergence = known.effects.of
    ranking = worst_first(choice, divergence)
    if len(ranking) < len(choice.operands) or not ranking:
        return ()
    left = sum(max(0.0, divergence[op]) for op in ranking)
    macs, found = 0, []
    for count, name in enumerate(("", *ranking)):
        if name:
            left -= max(0.0, divergence[name])
            macs += choice.graph.ops[name].macs
        predicted = None if anchor is None else anchor.drop_at(max(0.0, left))
        share = macs / max(1, choice.graph.macs)
        found.append(Step(count, predicted[0] if predicted else None, share, name))
    return tuple(found)
