"""Tune a session's model with one method, measure before and after, keep weights and record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qviz.errors import NotFiniteError, RecipeError, TuneError
from qviz.evaluate import Evaluation
from qviz.intervals import Interval, paired_bootstrap, relative_change
from qviz.progress import OnProgress
from qviz.recipe import Recipe, resolve
from qviz.tune.methods import Method, method
from qviz.tune.result import Tuning
from qviz.tune.step import Step, Subject, options_of

if TYPE_CHECKING:
    from qviz.session import Session

#: The table of a run folder with one row per step.
TABLE = "tuning"


def subject(
    session: Session,
    recipe: Recipe,
    ops: Sequence[str] | None = None,
    progress: OnProgress | None = None,
) -> Subject:
    """What a method is given for a recipe of a session.

    Raises:
        RecipeError: ``ops`` names something that the model does not have.
    """
    simulator = session.simulator_of(recipe)
    resolve(recipe, simulator.graph)
    for name in ops or ():
        if name not in simulator.graph.ops and name not in simulator.graph.tensors:
            raise RecipeError(
                name, f"{session.graph.name} has no such op", "List the names with qviz info"
            )
    return Subject(
        simulator=simulator,
        recipe=recipe,
        calibration=session.calibration_data,
        original=session.simulator,
        observed=lambda: session.histograms_of(recipe, progress),
        ops=None if ops is None else tuple(ops),
        training=session.training_data,
        seed=session.seed,
        batch_size=session.batch_size,
        progress=progress,
    )


def tune(
    session: Session,
    name: str,
    recipe: Recipe,
    *,
    ops: Sequence[str] | None,
    options: Mapping[str, object],
    progress: OnProgress | None,
) -> Tuning:
    """Apply a method: arguments and errors of ``Session.tune``."""
    chosen = method(name)
    given = options_of(chosen.module.OPTIONS, options)
    if "training" in chosen.needs and session.training_data is None:
        raise TuneError(chosen.title, "needs training data", "Give some with training= or --train")
    before = measured(session, recipe, progress)
    started = time.monotonic()
    step = chosen.module.apply(subject(session, recipe, ops, progress), **given)
    seconds = time.monotonic() - started
    return finished(session, chosen, step, recipe, before, given, ops, seconds, progress)


def finished(
    session: Session,
    chosen: Method,
    step: Step,
    start: Recipe,
    before: Evaluation | None,
    options: Mapping[str, float | int | str | bool],
    ops: Sequence[str] | None,
    seconds: float,
    progress: OnProgress | None = None,
    *,
    note: bool = True,
) -> Tuning:
    """A step of a method as a Tuning: weights kept, recipe measured, row added to the record.

    Without ``note`` no row is added: the caller keeps a record of its own.

    Raises:
        TuneError: the model that came out gives NaN or infinity.
    """
    recipe = step.recipe
    if step.weights:
        recipe = replace(
            recipe, weights=session.add_weights(session.tuned(start).then(step.weights))
        )
    try:
        after = measured(session, recipe, progress)
    except NotFiniteError as failure:
        raise diverged(chosen.title) from failure
    if after is not None and after.divergence != after.divergence:
        raise diverged(chosen.title)
    gain, interval = gained(before, after, session.seed)
    evaluation = session.evaluation_data
    made = Tuning(
        method=chosen.name,
        title=chosen.title,
        options=dict(options),
        ops=None if ops is None else tuple(ops),
        start=start,
        recipe=recipe,
        before=before,
        after=after,
        gain=gain,
        interval=interval,
        changes=step.changes,
        notes=step.notes,
        seconds=seconds,
        seed=session.seed,
        calibration=session.calibration_data.count,
        training=0 if session.training_data is None else session.training_data.count,
        evaluation=0 if evaluation is None else evaluation.count,
        record=dict(step.record),
    )
    if note:
        session.note_tuning(made.row())
    return made


def diverged(title: str) -> TuneError:
    """The error of a fit that ended in NaN."""
    return TuneError(
        title,
        "the model that came out gives NaN; the recipe before is untouched",
        "Use smaller learning rates or fewer iterations",
    )


def measured(
    session: Session, recipe: Recipe, progress: OnProgress | None = None
) -> Evaluation | None:
    """A recipe on the evaluation data, None if there is none."""
    if session.evaluation_data is None:
        return None
    return session.evaluate(recipe, progress=progress)


def gained(
    before: Evaluation | None, after: Evaluation | None, seed: int = 0
) -> tuple[float | None, Interval | None]:
    """Relative gain of the metric from one measurement to another, and its paired interval.

    Positive is better, whatever the direction of the metric.
    """
    if before is None or after is None:
        return None, None
    sign = 1.0 if after.metric.higher_is_better else -1.0
    gain = sign * relative_change(after.value, before.value)
    interval = paired_bootstrap(after.scores, before.scores, seed=seed)
    ends = sorted((sign * interval.low, sign * interval.high))
    return gain, Interval(*ends)
