"""Where the plan's numbers come from: estimates made as a job, rankings measured, all int8."""

from __future__ import annotations

import json
from collections.abc import Callable

from qviz import records
from qviz.errors import Cancelled, QvizError
from qviz.estimate import Anchor
from qviz.jobs import Job
from qviz.ranking import Granularity, Sensitivity
from qviz.recipe import Recipe
from qviz.search.skip import SkipPoint
from qviz.session import Session
from qviz.ui.plan_choice import Choice, all_int8
from qviz.ui.plan_state import Known, PlanState, anchor_of
from qviz.ui.workspace import Workspace


def known_ranking(
    session: Session, recipe: Recipe, granularity: Granularity, job: Job
) -> Sensitivity:
    """A ranking without measuring it: the parts that are kept, and estimates for the rest."""
    seen: list[Sensitivity] = []

    def first(ranking: Sensitivity) -> None:
        seen.append(ranking)
        raise Cancelled("ranking", "only what is known is wanted", "Measure the sensitivity")

    try:
        return session.sensitivity(
            recipe, granularity=granularity, on_rows=first, progress=job.tell
        )
    except Cancelled:
        if not seen:  # somebody cancelled the job
            raise
        return seen[0]


def learn(session: Session, base: Recipe) -> Callable[[Job], tuple[Sensitivity, ...]]:
    """Find out what each op, then each operand, does alone; publishes the rankings so far."""

    def work(job: Job) -> tuple[Sensitivity, ...]:
        by_op = known_ranking(session, base, "op", job)
        job.publish((by_op,))
        return (by_op, known_ranking(session, base, "operand", job))

    return work


def known(workspace: Workspace, state: PlanState, base: Recipe) -> Known:
    """What is known of each op; estimates are asked for if there are none.

    While the sensitivity is measured it stays as it is: a table that changes under the pointer
    loses clicks.
    """
    job = state.learning.get(base)
    if job is None and workspace.opened.meter is not None:
        work = learn(workspace.opened.session, base)
        job = state.learning[base] = workspace.submit(
            "estimate", "Estimate what each op does", work
        )
    shown = None if job is None else job.snapshot()
    rankings: tuple[Sensitivity, ...] = ()
    if shown is not None:
        rankings = shown.result or shown.partial or ()
    measuring = workspace.jobs.get("sensitivity")
    before = state.known.setdefault(base, Known())
    if measuring is not None and measuring.snapshot().active and before.rankings:
        return before
    rankings += tuple(
        ranking
        for (setting, of), ranking in list(workspace.rankings.found.items())
        if of == base and (setting.mode, setting.operands) == ("only_this", "both")
    )
    if [id(r) for r in rankings] != [id(r) for r in before.rankings]:
        state.known[base] = before = Known.of(rankings)
    return before


def forget(state: PlanState, base: Recipe) -> None:
    """Ask for estimates again; for the button below a failure."""
    state.learning.pop(base, None)


def anchor(workspace: Workspace, state: PlanState, choice: Choice) -> Anchor | None:
    """All int8 measured on as many samples as there are so far; asks for it."""
    whole = choice.with_left(())
    if (point := state.point(whole)) is not None:
        return anchor_of(point)
    meter = workspace.opened.meter
    if meter is None:
        return None
    found = meter.ask(f"{workspace.id} all int8", choice.base)
    if found.full is not None:
        state.note(whole, found.full)
    return None if found.best is None else Anchor.of(found.best)


def recall(workspace: Workspace, state: PlanState, choice: Choice) -> None:
    """Take in what the run folder holds: whatever was measured with these ranges, also by a CLI."""
    session = workspace.opened.session
    if choice.base in state.points or session.run is None:
        return
    points = state.points.setdefault(choice.base, {})
    names = records.graph_key(session.graph)
    sign = -1 if session.metric.higher_is_better else 1
    try:
        rows = session.run.rows("evaluations")
    except QvizError as error:
        session.warnings.append(str(error))
        return
    for row in rows:
        if row["recipe"] is None or row["metric"] != session.metric.name:
            continue
        recipe = Recipe.from_json(json.dumps(row["recipe"]))
        if all_int8(recipe) != choice.base or row["key"] != records.digest(recipe, names):
            continue
        own = Choice.of(recipe, session.graph)
        ends = sorted(sign * float(end) for end in row["interval"])
        points[own.left] = SkipPoint(
            skipped=own.targets,
            drop=sign * float(row["change"]),
            low=ends[0],
            high=ends[1],
            predicted=None,
            float_macs=own.float_macs,
            value=float(row["value"]),
            step="earlier",
            divergence=float(row["divergence"]),
        )
