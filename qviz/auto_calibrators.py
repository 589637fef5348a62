"""The first stage: every candidate calibrator measured; the best is what all others build on."""

from __future__ import annotations

from qviz.auto import Action
from qviz.auto_ends import recipe_for
from qviz.auto_judge import Verdict
from qviz.auto_work import Tried, Work
from qviz.calibration import best_of, specs_with
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress
from qviz.recipe import Recipe


def calibrators(work: Work, specs: tuple[str, ...]) -> None:
    """Measure each; in the end the base is the one that ``compare_calibrators`` would choose.

    Args:
        work: the escalation.
        specs: of the candidates.
    """
    for spec in specs:
        _attempt(work, spec, specs)


def _attempt(work: Work, spec: str, specs: tuple[str, ...]) -> None:
    session = work.session

    def do(tell: OnProgress) -> Tried:
        session.calibrate(specs_with(specs, spec), progress=tell)
        recipe = base_recipe(work, spec)
        base = work.base_recipe
        before = None if base is None else session.evaluate(base, progress=tell)
        after = session.evaluate(recipe, progress=tell)
        return Tried(recipe, after, before, (Action("calibrate", spec),))

    def judge(tried: Tried) -> Verdict:
        # measured in this run or an earlier one: either way nothing is run again
        earlier = [s for s in work.steps if s.stage == "calibrators" and s.recipe is not None]
        measured = [session.evaluate(s.recipe) for s in earlier]
        return chosen([s.name for s in earlier], measured, tried.after)

    before = tuple(s.name for s in work.steps if s.stage == "calibrators" and s.recipe is not None)
    key = (*recipe_key(work), before)
    work.attempt("calibrators", spec, f"calibrator {spec}", do, judge, key=key)


def chosen(names: list[str], earlier: list[Evaluation], new: Evaluation) -> Verdict:
    """Whether a new calibrator is the best so far, by the rule of ``calibration.best_of``."""
    if not earlier:
        return True, "the first one measured"
    best, tied = best_of([*earlier, new])
    last = len(earlier)
    if best == last:
        if len(tied) == 1:
            return True, "better than those before, beyond noise"
        return True, "of those that the metric cannot tell apart it diverges least from float"
    if last in tied:
        return False, f"the metric cannot tell it from {names[best]}, which diverges less"
    return False, f"worse than {names[best]}, beyond noise"


def base_recipe(work: Work, spec: str) -> Recipe:
    """Everything int8 with the ranges of one calibrator, less what the user skips."""
    options = work.options
    return recipe_for(
        work.session,
        spec,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
        per_channel=options.per_channel,
        ends_at_8=options.ends_at_8,
        skip=options.skip,
    )


def recipe_key(work: Work) -> tuple[object, ...]:
    """What ``base_recipe`` depends on beside the calibrator."""
    o = work.options
    return (o.weight_bits, o.activation_bits, o.per_channel, o.ends_at_8, o.skip)
