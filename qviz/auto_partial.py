"""Partial quantization as a step: the worst ops of the base left in float.

``greedy`` goes on as long as what it leaves in float is little; beyond that the later stages may do
better, so only ``bisect`` looks how much it would take, in few measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qviz.auto import Action, AutoStep
from qviz.auto_clock import OutOfTime
from qviz.auto_judge import SMALL_SHARE, Verdict, rank, rank_of
from qviz.auto_work import Tried, Work
from qviz.digits import percent
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.search.skip import Method, SkipPoint
from qviz.sensitivity import Sensitivity


class _Enough(Exception):  # noqa: N818 - not a failure
    """What is left in float is no longer little."""


@dataclass
class _Search:
    """The searches of one base: its ranking, and the sets measured so far."""

    recipe: Recipe
    ranking: Sensitivity | None = None
    sets: set[frozenset[str]] = field(default_factory=lambda: {frozenset()})


def partial(work: Work) -> None:
    """Both searches on the base, unless they were done on it already."""
    base = work.base
    if base is None or base.recipe is None:
        return
    if any(s.stage == "partial quantization" and s.way[:-1] == base.way for s in work.steps):
        return
    search = _Search(base.recipe)
    little = _attempt(work, search, base, "greedy")
    if little.drop is None or little.drop > work.options.max_drop:
        _attempt(work, search, base, "bisect")


def fallback(work: Work) -> None:
    """How much in float it takes with the model's own weights, if nothing else meets the target.

    Weights tuned for an op that is rounded need not suit the op in float; with the model's own,
    more in float always ends at the float model.
    """
    plain = [s for s in work.steps if s.stage == "calibrators" and s.outcome == "kept"]
    base = plain[-1] if plain else None
    if base is None or base.recipe is None or work.met or base is work.base:
        return
    _attempt(work, _Search(base.recipe), base, "bisect")


def _attempt(work: Work, search: _Search, base: AutoStep, method: Method) -> AutoStep:
    session, max_drop = work.session, work.options.max_drop

    def do(tell: OnProgress) -> Tried:
        if search.ranking is None:
            # its own estimate is worth something, that of a search is not
            search.ranking = session.sensitivity(search.recipe, progress=work.clock.guard(tell))
        found, way, points = _searched(work, search, method, tell)
        new = {frozenset(p.skipped) for p in points} - search.sets
        search.sets |= new
        count = len(found.skipped)
        return Tried(
            search.recipe.skip(*found.skipped),
            session.evaluate(search.recipe.skip(*found.skipped)),
            session.evaluate(search.recipe),
            (*base.way, way),
            measured=len(new),
            note=f"{count} {'op' if count == 1 else 'ops'} in float, {len(points)} sets measured",
        )

    def judge(tried: Tried) -> Verdict:
        share, drop = work.float_share(tried.recipe), tried.after.drop
        new = rank(drop, share, len(tried.recipe.skipped), max_drop)
        best = work.best
        if tried.recipe == search.recipe:
            return False, "none of the sets of ops tried is better in float than none at all"
        if best is not None and not new < rank_of(best, max_drop):
            return False, f"it is no better than {best.title}"
        if drop > max_drop:
            return True, f"the smallest drop so far, above the target of {percent(max_drop)}"
        text = f"within the target of {percent(max_drop)} with {percent(share)} of MACs in float"
        if share > work.own_share + SMALL_SHARE:
            text += f", more than {percent(SMALL_SHARE)}"
        return True, text

    title = f"partial quantization ({method})"
    key = (search.recipe, max_drop)
    return work.attempt("partial quantization", method, title, do, judge, key=key, foresee=False)


def _searched(
    work: Work, search: _Search, method: Method, tell: OnProgress
) -> tuple[SkipPoint, Action, list[SkipPoint]]:
    """The best set found, what repeats it, and all sets that were measured."""
    points: list[SkipPoint] = []
    max_drop = work.options.max_drop

    def note(point: SkipPoint) -> None:
        points.append(point)
        much = point.float_macs > SMALL_SHARE and point.drop > max_drop
        if method == "greedy" and point.step == "add" and much:
            raise _Enough

    try:
        found = work.session.search(
            search.recipe,
            max_drop=max_drop,
            method=method,
            sensitivity=search.ranking,
            on_point=note,
            progress=tell,
        )
    except _Enough:
        pass
    except OutOfTime:
        if len(points) < 2:  # the first is the base itself
            raise
    else:
        return found.best, Action("search", method), points
    best = min(points, key=lambda p: rank(p.drop, p.float_macs, len(p.skipped), max_drop))
    return best, Action("skip", names=best.skipped), points
