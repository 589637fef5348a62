"""One escalation at work: tries a step, judges it, writes it down, tells whoever watches.

What a step does is a function that returns ``Tried``; everything around it is here: the journal of
an earlier run, the time budget, methods that cannot be applied, the best so far. Only the user ends
the whole of it (``Cancelled``, Ctrl-C): what was finished is in the journal by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qviz.auto import (
    Action,
    AutoEvent,
    AutoOptions,
    AutoStep,
    OnEvent,
    Outcome,
    Stage,
)
from qviz.auto_clock import Clock, OutOfTime
from qviz.auto_journal import Journal, key_of
from qviz.auto_judge import BRANCHES, SMALL_SHARE, Verdict, best_of, float_share
from qviz.auto_words import sentence
from qviz.errors import InputError, RunFolderError
from qviz.estimate import drop_interval
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.records import metric_key
from qviz.sensitivity import Mode, Sensitivity
from qviz.session import Session
from qviz.tuning import gained


@dataclass(frozen=True, eq=False)
class Tried:
    """What a step made.

    Attributes:
        recipe: the variant.
        after: its measurement.
        before: of the variant it began from, None if there was none.
        way: what makes the recipe from nothing.
        measured: variants measured on the evaluation data.
        note: more to say than before and after, "" if there is nothing.
    """

    recipe: Recipe
    after: Evaluation
    before: Evaluation | None
    way: tuple[Action, ...]
    measured: int = 1
    note: str = ""


#: Stages of which every step measures one variant, and does little else.
SINGLE = ("calibrators", "roll back")


class NothingToDo(Exception):  # noqa: N818 - not a failure
    """A step found nothing that it could change; the text says what it looked for."""


Do = Callable[[OnProgress], Tried]
Judge = Callable[[Tried], Verdict]


class Work:
    """The state of one escalation.

    Args:
        session: the model and its data.
        options: what is asked for.
        clock: how long it may take.
        on_event: told when a step begins and ends.
        progress: told how far the verbs inside are.
    """

    def __init__(
        self,
        session: Session,
        options: AutoOptions,
        clock: Clock,
        on_event: OnEvent | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        self.session, self.options, self.clock = session, options, clock
        self._on_event, self.progress = on_event, progress
        self._journal = Journal(session.run)
        self.steps: list[AutoStep] = []
        self.base: AutoStep | None = None
        self.first_error: InputError | None = None
        self._left: dict[str, AutoStep] = {}
        self._rankings: dict[tuple[Recipe, Mode], Sensitivity] = {}

    @property
    def best(self) -> AutoStep | None:
        """The best so far."""
        return best_of(self.steps, self.base, self.options.max_drop)

    @property
    def base_recipe(self) -> Recipe | None:
        """Of the last kept step of the main line."""
        return None if self.base is None else self.base.recipe

    @property
    def best_recipe(self) -> Recipe | None:
        """Of the best so far."""
        return None if self.best is None else self.best.recipe

    @property
    def own_share(self) -> float:
        """Share of MACs that the user leaves in float whatever is found."""
        return float_share(self.session.graph, Recipe().skip(*self.options.skip))

    def float_share(self, recipe: Recipe) -> float:
        """Share of MACs that a recipe leaves in float."""
        return float_share(self.session.graph, recipe)

    @property
    def met(self) -> bool:
        """Whether the best so far is within the target."""
        best = self.best
        drop = None if best is None else best.drop
        return drop is not None and drop <= self.options.max_drop

    @property
    def enough(self) -> bool:
        """Whether the best so far meets the target with little in float, at the bits asked for."""
        best = self.best
        if best is None or not self.met or best.stage == "more bits":
            return False
        return best.float_macs <= self.own_share + SMALL_SHARE

    def ranking(self, recipe: Recipe, mode: Mode, tell: OnProgress) -> Sensitivity:
        """Which ops of a recipe hurt, measured once."""
        if (recipe, mode) not in self._rankings:
            # unlike that of a search, its own estimate of the time is worth something
            guard = self.clock.guard(tell)
            self._rankings[recipe, mode] = self.session.sensitivity(
                recipe, mode=mode, progress=guard
            )
        return self._rankings[recipe, mode]

    def attempt(
        self,
        stage: Stage,
        name: str,
        title: str,
        do: Do,
        judge: Judge,
        *,
        key: tuple[object, ...],
        foresee: bool = True,
    ) -> AutoStep:
        """Try one thing, unless an earlier run has, or there is no time.

        Args:
            stage: part of the escalation.
            name: of the calibrator, method or search.
            title: the same in words.
            do: makes the variant; ``NothingToDo`` if there is nothing it could change.
            judge: whether to keep it, and why.
            key: what result and verdict depend on: the variant it begins from, what it is compared
                with, options ...
            foresee: see ``Clock.guard``.
        """
        session = self.session
        # a run folder may be opened again with other rules, or another seed
        where = (metric_key(session.metric), session.profile, session.seed)
        found = key_of(stage, name, *where, *key)
        known = self._journal.find(found)
        if known is not None:
            return self._ended(known)
        if found in self._left:
            return self._left[found]
        self._tell("begin", stage, title)
        step = self._tried(stage, name, title, do, judge, foresee=foresee)
        if step.outcome in ("skipped", "failed"):
            self._left[found] = step  # said once; another run may do better
        else:
            self._journal.add(found, step)
        return self._ended(step)

    def _tried(
        self, stage: Stage, name: str, title: str, do: Do, judge: Judge, *, foresee: bool
    ) -> AutoStep:
        if why := self.clock.too_little(self._least()):
            return self._without(stage, name, title, "skipped", why, 0.0)
        outcome: Outcome
        began = self.clock.seconds
        try:
            tried = do(self.clock.guard(self.progress, foresee=foresee))
        except OutOfTime as end:
            outcome, reason = "skipped", end.reason
        except NothingToDo as end:
            outcome, reason = "idle", str(end)
        except RunFolderError:
            raise
        except InputError as error:
            self.first_error = self.first_error or error
            outcome, reason = "failed", str(error)
        else:
            kept, why_so = judge(tried)
            return self._step(stage, name, title, tried, kept=kept, reason=why_so, began=began)
        return self._without(stage, name, title, outcome, reason, self.clock.seconds - began)

    def _least(self) -> float:
        """Seconds that any step takes: those of the quickest so far that measured one variant."""
        return min((s.seconds for s in self.steps if s.stage in SINGLE), default=0.0)

    def _step(
        self,
        stage: Stage,
        name: str,
        title: str,
        tried: Tried,
        *,
        kept: bool,
        reason: str,
        began: float,
    ) -> AutoStep:
        after, before, session = tried.after, tried.before, self.session
        gain, interval = gained(before, after, session.seed)
        limits = drop_interval(after)
        step = AutoStep(
            stage=stage,
            name=name,
            title=title,
            outcome="kept" if kept else "not kept",
            reason=f"{reason}. {tried.note}" if tried.note else reason,
            sentence="",
            seconds=self.clock.seconds - began,
            measured=tried.measured,
            before=None if before is None else before.value,
            after=after.value,
            gain=gain,
            gain_low=None if interval is None else interval.low,
            gain_high=None if interval is None else interval.high,
            noise=interval is not None and 0.0 in interval,
            drop=after.drop,
            drop_low=limits.low,
            drop_high=limits.high,
            divergence=after.divergence,
            float_macs=float_share(session.graph, tried.recipe),
            recipe=tried.recipe,
            way=tried.way,
        )
        return replace(step, sentence=sentence(step, session.metric))

    def _without(
        self, stage: Stage, name: str, title: str, outcome: Outcome, reason: str, seconds: float
    ) -> AutoStep:
        step = AutoStep(stage, name, title, outcome, reason.rstrip("."), "", seconds)
        return replace(step, sentence=sentence(step, self.session.metric))

    def _ended(self, step: AutoStep) -> AutoStep:
        self.steps.append(step)
        if step.outcome == "kept" and step.stage not in BRANCHES:
            self.base = step
        best = self.best
        if step is best and step.recipe is not None:
            self.session.save("recipe", step.recipe)
        self._tell("end", step.stage, step.title)
        return step

    def _tell(self, kind: str, stage: Stage, title: str) -> None:
        if self._on_event is not None:
            seconds, budget = self.clock.seconds, self.clock.budget
            event = AutoEvent(
                "begin" if kind == "begin" else "end",
                stage,
                title,
                tuple(self.steps),
                self.best,
                seconds,
                budget,
            )
            self._on_event(event)
