"""Run an escalation: strategy, confirmation, and the account of it in the run folder.

auto.jsonl           one row per finished step (``auto_journal.py``)
auto.json            the result, written again after each step
recipe.json          the best recipe so far
"""

from __future__ import annotations

from dataclasses import asdict, replace

from qviz.auto import (
    RESULT,
    AutoEvent,
    AutoOptions,
    AutoResult,
    AutoStep,
    Confirmation,
    OnEvent,
    Samples,
)
from qviz.auto_amct import Evaluator, RollBack, amct, within
from qviz.auto_clock import Clock
from qviz.auto_commands import commands, in_python
from qviz.auto_guided import guided
from qviz.auto_journal import row_of
from qviz.auto_words import notes
from qviz.auto_work import Work
from qviz.calibrators import parse
from qviz.data import Data, overlap
from qviz.errors import DataError, TuneError
from qviz.estimate import drop_interval
from qviz.evaluate import compare, outputs
from qviz.progress import OnProgress
from qviz.recipe import Recipe, resolve
from qviz.reproduce import opened_with
from qviz.session import Session
from qviz.tune.methods import method
from qviz.tune.step import options_of

#: Strategies by name, with what they do in a sentence.
STRATEGIES = {
    "guided": "calibrators, cheap fixes, partial quantization, reconstruction, training",
    "amct": "AMCT's automatic quantization: cosine ranking, bisection of the layers rolled back",
}


def auto(
    session: Session,
    options: AutoOptions,
    *,
    confirm: Data | None = None,
    evaluator: Evaluator | None = None,
    on_event: OnEvent | None = None,
    progress: OnProgress | None = None,
    clock: Clock | None = None,
) -> AutoResult:
    """Win the accuracy back: see ``Session.auto``, which checks that a drop can be measured."""
    _check(session, options, confirm, evaluator)
    clock = clock or Clock(options.time_budget)
    work: Work

    def told(event: AutoEvent) -> None:
        if event.kind == "end":  # so that a process that is killed leaves an account of itself
            _write(session, _result(work, "it has not ended: run the same command again"))
        if on_event is not None:
            on_event(event)

    files: tuple[str, ...] = ()
    if options.strategy == "amct":
        metric = session.metric
        accepts = evaluator or within(options.max_drop, higher_is_better=metric.higher_is_better)
        work = rolled = RollBack(session, options, clock, told, progress)
        ended, files = amct(rolled, accepts)
    else:
        work = Work(session, options, clock, told, progress)
        ended = guided(work)
    confirmed = None
    if confirm is not None and work.best is not None and work.best.recipe is not None:
        confirmed = confirmation(session, work.best.recipe, confirm, progress)
    found = _result(work, ended, files, confirmed, confirm)
    _write(session, found)
    return found


def _check(
    session: Session, options: AutoOptions, confirm: Data | None, evaluator: Evaluator | None
) -> None:
    """Refuse what cannot work before anything is run."""
    if options.strategy not in STRATEGIES:
        raise TuneError(
            f"strategy {options.strategy!r}",
            "does not exist",
            f"Use one of {', '.join(STRATEGIES)}",
        )
    if evaluator is not None and options.strategy != "amct":
        raise TuneError(
            "evaluator", f"the strategy {options.strategy} has none", "Use strategy='amct'"
        )
    for name in (*options.without, *(name for name, _, _ in options.options)):
        method(name)
    for name in {name for name, _, _ in options.options}:
        options_of(method(name).module.OPTIONS, {k: v for m, k, v in options.options if m == name})
    for spec in options.calibrators or ():
        parse(spec)
    resolve(Recipe().skip(*options.skip), session.graph)
    if confirm is not None:
        _check_confirmation(session, confirm)


def _check_confirmation(session: Session, confirm: Data) -> None:
    name = session.metric.name
    if session.metric.needs_labels and not confirm.labelled:
        raise DataError(
            confirm.name, f"it has no labels, {name} needs them", "Give labelled samples"
        )
    session.simulator.program.inputs(next(iter(confirm.batches(1))))  # refuses other shapes
    for role, data in _sets(session):
        if shared := overlap(confirm, data):
            raise DataError(
                confirm.name,
                f"{shared} of its {confirm.count} samples are {role} samples too, so it confirms "
                "nothing",
                "Give samples that nothing was chosen or fitted with",
            )


def _sets(session: Session) -> list[tuple[str, Data]]:
    found = {
        "calibration": session.calibration_data,
        "evaluation": session.evaluation_data,
        "training": session.training_data,
    }
    return [(role, data) for role, data in found.items() if data is not None]


def confirmation(
    session: Session, recipe: Recipe, data: Data, progress: OnProgress | None = None
) -> Confirmation:
    """Measure a recipe and the float model on data that chose nothing.

    Args:
        session: the model.
        recipe: to measure.
        data: the samples.
        progress: told how far it is.
    """
    size, simulator = session.batch_size, session.simulator_of(recipe)
    reference = outputs(session.simulator.program, data, batch_size=size, progress=progress)
    made = outputs(
        simulator.program, data, simulator.edits(recipe), batch_size=size, progress=progress
    )
    found = compare(made.values, reference, session.metric, seed=session.seed)
    limits = drop_interval(found)
    return Confirmation(
        name=data.name,
        count=data.count,
        value=found.value,
        float_value=found.reference.value,
        drop=found.drop,
        drop_low=limits.low,
        drop_high=limits.high,
    )


def _result(
    work: Work,
    ended: str,
    files: tuple[str, ...] = (),
    confirmed: Confirmation | None = None,
    confirm: Data | None = None,
) -> AutoResult:
    session, options, best = work.session, work.options, work.best
    data = [Samples(role, one.name, one.count) for role, one in _sets(session)]
    if confirm is not None:
        data.append(Samples("confirmation", confirm.name, confirm.count))
    measured = sum(step.measured for step in work.steps)
    new = [step for step in work.steps if not step.known]
    return AutoResult(
        strategy=options.strategy,
        max_drop=options.max_drop,
        reached=work.met,
        best=best,
        steps=tuple(work.steps),
        ended=ended,
        metric=session.metric.name,
        float_value=session.evaluate(None).value,
        measured=measured,
        seconds=work.clock.seconds,
        earlier_seconds=sum(s.seconds for s in work.steps if s not in new),
        time_budget=options.time_budget,
        seed=session.seed,
        data=tuple(data),
        commands=_commands(session, best, options),
        notes=notes(best, measured, options.max_drop, data, confirmed=confirmed is not None),
        files=files,
        confirmation=confirmed,
    )


def _commands(session: Session, best: AutoStep | None, options: AutoOptions) -> tuple[str, ...]:
    if best is None:
        return ()
    opened = opened_with(session)
    if opened is None or session.run is None:
        return in_python(best.way, options)
    return commands(best.way, opened, options, f"{session.run.path}-again")


def _write(session: Session, found: AutoResult) -> None:
    if session.run is not None:
        session.run.write_json(RESULT, as_json(found))


def as_json(found: AutoResult) -> dict[str, object]:
    """A result as plain values; recipes are left out, except that of the best."""
    steps = [{**row_of(step), "recipe": None} for step in found.steps]
    best = None if found.best is None else row_of(found.best)
    return {**asdict(replace(found, steps=(), best=None)), "steps": steps, "best": best}
