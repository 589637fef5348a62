"""A tune method as a step of the escalation."""

from __future__ import annotations

from typing import Any

from qviz.auto import Action, AutoStep, Stage
from qviz.auto_judge import Verdict, helped
from qviz.auto_work import NothingToDo, Tried, Work
from qviz.digits import percent
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.tune.methods import METHODS
from qviz.tune.qat_options import QATOptions
from qviz.tune.remedy import fall_of
from qviz.tune.result import Tuning
from qviz.tune.step import options_of
from qviz.tuning import gained

#: The method that trains.
TRAINING = "qat"
Options = tuple[tuple[str, str], ...]


def tune(
    work: Work,
    stage: Stage,
    name: str,
    options: Options = (),
    *,
    origin: AutoStep | None = None,
) -> None:
    """Try one method, if there is such a one and the user does not leave it out.

    Args:
        work: the escalation.
        stage: part of it.
        name: of the method.
        options: of the method, as typed; what the user says of it goes over them.
        origin: the variant it begins from; None is the base. Either way it is kept only if it is
            better than the base.
    """
    session, base, start = work.session, work.base, origin or work.base
    if name not in METHODS or name in work.options.without or base is None or start is None:
        return
    method, old, compared = METHODS[name], start.recipe, base.recipe
    assert old is not None
    assert compared is not None
    said = tuple((k, v) for method, k, v in work.options.options if method == name)
    given = dict((*options, *said))

    def do(tell: OnProgress) -> Tried:
        if not method.module.sites(session.subject(old, progress=tell)):
            raise NothingToDo("there is nothing in this model that it could change")
        made = _made(work, name, old, given, tell)
        if made.after is None or made.recipe == old:
            raise NothingToDo("it found nothing to change")
        before = session.evaluate(compared, progress=tell)
        way = (*start.way, Action("tune", name, tuple(given.items())))
        return Tried(made.recipe, made.after, before, way, note=_changes(len(made.changes)))

    def judge(tried: Tried) -> Verdict:
        assert tried.before is not None
        interval = gained(tried.before, tried.after, session.seed)[1]
        fall = fall_of(tried.before, tried.after, session.seed)[1]
        kept, why = helped(tried.before, tried.after, interval, fall)
        target = work.options.max_drop
        if name == TRAINING and not kept and tried.after.drop <= target < tried.before.drop:
            # labels pull the outputs away from the float model's: divergence has no say in it
            return True, f"within the target of {percent(target)}, though its gain may be noise"
        return kept, why

    values = ", ".join(value for _, value in options)
    title = f"{method.title} ({values})" if values else method.title
    if start is not base:
        title += f" from {start.title}"
    trains: tuple[object, ...] = ()
    if stage == "training" and session.training_data is not None:
        trains = (session.training_data.digest, work.options.max_drop)
    key = (old, compared, tuple(given.items()), *trains)
    work.attempt(stage, name, title, do, judge, key=key)


def _made(work: Work, name: str, recipe: Recipe, given: dict[str, str], tell: OnProgress) -> Tuning:
    if name != TRAINING:
        return work.session.tune(name, recipe, progress=tell, **given)
    # the verb of its own keeps the state of a training that is interrupted
    chosen: dict[str, Any] = options_of(METHODS[name].module.OPTIONS, given)
    return work.session.qat(recipe, QATOptions(seed=work.session.seed, **chosen), progress=tell)


def _changes(count: int) -> str:
    return "1 change" if count == 1 else f"{count} changes"
