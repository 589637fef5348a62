"""More bits as a step, below 8 bits: the worst ops of a variant get 8, the others keep theirs.

What partial quantization does with float this does with bits, which costs less: an op at 8 bits is
still an integer op. How many of the worst ops it takes is found by bisection, as for AMCT's roll
back; a bit width for every op, under a limit on the size, is what ``qviz allocate`` finds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qviz.auto import Action, AutoStep, Stage
from qviz.auto_amct import shortest
from qviz.auto_clock import OutOfTime
from qviz.auto_judge import Verdict, rank, rank_of, spent_on
from qviz.auto_partial import ranked_by, starts
from qviz.auto_work import NothingToDo, Tried, Work
from qviz.digits import percent
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.tune.methods import METHODS

STAGE: Stage = "more bits"
METHOD = "more_bits"


def more_bits(work: Work) -> None:
    """Try it on the base and on what that was before its weights were corrected."""
    widths = (work.options.weight_bits, work.options.activation_bits)
    if widths == (8, 8) or METHOD not in METHODS or METHOD in work.options.without:
        return
    for start in starts(work):
        done = [s for s in work.steps if s.stage == STAGE and s.way[:-1] == start.way]
        if not work.enough and not done:
            _attempt(work, start)


@dataclass
class _Sets:
    """Variants measured so far, by how many of the worst ops have 8 bits."""

    ops: tuple[str, ...]
    found: dict[int, tuple[Recipe, Evaluation]] = field(default_factory=dict)


def _attempt(work: Work, start: AutoStep) -> None:
    session, recipe, max_drop = work.session, start.recipe, work.options.max_drop
    assert recipe is not None
    mode = ranked_by(start)

    def do(tell: OnProgress) -> Tried:
        narrow = METHODS[METHOD].module.sites(session.subject(recipe, progress=tell))
        ranked = [row.name for row in work.ranking(recipe, mode, tell).rows]
        sets = _Sets(tuple(name for name in ranked if name in narrow))
        if not sets.ops:
            raise NothingToDo("no op has fewer than 8 bits")
        _search(work, recipe, sets, tell)
        count = min(
            sets.found,
            key=lambda n: rank(sets.found[n][1].drop, 0.0, n, max_drop),
        )
        made, after = sets.found[count]
        way = (*start.way, Action("tune", METHOD, names=sets.ops[:count]))
        note = f"{count} of {len(sets.ops)} ops at 8 bits, {len(sets.found)} sets measured"
        before = session.evaluate(recipe)
        return Tried(made, after, before, way, measured=len(sets.found), note=note)

    def judge(tried: Tried) -> Verdict:
        drop, best = tried.after.drop, work.best
        share = work.float_share(tried.recipe)
        if best is not None:
            new = rank(drop, share, spent_on(tried.recipe), max_drop)
            if not new < rank_of(best, max_drop):
                return False, f"it is no better than {best.title}"
        if drop > max_drop:
            return True, f"the smallest drop so far, above the target of {percent(max_drop)}"
        return True, f"within the target of {percent(max_drop)} without float"

    title = "more bits" if start is work.base else f"more bits for {start.title}"
    key = (recipe, mode, max_drop, work.best_recipe)
    work.attempt("more bits", METHOD, title, do, judge, key=key, foresee=False)


def _search(work: Work, recipe: Recipe, sets: _Sets, tell: OnProgress) -> None:
    """Bisect how many ops it takes; what was measured when the time is over stays."""

    def accepts(count: int) -> bool:
        made = work.session.tune(METHOD, recipe, ops=sets.ops[:count], progress=tell)
        assert made.after is not None
        sets.found[count] = made.recipe, made.after
        return made.after.drop <= work.options.max_drop

    try:
        # one more than there are: that all of them have 8 bits is a variant like any other
        shortest(len(sets.ops) + 1, accepts)
    except OutOfTime:
        if not sets.found:
            raise
