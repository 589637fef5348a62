"""What the draft does: estimated at once, measured a moment later, and its place on the curve.

Drawn in a fragment that looks again while something is being measured, and not after that.
"""

from __future__ import annotations

import math

import streamlit as st

from qviz.digits import number, percent, scored
from qviz.estimate import Estimate, drop_interval
from qviz.evaluate import Evaluation
from qviz.figures_plan import curve_figure
from qviz.meter import LiveResult
from qviz.tables_plan import Mark, Step, points_table
from qviz.ui import jobs_view, plan_know, plan_search, plan_words
from qviz.ui.chart import chart
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_state import Known, PlanState, marks, steps
from qviz.ui.workspace import Workspace

#: How often a measurement under way is looked at, in seconds.
POLL = 0.3
_GREY = "<style>.st-key-plan_older {opacity: 0.45}</style>"


def outcome(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    """Numbers, curve and flags, kept up to date until nothing more comes."""
    if workspace.opened.meter is None:
        st.warning(plan_words.NO_DATA)
        st.metric("In float", plan_words.how_much(*_share(choice)))
        return
    waiting = _waiting(workspace, state, choice)
    target = state.target

    def live() -> None:
        now = Choice.of(workspace.recipe, choice.graph)
        # the table and its toolbar stand outside: they have to see these, and the polling starts
        # or ends with the whole
        if (
            waiting != _waiting(workspace, state, now)
            or (now.base, now.left, state.target) != (choice.base, choice.left, target)
            or plan_know.known(workspace, state, now.base) is not known
        ):
            st.rerun()
        _draw(workspace, state, now, known)

    st.fragment(live, run_every=POLL if waiting else None)()


def _waiting(workspace: Workspace, state: PlanState, choice: Choice) -> bool:
    """Whether a measurement or a job is under way whose result belongs here."""
    found = workspace.live()
    jobs = [workspace.jobs.get("search"), state.learning.get(choice.base)]
    running = any(job is not None and job.snapshot().active for job in jobs)
    return running or (found is not None and not found.settled)


def _share(choice: Choice) -> tuple[int, int, float]:
    return len(choice.ops), len(choice.operands), choice.float_macs


def _draw(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    found = workspace.live() or LiveResult()
    if found.full is not None:
        state.note(choice, found.full)
    if (job := workspace.jobs.get("search")) is not None:
        state.note_search(job, choice)
    anchor = plan_know.anchor(workspace, state, choice)
    predicted = known.estimate(choice, anchor)
    _numbers(workspace, state, choice, found, predicted)
    _learning(state, choice, known)
    names = {Choice.of(r, choice.graph).left: n for n, r in workspace.variants.items()}
    drawn = marks(state, choice, known, anchor, names)
    here = None
    if predicted is not None:
        here = Step(len(choice.ops), predicted.drop, choice.float_macs)
    metric = workspace.opened.session.metric
    figure = curve_figure(
        drawn,
        quantizable=len(choice.operands),
        target=state.target,
        predicted=steps(choice, known, anchor),
        here=here,
        metric=metric.name,
    )
    chart(
        figure,
        key="plan_curve",
        alt=f"Drop of {metric.name} against the number of ops left in float; {len(drawn)} measured "
        "points, listed in the table below",
        on_click=lambda key: _take(workspace, state, int(key)),
    )
    st.caption("Click a point to take it over into the draft.")
    _flags(drawn)
    plan_search.controls(workspace, state, choice, known)
    with st.expander(f"{len(drawn)} measured points as a table", key="plan_points"):
        st.dataframe(
            points_table(sorted(drawn, key=lambda m: (m.ops, m.point.drop))),
            column_config=plan_words.POINT_COLUMNS,
            hide_index=True,
            alt="Measured points of the curve",
        )
        st.markdown(plan_words.HOW)


def _take(workspace: Workspace, state: PlanState, key: int) -> None:
    choice = Choice.of(workspace.recipe, workspace.opened.session.graph)
    points = list(state.points.get(choice.base, {}))
    if 0 <= key < len(points):
        taken = choice.with_left(points[key])
        workspace.apply(taken.recipe, f"a point of the curve, {len(taken.ops)} ops in float")


def _numbers(
    workspace: Workspace,
    state: PlanState,
    choice: Choice,
    found: LiveResult,
    predicted: Estimate | None,
) -> None:
    metric = workspace.opened.session.metric
    st.html(_GREY)
    with st.container(horizontal=True, key="plan_numbers"):
        with st.container(width=215, key="plan_estimated"):
            drop = None if predicted is None else predicted.drop
            st.metric(
                f"Drop of {metric.name}, estimated",
                f"≈ {percent(drop)}" if drop is not None else "-",
            )
            st.caption(plan_words.estimated(predicted))
        if found.best is not None:
            state.shown = found.best
            with st.container(width=235, key="plan_measured"):
                _measured(found.best, everything=found.full is not None)
        elif state.shown is not None and found.error is None:
            with st.container(width=235, key="plan_older"):
                _measured(state.shown, everything=False, older=True)
        with st.container(width=170, key="plan_share"):
            ops, of, macs = _share(choice)
            st.metric("In float", f"{ops} of {of} ops")
            st.caption(f"{percent(macs)} of MACs")
    if found.error is not None:
        st.error(found.error)
    elif found.best is None:
        st.caption(":hourglass: measuring …")
    elif found.full is None:
        rest = "when the running job is done" if workspace.opened.worker.busy else "now"
        st.caption(
            f"Measured on {found.best.scores.count:,} of "
            f"{_all(workspace):,} samples; on all of them {rest} …"
        )
    else:
        st.caption(f"Measured on all {found.full.scores.count:,} samples.")


def _all(workspace: Workspace) -> int:
    data = workspace.opened.session.evaluation_data
    return 0 if data is None else data.count


def _measured(found: Evaluation, *, everything: bool, older: bool = False) -> None:
    metric = found.metric
    interval = drop_interval(found)
    count = "before the last change" if older else f"{found.scores.count:,} samples"
    if math.isnan(found.drop):
        st.metric(f"{metric.name}, measured ({count})", scored(found.value, metric))
    else:
        st.metric(f"Drop of {metric.name}, measured ({count})", percent(found.drop))
    st.caption(
        f"{metric.name} {scored(found.value, metric)}, "
        f"float {scored(found.reference.value, metric)}; "
        f"{plan_words.measured(found, interval.low, interval.high)}"
    )


def _learning(state: PlanState, choice: Choice, known: Known) -> None:
    """How far the estimates are, or why there are none."""
    job = state.learning.get(choice.base)
    if job is None or known.effects.of:
        return
    shown = job.snapshot()
    if shown.active:
        jobs_view.bar(shown)
        return
    jobs_view.failure(shown)
    st.button(
        "Estimate what each op does",
        key="plan_learn",
        on_click=plan_know.forget,
        args=(state, choice.base),
    )


def _flags(drawn: tuple[Mark, ...]) -> None:
    flagged = [mark for mark in drawn if mark.flag is not None]
    for mark in sorted(flagged, key=lambda m: (not m.current, m.ops))[:3]:
        where = "This draft" if mark.current else f"{mark.ops} ops in float ({mark.label})"
        st.warning(f"{where}: {mark.flag}")
    if len(flagged) > 3:
        st.caption(f"{number(len(flagged) - 3)} more points are not as predicted; see the table.")
