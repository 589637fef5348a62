"""Guided escalation: what is tried, in which order, and what came of it - the values of it.

    calibrators -> cheap fixes -> partial quantization -> reconstruction -> training

Wu et al. 2020 (arXiv:2004.09602, section 6) go from calibration over partial quantization to
quantization-aware training; between them stand the fixes that cost seconds and the reconstruction
of layers (Hubara et al. 2021, arXiv:2006.10518). A strategy (``auto_guided.py``, ``auto_amct.py``)
walks along them and stops at the target. Each thing tried is an ``AutoStep``; whoever watches is
given an ``AutoEvent`` when one begins and when one ends; the end is an ``AutoResult``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from qviz.recipe import Recipe

#: The file of a run folder that holds the result so far.
RESULT = "auto"
#: In the order in which they are gone through; the last is the strategy ``amct``'s own.
Stage = Literal[
    "calibrators",
    "cheap fixes",
    "partial quantization",
    "reconstruction",
    "training",
    "more bits",
    "roll back",
]
#: ``idle`` found nothing that it could change, ``failed`` could not be applied, ``skipped`` did not
#: fit into the time budget.
Outcome = Literal["kept", "not kept", "idle", "skipped", "failed"]
Strategy = Literal["guided", "amct"]


@dataclass(frozen=True)
class AutoOptions:
    """What an escalation is asked for.

    Attributes:
        max_drop: largest relative drop of the metric from float, 0.01 is 1 %.
        strategy: ``guided`` or ``amct``.
        time_budget: seconds it may take, None sets no limit.
        calibrators: specs of the candidates; None is the strategy's own choice.
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        per_channel: False is one scale per weight tensor.
        ends_at_8: below 8 bits, the first and last layers keep 8.
        skip: ops left in float from the beginning.
        options: of tune methods, as (method, name, value).
        without: tune methods that are not tried.
    """

    max_drop: float = 0.01
    strategy: Strategy = "guided"
    time_budget: float | None = None
    calibrators: tuple[str, ...] | None = None
    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    ends_at_8: bool = True
    skip: tuple[str, ...] = ()
    options: tuple[tuple[str, str, str], ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Action:
    """One command on the way to a recipe; the whole way is a tuple of them.

    Attributes:
        verb: ``calibrate`` makes a recipe, ``tune``, ``search`` and ``skip`` change it.
        name: of the calibrator, the method or the way to search; "" with ``skip``.
        options: of a tune method, as typed.
        names: ops that ``tune`` is limited to, or that ``skip`` leaves in float.
    """

    verb: Literal["calibrate", "tune", "search", "skip"]
    name: str = ""
    options: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class AutoStep:
    """One thing that was tried. Shares and drops are relative: 0.01 is 1 %.

    Attributes:
        stage: which part of the escalation it belongs to.
        name: of the calibrator, method or search.
        title: the same in words.
        outcome: what became of it.
        reason: why, in words.
        sentence: all of it in one sentence with its numbers.
        seconds: how long it took.
        measured: variants measured on the evaluation data in it.
        before: metric of the variant it began from, None if there was none.
        after: metric of what it made, None if it made nothing.
        gain: relative change of the metric from ``before`` to ``after``, positive is better.
        gain_low: lower limit of its 95 % paired interval.
        gain_high: upper limit.
        noise: whether that interval contains 0.
        drop: of ``after`` from the float model, positive is worse.
        drop_low: lower limit of its 95 % interval.
        drop_high: upper limit.
        divergence: of the outputs from the float model's.
        float_macs: share of multiply-accumulates that ``recipe`` leaves in float.
        recipe: what it made, kept or not.
        way: what makes ``recipe`` again from nothing (``auto_commands.py`` writes it out).
        known: it was done by an earlier run in the same folder.
    """

    stage: Stage
    name: str
    title: str
    outcome: Outcome
    reason: str
    sentence: str
    seconds: float
    measured: int = 0
    before: float | None = None
    after: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    noise: bool = False
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    divergence: float | None = None
    float_macs: float = 0.0
    recipe: Recipe | None = None
    way: tuple[Action, ...] = ()
    known: bool = False


@dataclass(frozen=True)
class AutoEvent:
    """What whoever watches is told: a step begins, or has ended.

    Attributes:
        kind: ``begin`` or ``end``.
        stage: of the step.
        title: of the step.
        steps: everything finished so far, in order; after ``end`` the last one is this step.
        best: the step whose recipe is the best so far, None before the first measurement.
        seconds: since the escalation began.
        time_budget: seconds it may take, None if there is no limit.
    """

    kind: Literal["begin", "end"]
    stage: Stage
    title: str
    steps: tuple[AutoStep, ...]
    best: AutoStep | None
    seconds: float
    time_budget: float | None


@dataclass(frozen=True)
class Samples:
    """A set of data and what it was used for.

    Attributes:
        role: ``calibration``, ``evaluation``, ``training`` or ``confirmation``.
        name: where it came from.
        count: samples.
    """

    role: str
    name: str
    count: int


@dataclass(frozen=True)
class Confirmation:
    """The chosen variant measured on data that chose nothing.

    Attributes:
        name: of the data.
        count: samples.
        value: the metric.
        float_value: the float model's on the same samples.
        drop: relative, positive is worse.
        drop_low: lower limit of its 95 % interval.
        drop_high: upper limit.
    """

    name: str
    count: int
    value: float
    float_value: float
    drop: float
    drop_low: float
    drop_high: float


@dataclass(frozen=True)
class AutoResult:
    """What an escalation found.

    Attributes:
        strategy: ``guided`` or ``amct``.
        max_drop: the target, relative.
        reached: whether ``best`` is within the target.
        best: the step whose recipe is the best, None if nothing was measured or, with ``amct``,
            if only float everywhere satisfies the evaluator.
        steps: everything that was tried or skipped, in order.
        ended: why it stopped, in words.
        metric: what was measured.
        float_value: the float model's metric.
        measured: variants that the evaluation data chose among.
        seconds: of this run.
        earlier_seconds: of the steps that an earlier run had finished.
        time_budget: seconds it was given, None if there was no limit.
        seed: of everything random.
        data: calibration, evaluation and training data told apart.
        commands: what repeats the result and exports it, in this order.
        notes: what to know about the number, in words.
        files: written beside the recipe, in the run folder.
        confirmation: of ``best`` on data that chose nothing, None if there are none.
    """

    strategy: Strategy
    max_drop: float
    reached: bool
    best: AutoStep | None
    steps: tuple[AutoStep, ...]
    ended: str
    metric: str
    float_value: float
    measured: int
    seconds: float
    earlier_seconds: float
    time_budget: float | None
    seed: int
    data: tuple[Samples, ...]
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())
    confirmation: Confirmation | None = None

    @property
    def recipe(self) -> Recipe | None:
        """The best recipe."""
        return None if self.best is None else self.best.recipe


OnEvent = Callable[[AutoEvent], None]
