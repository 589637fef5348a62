"""A remedy: one method tried on one site, and what is known of it; remedies.py finds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qviz.evaluate import Evaluation
from qviz.intervals import Interval, paired_bootstrap, relative_change
from qviz.recipe import Recipe
from qviz.tune.result import Tuning

Options = Mapping[str, float | int | str | bool]
Verdict = Literal["helps", "noise", "mixed", "worse", "yardstick"]

#: The yardstick: the site left in float.
FLOAT = "float"
#: Site and method of the best remedies applied together.
TOGETHER = "together"


@dataclass(frozen=True, eq=False)
class Remedy:
    """One method tried on one site.

    Attributes:
        site: the op.
        method: its name in ``METHODS``; ``FLOAT`` for the yardstick, ``TOGETHER`` for the sum.
        options: of the method.
        title: in words.
        tuning: the step, None for the yardstick.
        recipe: the recipe that came of it; the one before is untouched.
        before: the recipe before, measured.
        after: ``recipe``, measured.
        gain: relative change of the metric from before to after, positive is better.
        interval: 95 % paired bootstrap interval of it.
        fall: relative fall of the divergence from float, positive is better.
        fall_interval: 95 % paired bootstrap interval of it, None if it is not known by sample.
        luck: what rounding the site another way did to the divergence, relative.
        verdict: ``helps`` if the divergence falls by more than interval and luck explain, ``worse``
            if it rises by more or the metric falls; ``mixed`` if the two disagree; else ``noise``.
        best: the remedy of this site with the largest fall among those that help.
    """

    site: str
    method: str
    options: Options
    title: str
    tuning: Tuning | None
    recipe: Recipe
    before: Evaluation
    after: Evaluation
    gain: float
    interval: Interval
    fall: float
    fall_interval: Interval | None
    luck: float
    verdict: Verdict
    best: bool = False


@dataclass(frozen=True, eq=False)
class Remedies:
    """What was tried, as far as it has come.

    Attributes:
        start: the recipe that every attempt began with.
        before: it, measured.
        sites: the worst ops, worst first.
        rows: site after site; of each the yardstick first, then by fall, best first.
        notes: what was not tried, or not measured, and why.
        together: the best remedies of all sites one after the other, None if none helps.
        complete: whether everything was tried.
    """

    start: Recipe
    before: Evaluation
    sites: tuple[str, ...]
    rows: tuple[Remedy, ...] = ()
    notes: tuple[str, ...] = ()
    together: Remedy | None = None
    complete: bool = False

    @property
    def best(self) -> dict[str, Remedy]:
        """The best remedy of each site that has one."""
        return {row.site: row for row in self.rows if row.best}

    @property
    def taken(self) -> Remedy | None:
        """What to go on with: all best together if that is closer to float than each alone."""
        rows = [*self.best.values(), *([] if self.together is None else [self.together])]
        able = [row for row in rows if row.verdict == "helps"]
        return max(able, key=lambda row: row.fall, default=None)

    @property
    def summary(self) -> str:
        """One or two sentences for a person."""
        helped = self.best
        tried = sum(row.tuning is not None for row in self.rows)
        text = f"{tried} remedies tried, one helps on {len(helped)} of {len(self.sites)} sites"
        for row in helped.values():
            text += f"; {row.site}: {row.title} ({self.before.divergence_name} {-row.fall:+.0%})"
        if self.together is not None:
            sum_ = self.together
            text += (
                f". Together: {sum_.after.metric.name} {self.before.value:.4g} -> "
                f"{sum_.after.value:.4g}, {self.before.divergence_name} {-sum_.fall:+.0%}"
            )
        return text


def verdict_of(
    interval: Interval, fall: float, fall_interval: Interval | None, luck: float
) -> Verdict:
    """What a change means (see ``Remedy.verdict``).

    Args:
        interval: of the gain of the metric.
        fall: relative fall of the divergence.
        fall_interval: of it, None if it is not known.
        luck: what chance alone does to the divergence.
    """
    sure = (fall_interval is None or 0.0 not in fall_interval) and abs(fall) > luck
    closer, further = sure and fall > 0, sure and fall < 0
    higher, lower = interval.low > 0, interval.high < 0
    if (closer and lower) or (further and higher):
        return "mixed"
    if further or lower:
        return "worse"
    return "helps" if closer else "noise"


def gain_of(before: Evaluation, after: Evaluation, seed: int) -> tuple[float, Interval]:
    """Relative gain of the metric, positive is better."""
    sign = 1.0 if after.metric.higher_is_better else -1.0
    limits = paired_bootstrap(after.scores, before.scores, seed=seed)
    low, high = sorted((sign * limits.low, sign * limits.high))
    return sign * relative_change(after.value, before.value), Interval(low, high)


def fall_of(before: Evaluation, after: Evaluation, seed: int) -> tuple[float, Interval | None]:
    """Relative fall of the divergence, positive is better; 0 where there was none to fall."""
    change = relative_change(after.divergence, before.divergence)
    if math.isnan(change):
        return (0.0 if after.divergence == 0 else -math.inf), None
    if before.divergences is None or after.divergences is None:
        return -change, None
    limits = paired_bootstrap(after.divergences, before.divergences, seed=seed)
    return -change, Interval(-limits.high, -limits.low)
