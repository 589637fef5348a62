"""Partial quantization as a step: the worst ops of a variant left in float.

``greedy`` goes on as long as what it leaves in float is little; beyond that the later stages may do
better, so only ``bisect`` looks how much it would take, in few measurements.

Where to start from is a question of the weights. What corrects errors (biases, statistics,
reconstruction, training) fits them to an op that is rounded, and an op left in float afterwards
keeps a correction that it does not need: there the ops are ranked by what leaving each one in float
gains, and the last variant before any such correction is searched as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qviz.auto import Action, AutoStep, Stage
from qviz.auto_clock import OutOfTime
from qviz.auto_judge import BRANCHES, SMALL_SHARE, Verdict, rank, rank_of, spent_on
from qviz.auto_work import Tried, Work
from qviz.digits import percent
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.search.skip import Method, SkipPoint
from qviz.sensitivity import Mode, Sensitivity

STAGE: Stage = "partial quantization"
#: Methods after which an op left in float computes what the float model's does.
PRESERVING = ("gelu_clip", "ifmr", "hfmg", "equalization", "smoothing", "weight_range")


class _Enough(Exception):  # noqa: N818 - not a failure
    """What is left in float is no longer little."""


@dataclass
class _Search:
    """The searches of one variant: its ranking, and the sets measured so far."""

    start: AutoStep
    recipe: Recipe
    mode: Mode
    ranking: Sensitivity | None = None
    sets: set[frozenset[str]] = field(default_factory=lambda: {frozenset()})


def partial(work: Work) -> None:
    """Search the base, and where it was corrected what it was before that; each only once."""
    for start in starts(work):
        assert start.recipe is not None
        mode = ranked_by(start)
        done = [s for s in work.steps if s.stage == STAGE and s.way[:-1] == start.way]
        if work.enough or done:
            continue
        search = _Search(start, start.recipe, mode)
        little = _attempt(work, search, "greedy")
        if little.drop is None or little.drop > work.options.max_drop:
            _attempt(work, search, "bisect")


def starts(work: Work) -> list[AutoStep]:
    """The base and, where it was corrected, the last variant of the main line before that."""
    line = [s for s in work.steps if s.outcome == "kept" and s.stage not in BRANCHES]
    plain = [s for s in line if ranked_by(s) == "only_this"]
    found = [step for step in (work.base, plain[-1] if plain else None) if step is not None]
    return found[:1] if len(found) == 2 and found[0] is found[1] else found


def ranked_by(step: AutoStep) -> Mode:
    """The ranking that finds what to leave in float: see the module docstring."""
    tuned = [action.name for action in step.way if action.verb == "tune"]
    return "only_this" if all(name in PRESERVING for name in tuned) else "all_but_this"


def _attempt(work: Work, search: _Search, method: Method) -> AutoStep:
    session, max_drop = work.session, work.options.max_drop

    def do(tell: OnProgress) -> Tried:
        search.ranking = search.ranking or work.ranking(search.recipe, search.mode, tell)
        found, way, points = _searched(work, search, method, tell)
        new = {frozenset(p.skipped) for p in points} - search.sets
        search.sets |= new
        count = len(found.skipped)
        return Tried(
            search.recipe.skip(*found.skipped),
            session.evaluate(search.recipe.skip(*found.skipped)),
            session.evaluate(search.recipe),
            (*search.start.way, way),
            measured=len(new),
            note=f"{count} {'op' if count == 1 else 'ops'} in float, {len(points)} sets measured",
        )

    def judge(tried: Tried) -> Verdict:
        share, drop = work.float_share(tried.recipe), tried.after.drop
        new = rank(drop, share, spent_on(tried.recipe), max_drop)
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
    if search.start is not work.base:
        title = f"partial quantization of {search.start.title} ({method})"
    key = (search.recipe, search.mode, max_drop, work.best_recipe)
    return work.attempt(STAGE, method, title, do, judge, key=key, foresee=False)


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
        mode = (("mode", search.mode),) if search.mode != "only_this" else ()
        return found.best, Action("search", method, mode), points
    best = min(points, key=lambda p: rank(p.drop, p.float_macs, len(p.skipped), max_drop))
    return best, Action("skip", names=best.skipped), points
