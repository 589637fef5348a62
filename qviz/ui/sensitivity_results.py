"""Rankings of a visit: each by what was measured - setting and recipe - filled while a job runs.

Kept on the workspace, so that a reload finds them. Nothing here needs torch before a ranking is
there: the landing page makes workspaces too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qviz.jobs import Job, Snapshot
    from qviz.ranking import Granularity, Mode, Operands, Sensitivity
    from qviz.recipe import Recipe
    from qviz.session import Session


@dataclass(frozen=True)
class Setting:
    """What is switched, and how: the form of the page."""

    mode: Mode = "only_this"
    operands: Operands = "both"
    granularity: Granularity = "op"


@dataclass(eq=False)
class Rankings:
    """Every ranking of one visit.

    Attributes:
        setting: chosen in the form.
        with_skips: measure the draft as it is; False measures it without its skips.
        worst: how many the exclude list names.
        found: the rankings so far, finished or not, oldest first.
    """

    setting: Setting = Setting()
    with_skips: bool = False
    worst: int = 3
    found: dict[tuple[Setting, Recipe], Sensitivity] = field(default_factory=dict)

    def of(self, setting: Setting, recipe: Recipe) -> Sensitivity | None:
        """The ranking of exactly this, as far as it has come."""
        return self.found.get((setting, recipe))

    def earlier(self, setting: Setting, recipe: Recipe) -> tuple[Recipe, ...]:
        """Other recipes that were ranked with this setting, the latest first."""
        return tuple(r for s, r in reversed(list(self.found)) if s == setting and r != recipe)

    def parts(self, setting: Setting, recipe: Recipe) -> dict[Operands, Sensitivity]:
        """Rankings that differ from this one only in which part is switched."""
        kinds: tuple[Operands, ...] = ("weights", "activations", "both")
        found = {kind: self.of(replace(setting, operands=kind), recipe) for kind in kinds}
        return {kind: ranking for kind, ranking in found.items() if ranking is not None}

    def follow(self, job: Job, recipe: Recipe, settings: Sequence[Setting]) -> None:
        """Note what a job publishes, on the job's thread."""
        by_kind = {(s.mode, s.operands): s for s in settings}

        def note(shown: Snapshot) -> None:
            for value in (shown.partial, shown.result):
                if value is not None:
                    self.found[by_kind[value.mode, value.operands], recipe] = value

        job.subscribe(note)
        note(job.snapshot())


def work(
    session: Session, recipe: Recipe, settings: Sequence[Setting]
) -> Callable[[Job], Sensitivity]:
    """Measure some settings one after the other, as one job; the last one is the result."""
    from qviz import background

    def run(job: Job) -> Sensitivity:
        for setting in settings:
            found = background.sensitivity(
                session,
                recipe,
                mode=setting.mode,
                operands=setting.operands,
                granularity=setting.granularity,
            )(job)
            job.publish(found)
        return found

    return run


@dataclass(frozen=True)
class Kept:
    """How much of a ranking the run folder has.

    Attributes:
        names: ops or operands to measure.
        whole: those measured on every sample.
        begun: those measured on some.
    """

    names: int
    whole: int
    begun: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to measure."""
        return self.whole == self.names


def kept(names: Sequence[str], measured: Mapping[str, int], samples: int) -> Kept:
    """Compare what is to be measured with the samples measured of each name."""
    counts = [measured.get(name, 0) for name in names]
    return Kept(
        names=len(counts),
        whole=sum(count >= samples for count in counts),
        begun=sum(0 < count < samples for count in counts),
    )
