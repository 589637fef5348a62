"""Remedies site by site: what helps the worst ops, tried on each alone, row by row."""

from __future__ import annotations

from functools import partial

import streamlit as st

from qviz import background
from qviz.digits import percent
from qviz.figures_remedies import LEFT, remedies_figure
from qviz.jobs import Job, Snapshot
from qviz.ranking import Sensitivity
from qviz.tables_tune import remedies_table
from qviz.tune.remedy import Remedies, Remedy
from qviz.ui import jobs_view, tune_result
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.sensitivity_results import Setting
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

KIND = "remedies"
#: How often the rows of a running search are drawn, in seconds.
POLL = 1.0
#: Session-state key: place of the row that is looked at.
CHOSEN = "tune_remedy"
TALL = 420
#: Ops tried unless asked otherwise.
WORST = 3


def sites(workspace: Workspace) -> None:
    """The form, and the rows of the search that runs or ran last."""
    st.caption(words.REMEDIES)
    if workspace.opened.meter is None:
        st.info(words.NO_DATA)
        return
    _form(workspace)
    rows = partial(_rows, workspace)
    jobs_view.result(workspace, KIND, usable=_usable, draw=rows, every=POLL)


def _usable(shown: Snapshot) -> bool:
    return isinstance(shown.partial, Remedies) and bool(shown.partial.rows)


def _form(workspace: Workspace) -> None:
    graph = workspace.opened.session.graph
    names = [op.name for op in graph.quantizable]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        worst = st.number_input(
            "Worst ops",
            1,
            len(names),
            min(WORST, len(names)),
            key="tune_worst",
            width=130,
            persist_state="session",
        )
        own = st.multiselect(
            "Or these ops",
            names,
            key="tune_sites",
            width=320,
            persist_state="session",
            filter_mode="fuzzy",
            placeholder="the worst",
        )
        st.button(
            "Find remedies",
            key="tune_remedies",
            type="primary",
            disabled=running(workspace) is not None,
            on_click=_start,
            args=(workspace, tuple(own) or int(worst)),
        )
    if not own and _ranking(workspace) is None:
        st.caption("The draft is not ranked yet: its sensitivity is measured first.")


def _ranking(workspace: Workspace) -> Sensitivity | None:
    """A finished ranking of the draft by op, if this visit has one."""
    found = workspace.rankings.of(Setting(), workspace.recipe)
    return found if found is not None and all(row.exact for row in found.rows) else None


def _start(workspace: Workspace, chosen: int | tuple[str, ...]) -> None:
    if running(workspace) is not None:
        return
    st.session_state.pop(CHOSEN, None)
    work = background.remedies(
        workspace.opened.session,
        workspace.recipe,
        sites=chosen,
        sensitivity=_ranking(workspace),
    )
    workspace.submit(KIND, "Remedies", work)


def _rows(workspace: Workspace, job: Job) -> None:
    shown = job.snapshot()
    if not shown.active and not st.session_state.get(f"tune_remedies_seen_{job.id}"):
        st.session_state[f"tune_remedies_seen_{job.id}"] = True
        st.rerun()  # once, so that polling ends
    found = shown.result or shown.partial
    if not isinstance(found, Remedies):
        return
    if found.start != workspace.recipe:
        st.caption("The draft has changed since: these began with the draft as it was.")
    st.markdown(plain(found.summary) + ".")
    if found.together is not None:
        _one(workspace, found.together, key="tune_together")
    if not found.rows:
        return
    chart(
        remedies_figure(found),
        key="tune_remedies_figure",
        alt=f"How far the divergence falls by each of {len(found.rows)} remedies, listed below",
        on_click=_choose,
    )
    if any(100 * row.fall < LEFT for row in found.rows):
        st.caption(f"Rises beyond {-LEFT:g} % lie left of the picture; the table has them.")
    table = remedies_table(found)

    def picked() -> None:
        rows = st.session_state["tune_remedies_table"].selection.rows
        if rows:
            _choose(rows[0])

    st.dataframe(
        table,
        key="tune_remedies_table",
        column_config=words.REMEDY_COLUMNS,
        hide_index=True,
        placeholder="",
        height=min(TALL, 35 * (len(table) + 1) + 3),
        on_select=picked,
        selection_mode="single-row",
        alt=f"Every remedy tried, {len(table)} rows",
    )
    at = st.session_state.get(CHOSEN)
    if isinstance(at, int) and at < len(found.rows):
        _one(workspace, found.rows[at], key="tune_remedy")
    if found.notes:
        with st.expander(f"Not tried, or not measured ({len(found.notes)})"):
            st.markdown("\n".join(f"- {plain(note)}" for note in found.notes))


def _choose(place: object) -> None:
    st.session_state[CHOSEN] = int(str(place))


def _one(workspace: Workspace, row: Remedy, *, key: str) -> None:
    """One remedy, or the best ones together, to be used."""
    where = "" if row.site == row.method else f" on {plain(row.site)}"
    text = f"**{plain(row.title)}**{where}: divergence falls by {percent(row.fall)}"
    if row.fall_interval is not None:
        ends = row.fall_interval
        text += f" (95 %: {percent(ends.low)} to {percent(ends.high)})"
    text += f", another rounding alone moves it by {percent(row.luck)}: **{row.verdict}**. "
    text += f"Metric {percent(row.gain, signed=True)} (95 %: "
    text += f"{percent(row.interval.low, signed=True)} to {percent(row.interval.high, signed=True)}"
    with st.container(border=True):
        st.markdown(f"{text}).")
        label = f"{row.title}{'' if not where else f' on {row.site}'} ({row.verdict})"
        tune_result.actions(workspace, row.recipe, label, key=key, live=True)
