"""Which variant is better: beyond noise, by divergence, and at what cost.

A few hundred samples cannot tell a fix that helps a little from one that does nothing. So a step is
kept if its paired interval says that the metric got better; or if the metric did not lose anything
and the outputs are closer to the float model's, which the divergence shows long before the metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qviz.auto import AutoStep
from qviz.auto_words import fell
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.intervals import Interval
from qviz.recipe import Recipe, resolve

#: Share of MACs in float that is little enough to stop at (aim of the product: 5 %).
SMALL_SHARE = 0.05
Verdict = tuple[bool, str]


def helped(
    before: Evaluation,
    after: Evaluation,
    interval: Interval | None,
    fall: Interval | None = None,
) -> Verdict:
    """Whether a change is kept, and why.

    Args:
        before: without it.
        after: with it.
        interval: 95 % paired interval of the gain, positive is better.
        fall: 95 % paired interval of the fall of the divergence, None if it is not known.
    """
    if interval is not None and interval.low > 0:
        return True, "it helps beyond noise"
    closer = fell(before.divergence, after.divergence, after.divergence_name)
    if interval is not None and interval.high < 0:
        return False, "the metric falls beyond noise"
    if not after.divergence < before.divergence:
        return False, f"the change is noise, and {closer}"
    if fall is not None and fall.low <= 0:
        return False, f"the change is noise, and {closer} within noise as well"
    if after.drop <= before.drop:
        return True, f"the change of the metric is noise, but {closer}"
    return False, f"{closer}, but the metric loses, if within noise"


def better(step: AutoStep, than: AutoStep | None, max_drop: float) -> bool:
    """Whether a variant is preferred: in the target, less in float, fewer exceptions, less drop."""
    return than is None or rank_of(step, max_drop) < rank_of(than, max_drop)


def rank(drop: float | None, share: float, spent: int, max_drop: float) -> tuple[float, ...]:
    """Sorts variants, the best first.

    Args:
        drop: relative, None if it is not known.
        share: of MACs in float.
        spent: ops in float or with bits of their own.
        max_drop: the target.
    """
    known = math.inf if drop is None or math.isnan(drop) else drop
    return (1.0, known, share) if known > max_drop else (0.0, share, spent, known)


def rank_of(step: AutoStep, max_drop: float) -> tuple[float, ...]:
    """``rank`` of a finished step."""
    return rank(step.drop, step.float_macs, spent_on(step.recipe), max_drop)


def spent_on(recipe: Recipe | None) -> int:
    """Ops or operands that a recipe treats in a way of their own."""
    return 0 if recipe is None else len(recipe.overrides)


def best_of(steps: Sequence[AutoStep], base: AutoStep | None, max_drop: float) -> AutoStep | None:
    """The best of all kept steps: the last of the main line if it meets the target.

    Args:
        steps: all of them.
        base: the last kept one that leaves nothing more in float; earlier ones of the line led to
            it and are not gone back to.
        max_drop: the target.
    """
    branches = [s for s in steps if s.outcome == "kept" and s.stage in BRANCHES]
    best = base
    for step in branches:
        if better(step, best, max_drop):
            best = step
    return best


#: Stages whose steps spend float or bits on some ops; the later stages do not build on them.
BRANCHES = ("partial quantization", "more bits", "roll back")


def float_share(graph: Graph, recipe: Recipe) -> float:
    """Share of multiply-accumulates that a recipe leaves in float by choice."""
    decisions = resolve(recipe, graph)
    macs = sum(
        op.macs for op in graph.quantizable if any(decisions[o.name].by_choice for o in op.operands)
    )
    return macs / max(1, graph.macs)
