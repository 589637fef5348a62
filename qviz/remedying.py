"""The remedy finder on a session: what makes and measures its attempts, and their record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qviz import tuning
from qviz.errors import RecipeError
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.tune.methods import Method
from qviz.tune.remedies import Bench, find, sites_of
from qviz.tune.remedy import Options, Remedies
from qviz.tune.result import Tuning
from qviz.tune.step import Step

if TYPE_CHECKING:
    from qviz.sensitivity import Sensitivity
    from qviz.session import Session

#: The table of a run folder with one row per attempt.
TABLE = "remedies"


def remedies(
    session: Session,
    recipe: Recipe,
    sites: int | Sequence[str],
    sensitivity: Sensitivity | None,
    methods: Sequence[str] | None,
    on_rows: Callable[[Remedies], None] | None,
    progress: OnProgress | None,
) -> Remedies:
    """Find remedies: arguments of ``Session.remedies``.

    Raises:
        RecipeError: a site is no op with int8 arithmetic.
        TuneError: a method is unknown.
    """
    if isinstance(sites, int):
        ranking = sensitivity or session.sensitivity(recipe, progress=progress)
        sites = sites_of(ranking, sites)
    for site in sites:
        if site not in session.graph.ops or not session.graph.ops[site].quantizable:
            raise RecipeError(site, "is no op with int8 arithmetic", "List them with qviz info")
    bench = Bench(
        subject=lambda start, ops: tuning.subject(session, start, ops),
        finish=lambda *attempt: _finished(session, *attempt),
        measure=lambda measured: session.evaluate(measured),
        seed=session.seed,
    )
    return find(bench, recipe, sites, methods=methods, on_rows=on_rows, progress=progress)


def _finished(
    session: Session,
    method: Method,
    step: Step,
    start: Recipe,
    options: Options,
    ops: tuple[str, ...],
    seconds: float,
) -> Tuning:
    before = session.evaluate(start)
    made = tuning.finished(session, method, step, start, before, options, ops, seconds, note=False)
    if session.run is not None:
        session.run.append(TABLE, made.row())
    return made
