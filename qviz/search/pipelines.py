"""CalibTIP's pipelines below 8 bits, as a chain of steps (Hubara et al. 2021, section 6).

    plain       ranges at each width -> layer losses -> allocation
    light       the same -> statistics
    advanced    AdaQuant at each width -> layer losses with each width's tuned weights
                -> allocation -> statistics -> bias tuning

Each step fits on calibration data. Statistics and bias tuning are kept where they bring the outputs
nearer to the float model's on calibration samples held out from every fit, and dropped, with the
numbers, where they do not; the evaluation data has no say in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qviz.errors import TuneError
from qviz.recipe import Recipe
from qviz.search.checking import Check, divided
from qviz.search.choosing import Choose, offered_to
from qviz.search.layer_losses import LayerLosses
from qviz.search.mixing import Networks, Prepared
from qviz.search.preparing import base_recipe, prepare
from qviz.search.widths import BASE, Allocation, Width
from qviz.tune.methods import method
from qviz.tune.step import Change, Step, Subject, options_of
from qviz.weights import NOTHING, TunedWeights

PipelineName = Literal["plain", "light", "advanced"]

#: Of methods, by method, as a command line or a program gives them.
Options = Mapping[str, Mapping[str, float | int | str | bool]]

AFTER: Mapping[PipelineName, tuple[str, ...]] = {
    "plain": (),
    "light": ("statistics",),
    "advanced": ("statistics", "bias_tuning"),
}

Measure = Callable[[Networks], LayerLosses]
OnStage = Callable[["Stage"], None]


@dataclass(frozen=True, eq=False)
class Stage:
    """What a pipeline has after one of its stages.

    Attributes:
        name: ``adaquant``, ``allocation``, ``statistics``, ``bias_tuning``.
        title: in words.
        recipe: the decision so far.
        weights: tuned so far, relative to the subject's graph.
        kept: whether later stages go on from it.
        divergence: from float, on held-out calibration samples.
        seconds: it took.
        changes: rows of what it changed.
        notes: what a person should know.
    """

    name: str
    title: str
    recipe: Recipe
    weights: TunedWeights
    kept: bool
    divergence: float
    seconds: float
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pipeline:
    """What a pipeline made.

    Attributes:
        name: ``plain``, ``light`` or ``advanced``.
        allocation: the widths chosen.
        losses: what they were chosen by.
        stages: in order; AdaQuant at each width stands before the allocation.
        seconds: of all, the preparation included.
        held_out: calibration samples that no fit saw and stages were checked on.
    """

    name: PipelineName
    allocation: Allocation
    losses: LayerLosses
    stages: tuple[Stage, ...]
    seconds: float
    held_out: int

    @property
    def last(self) -> Stage:
        """The last stage that was kept."""
        return next(stage for stage in reversed(self.stages) if stage.kept)


def run(
    subject: Subject,
    name: PipelineName,
    choose: Choose,
    *,
    widths: Sequence[Width],
    measure: Measure,
    calibrator: str = "auto",
    options: Options | None = None,
    on_stage: OnStage | None = None,
) -> Pipeline:
    """Run a pipeline.

    Args:
        subject: the model and its recipe at 8 bits.
        name: ``plain``, ``light`` or ``advanced``.
        choose: gives the allocation, given the networks and their losses: ``Within`` a limit.
        widths: what is offered.
        measure: measures the losses of prepared networks; ``layer_losses.measure``, or what keeps
            them in a run folder.
        calibrator: of activations below 8 bits.
        options: of the methods used, by method: ``{"adaquant": {"iterations": 200}}``.
        on_stage: called with each finished stage.

    Raises:
        TuneError: the limit cannot be met, an option is of a method that the pipeline does not
            run, or AdaQuant cannot be applied.
        RangeError: a method has no such option, or its value is out of bounds.
    """
    given = read_options(name, options or {})
    choose.check(offered_to(subject, widths))
    started = time.monotonic()
    stages: list[Stage] = []

    def add(stage: Stage) -> None:
        stages.append(stage)
        if on_stage is not None:
            on_stage(stage)

    networks = prepare(subject, widths, calibrator=calibrator)
    fit, held_out = divided(subject.calibration)
    subject = replace(subject, calibration=fit)
    check = Check(subject, held_out)
    if name == "advanced":
        networks = reconstructed(subject, networks, given.get("adaquant", {}), check, add)
    before = time.monotonic()
    losses = measure(networks)
    allocation = choose(networks, losses)
    recipe, weights = networks.mixed(allocation.of)
    add(
        Stage(
            name="allocation",
            title="Bit allocation",
            recipe=recipe,
            weights=weights,
            kept=True,
            divergence=check(recipe, weights),
            seconds=time.monotonic() - before,
            changes=bit_changes(allocation),
        )
    )
    for step in AFTER[name]:
        add(_next(subject, stages, step, given.get(step, {}), check))
    seconds = time.monotonic() - started
    return Pipeline(name, allocation, losses, tuple(stages), seconds, check.samples)


def methods_of(name: PipelineName) -> tuple[str, ...]:
    """The methods that a pipeline runs, before and after the allocation."""
    return (("adaquant",) if name == "advanced" else ()) + AFTER[name]


def read_options(name: PipelineName, given: Options) -> Options:
    """The options given to a pipeline, checked, and of the types that its methods take.

    Raises:
        TuneError: there is no such method, or the pipeline does not run it.
        RangeError: a method has no such option, or its value is out of bounds.
    """
    found = {}
    for one, values in given.items():
        known = options_of(method(one).module.OPTIONS, values)
        if one not in methods_of(name):
            others = [other for other in AFTER if one in methods_of(other)]
            raise TuneError(
                f"option {one}.{next(iter(values), '')}".rstrip("."),
                f"the {name} pipeline does not run that method",
                f"Take the {' or '.join(others)} pipeline" if others else "Leave it out",
            )
        found[one] = {option: known[option] for option in values}
    return found


def bit_changes(allocation: Allocation) -> tuple[Change, ...]:
    """One row per layer that has another width than the base."""
    return tuple(
        Change(layer, "bits", BASE.weights, width.weights, "bits", str(width))
        for layer, width in allocation.widths
        if width != BASE
    )


def reconstructed(
    subject: Subject,
    networks: Networks,
    options: Mapping[str, float | int | str | bool],
    check: Check,
    on_stage: OnStage,
) -> Networks:
    """The networks with AdaQuant applied at each width: own weights, biases and ranges.

    In parallel mode, which fits every layer to its own float input: only so does a layer's loss not
    depend on the widths of the others (Hubara et al. 2021, section 3).
    """
    adaquant = method("adaquant")
    given = {"mode": "parallel", **options}
    at = dict(networks.at)
    done: list[tuple[Width, Step, float]] = []
    for width in networks.widths:
        started = time.monotonic()
        recipe, _ = networks.mixed({layer.name: width for layer in networks.layers})
        step = adaquant.module.apply(replace(subject, recipe=recipe), **given)
        ranges = step.recipe if width != networks.base else base_recipe(step.recipe)
        at[width] = Prepared(ranges, step.weights or NOTHING)
        done.append((width, step, time.monotonic() - started))
    made = replace(networks, at=at)
    for width, step, seconds in done:
        recipe, weights = made.mixed({la.name: width for la in made.layers if not la.end})
        where = "" if width == made.base else " but first and last"
        on_stage(
            Stage(
                name="adaquant",
                title=f"{adaquant.title}, all{where} at {width}",
                recipe=recipe,
                weights=weights,
                kept=True,
                divergence=check(recipe, weights),
                seconds=seconds,
                changes=step.changes,
                notes=step.notes,
            )
        )
    return made


def _next(
    subject: Subject,
    stages: Sequence[Stage],
    name: str,
    options: Mapping[str, float | int | str | bool],
    check: Check,
) -> Stage:
    """One more step on the last stage that was kept."""
    before = next(stage for stage in reversed(stages) if stage.kept)
    chosen = method(name)
    started = time.monotonic()
    current = subject.after(Step(before.recipe, before.weights, ()))
    if name == "statistics" and not chosen.module.sites(current):
        options = {"where": "all", **options}  # para-normalization: no batch norm was folded
    try:
        step = chosen.module.apply(current, **options)
    except TuneError as error:
        seconds = time.monotonic() - started
        return replace(
            before,
            name=name,
            title=chosen.title,
            kept=False,
            seconds=seconds,
            changes=(),
            notes=(str(error),),
        )
    weights = before.weights.then(step.weights)
    found = check(step.recipe, weights)
    kept = found < before.divergence
    notes = step.notes
    if not kept and step.weights:
        notes = (*notes, f"not kept: divergence {before.divergence:.4g} -> {found:.4g}")
    seconds = time.monotonic() - started
    return Stage(
        name, chosen.title, step.recipe, weights, kept, found, seconds, step.changes, notes
    )
