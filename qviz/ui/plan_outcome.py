"""What the draft does: estimated at once, measured a moment later, and its place on the curve.

Drawn in a fragment that looks again while something is being measured, and not after that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from qviz.digits import number, percent, scored
from qviz.estimate import drop_interval
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
Draw = Callable[[Workspace, PlanState, Choice, Known], None]
_GREY = "<style>.st-key-plan_older {opacity: 0.45}</style>"


def follow(
    workspace: Workspace,
    state: PlanState,
    choice: Choice,
    known: Known,
    numbers: DeltaGenerator,
    curve: DeltaGenerator,
) -> None:
    """Draw numbers and curve, each into its place, and keep them up to date until all is known."""
    if workspace.opened.meter is None:
        with numbers:
            st.warning(plan_words.NO_DATA)
            _in_float(choice)
        return
    waiting = _waiting(workspace, state, choice)
    target = state.target

    def live(draw: Draw) -> None:
        now = Choice.of(workspace.recipe, choice.graph)
        # the table and its toolbar stand outside: they have to see these, and the polling starts
        # or ends with the whole
        if (
            waiting != _waiting(workspace, state, now)
            or (now.base, now.left, state.target) != (choice.base, choice.left, target)
            or plan_know.known(workspace, state, now.base) is not known
        ):
            st.rerun()
        draw(workspace, state, now, known)

    for place, draw in ((numbers, _numbers), (curve, _curve)):
        with place:
            st.fragment(live, run_every=POLL if waiting else None)(draw)


def _waiting(workspace: Workspace, state: PlanState, choice: Choice) -> bool:
    """Whether a measurement or a job is under way whose result belongs here."""
    found = workspace.live()
    jobs = [workspace.jobs.get("search"), state.learning.get(choice.base)]
    running = any(job is not None and job.snapshot().active for job in jobs)
    return running or (found is not None and not found.settled)


def _measurements(workspace: Workspace, state: PlanState, choice: Choice) -> LiveResult:
    """What is measured of the draft; points of the curve are kept on the way."""
    found = workspace.live() or LiveResult()
    if found.full is not None:
        state.note(choice, found.full)
    if (job := workspace.jobs.get("search")) is not None:
        state.note_search(job, choice)
    return found


def _curve(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    _measurements(workspace, state, choice)
    anchor = plan_know.anchor(workspace, state, choice)
    predicted = known.estimate(choice, anchor)
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
    _flags(drawn)
    plan_search.controls(workspace, state, choice, known)
    with st.expander(
        "The measured points as a table, and how drops are predicted", key="plan_points"
    ):
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
        workspace.apply(
            taken.recipe, f"a point of the curve, {plan_words.ops(len(taken.ops))} in float"
        )


def _numbers(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    metric = workspace.opened.session.metric
    found = _measurements(workspace, state, choice)
    predicted = known.estimate(choice, plan_know.anchor(workspace, state, choice))
    st.html(_GREY)
    with st.container(horizontal=True, key="plan_numbers", gap="medium"):
        _in_float(choice)
        with st.container(width=250, key="plan_estimated"):
            drop = None if predicted is None else predicted.drop
            st.metric(f"Drop of {metric.name}, estimated", plan_words.roughly(drop))
            st.caption(plan_words.estimated(predicted))
        if found.best is not None:
            state.shown = found.best
            with st.container(width=330, key="plan_measured"):
                _measured(found.best)
                _how_far(workspace, found)
        else:
            with st.container(width=330):
                if state.shown is not None and found.error is None:
                    with st.container(key="plan_older"):
                        _measured(state.shown, older=True)
                if found.error is None:
                    st.caption("**measuring …**")
    if found.error is not None:
        st.error(found.error)
    _learning(state, choice, known)


def _in_float(choice: Choice) -> None:
    with st.container(width=170, key="plan_share"):
        st.metric("In float", f"{len(choice.ops)} of {len(choice.operands)} ops")
        st.caption(f"{percent(choice.float_macs)} of MACs")


def _how_far(workspace: Workspace, found: LiveResult) -> None:
    assert found.best is not None  # checked by the caller
    count = found.best.scores.count
    if found.full is not None:
        st.caption(f"measured on all {count:,} samples")
        return
    rest = "when the running job is done" if workspace.opened.worker.busy else "next"
    st.caption(f"measured on {count:,} of {_all(workspace):,} samples; on all of them {rest} …")


def _all(workspace: Workspace) -> int:
    data = workspace.opened.session.evaluation_data
    return 0 if data is None else data.count


def _measured(found: Evaluation, *, older: bool = False) -> None:
    metric = found.metric
    interval = drop_interval(found)
    when = " before the last change" if older else ""
    if math.isnan(found.drop):
        st.metric(f"{metric.name}, measured{when}", scored(found.value, metric))
    else:
        st.metric(f"Drop of {metric.name}, measured{when}", percent(found.drop))
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
        where = (
            "This draft" if mark.current else f"{plan_words.ops(mark.ops)} in float ({mark.label})"
        )
        st.warning(f"{where}: {mark.flag}")
    if len(flagged) > 3:
        st.caption(f"{number(len(flagged) - 3)} more points are not as predicted; see the table.")
