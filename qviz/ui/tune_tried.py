"""Everything that was tried in this run, also by a command line: as a picture and as a table."""

from __future__ import annotations

import streamlit as st

from qviz.digits import percent
from qviz.errors import QvizError
from qviz.figures_tune import steps_figure
from qviz.tables_tune import Tried, tried, tried_table
from qviz.ui import tune_result
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.tune_now import target_of
from qviz.ui.workspace import Workspace

#: Session-state key: number of the step that is looked at.
CHOSEN = "tune_tried"
TALL = 420
#: A relative rise of the divergence that is worth a warning. The record has no interval of it, so
#: a smaller one may as well be chance.
AWAY = 0.25


def history(workspace: Workspace) -> None:
    """The record of the run folder; a row or point of it can be used again."""
    session = workspace.opened.session
    metric = session.metric
    try:
        rows = session.tunings()
    except QvizError as failure:
        st.error(plain(str(failure)))
        return
    steps = tried(rows, higher_is_better=metric.higher_is_better)
    if not steps:
        st.info("Nothing was tried yet. Run a method: every step is kept here, also the useless.")
        return
    of_metric = [one for one in steps if one.metric == metric.name]
    if of_metric:
        chart(
            steps_figure(of_metric, target=target_of(workspace), metric=metric.name),
            key="tune_steps",
            alt=f"Drop of {metric.name} from float before and after each of {len(of_metric)} "
            "steps, listed in the table below",
            on_click=_choose,
        )
    newest = tuple(reversed(steps))
    table = tried_table(newest, workspace.recipe, fraction=metric.unit == "fraction")

    def picked() -> None:
        found = st.session_state["tune_record"].selection.rows
        if found and found[0] < len(newest):
            _choose(newest[found[0]].step)

    st.dataframe(
        table,
        key="tune_record",
        column_config=words.tried_columns(metric),
        hide_index=True,
        placeholder="",
        height=min(TALL, 35 * (len(newest) + 1) + 3),
        on_select=picked,
        selection_mode="single-row",
        alt=f"Every step tried, newest first, {len(newest)} rows",
    )
    st.caption("Newest first. Click a row or a point to use its recipe.")
    one = next((s for s in steps if s.step == st.session_state.get(CHOSEN)), None)
    if one is not None:
        _one(workspace, one)


def _choose(step: object) -> None:
    st.session_state[CHOSEN] = int(str(step))


def _one(workspace: Workspace, one: Tried) -> None:
    with st.container(border=True):
        tune_result.verdict(workspace, one)
        rise = _rise(one)
        if one.verdict == "noise" and rise > AWAY:
            st.warning(
                f"The divergence from float rose by {percent(rise)}: the outputs move away from "
                "float's, which the metric does not show on these samples. The record has no "
                "interval of the rise."
            )
        if one.how:
            st.caption(plain(one.how))
        if one.notes:
            st.markdown("\n".join(f"- {plain(note)}" for note in one.notes))
        if one.recipe is None:
            st.warning("The record does not hold its recipe in a form that this qviz reads.")
        else:
            tune_result.actions(workspace, one.recipe, words.label(one), key="tune_old")
        st.caption(words.record(one))


def _rise(one: Tried) -> float:
    """By how much the outputs moved away from float's, relative; 0 where that is not known."""
    first, last = one.divergence
    return last / first - 1 if first > 0 and last == last else 0.0
