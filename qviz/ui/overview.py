"""The overview's head: what the draft is and what it costs, and the op that is looked at."""

from __future__ import annotations

import streamlit as st

from qviz import cli_print as show
from qviz.evaluate import Evaluation
from qviz.meter import LiveResult
from qviz.shipped import shipped
from qviz.ui import jobs_view, overview_data, visit
from qviz.ui.workspace import Workspace

#: Width of a number's card: two side by side on a telephone.
CARD = 172
_GO = "overview_go"


def head(workspace: Workspace) -> None:
    """Numbers of the draft; polls until its metric is measured on all data."""
    found = workspace.live()
    waiting = found is not None and not found.settled

    def live() -> None:
        now = workspace.live()
        _cards(workspace, now)
        if waiting and now is not None and now.settled:
            st.rerun()

    st.fragment(live, run_every=jobs_view.POLL if waiting else None)()


def _cards(workspace: Workspace, found: LiveResult | None) -> None:
    draft = overview_data.draft(workspace)
    metric = workspace.opened.session.metric
    with st.container(horizontal=True):
        st.metric(
            "Ops in int8",
            f"{draft.int8_ops:,}",
            delta=f"of {len(draft.rows):,}",
            delta_color="off",
            delta_arrow="off",
            border=True,
            width=CARD,
            height="stretch",
            help="Ops that compute in int8, or pass int8 codes on",
        )
        st.metric(
            "MACs in int8",
            show.percent(draft.int8_macs),
            border=True,
            width=CARD,
            height="stretch",
            help="Share of the multiply-accumulates per sample",
        )
        best = found.best if found is not None else None
        st.metric(
            f"Float {metric.name}",
            "–" if best is None else show.scored(best.reference.value, metric),
            border=True,
            width=CARD,
            height="stretch",
            help=f"{metric.title}, measured: the model as it was given",
        )
        st.metric(
            f"Draft {metric.name}",
            "–" if best is None else show.scored(best.scores.value, metric),
            delta=None if best is None else _change(best),
            delta_color="normal" if metric.higher_is_better else "inverse",
            border=True,
            width=CARD,
            height="stretch",
            help=f"{metric.title}, measured: the draft simulated in int8. "
            "The change is relative to float",
        )
        worst = draft.worst
        st.metric(
            "Lowest SQNR",
            "–" if worst is None else f"{worst[1].sqnr_db:.1f} dB",
            border=True,
            width=CARD,
            height="stretch",
            help="Expected, from the histogram: of the worst tensor that an op reads as int8",
        )
    st.caption(_measured(found))


def _change(found: Evaluation) -> str:
    return f"{show.percent(found.change, signed=True)} relative"


def _measured(found: LiveResult | None) -> str:
    """On how many samples the metric stands."""
    if found is None:
        return "No evaluation data, so nothing is measured. Open the model again with some."
    if found.error is not None:
        return f"The metric cannot be measured. {found.error}"
    if found.full is not None:
        return (
            f"Measured on all {found.full.scores.count:,} evaluation samples; the 95 % interval of "
            f"the change is {show.span(found.full.interval)}."
        )
    if found.live is not None:
        return f"Measured on {found.live.scores.count:,} samples; all of them follow …"
    return "Measuring …"


def look_at(op: str, workspace: Workspace) -> None:
    """Choose an op, if it is one with ranges to look at; for callbacks."""
    if op in visit.ops(workspace):
        visit.choose(op)
        return
    row = next((r for r in overview_data.draft(workspace).rows if r.op == op), None)
    said = row.reason if row is not None and row.reason else "it has no int8 arithmetic"
    st.session_state["overview_notice"] = f"{op} has no range of its own: {said}."


def open_in_ranges(op: str, workspace: Workspace) -> None:
    """Choose an op and go to its ranges; for callbacks."""
    look_at(op, workspace)
    st.session_state[_GO] = op in visit.ops(workspace)


def go_if_asked() -> None:
    """Change to the page of ranges if a callback asked for it."""
    if st.session_state.pop(_GO, False):
        st.switch_page(shipped("pages") / "ranges.py")


def chosen(workspace: Workspace) -> None:
    """The op that is looked at, in words, with the way to its ranges."""
    op = visit.layer(workspace)
    if notice := st.session_state.pop("overview_notice", None):
        st.toast(notice)  # in the page it would push the table away under the pointer
    if op is None:
        st.info("This network has no op with int8 arithmetic.")
        return
    draft = overview_data.draft(workspace)
    row = next(row for row in draft.rows if row.op == op)
    parts = [f"**{op}**", row.type, row.status]
    if op in draft.entering:
        parts.append(f"SQNR {draft.entering[op].sqnr_db:.1f} dB")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Open in Ranges",
            key="overview_open_chosen",
            on_click=open_in_ranges,
            args=(op, workspace),
            shortcut="Shift+Enter",
        )
        st.markdown(" · ".join(parts), width="content")
