"""The model that is open, on one card: what it is, how large, how good in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from qviz import cli_print as show
from qviz.shipped import shipped
from qviz.ui import jobs_view
from qviz.ui.workspace import Workspace

if TYPE_CHECKING:
    from qviz.meter import LiveResult

#: Width of a number: two side by side on a telephone.
CARD = 158
#: The way through the app: page, and what is done there.
STEPS = (
    ("ranges", "Calibrate", "See every tensor's histogram, choose or drag its range"),
    ("sensitivity", "Inspect", "See what each op costs, leave the few that hurt in float"),
    ("export", "Export", "Write the verified int8 checkpoint and a report"),
)


def card(workspace: Workspace) -> None:
    """The model card, its warnings, and where to go on."""
    from qviz.ui.overview_data import weight_bytes  # torch is there: a model is open

    opened = workspace.opened
    graph = opened.session.graph
    recipe = workspace.recipe
    before, after = opened.memo(
        f"start_bytes_{hash(recipe)}",
        lambda: (weight_bytes(graph, None), weight_bytes(graph, recipe)),
    )
    parameters = sum(op.parameters for op in graph.ops.values())
    with st.container(border=True):
        st.subheader(opened.session.model.name)
        with st.container(horizontal=True):
            _number("Ops", f"{len(graph.ops):,}", "Calls in the captured graph")
            _number("Can be int8", f"{len(graph.quantizable):,}", "Ops with int8 arithmetic")
            _number("Parameters", show.count(parameters), "Batch norm folded into the weights")
            _number("MACs", show.count(graph.macs), "Multiply-accumulates per sample")
            _number("Float size", _bytes(before), "Weights as they are in the model")
            _number(
                "Int8 size",
                _bytes(after),
                "Estimated for the draft: int8 weights, float32 scales and biases, and in float "
                "what the draft leaves so",
                "estimated",
            )
            _accuracy(workspace)
        st.caption(_data(workspace))
        if (failed := _failed(workspace)) is not None:
            st.error(f"The float model cannot be measured. {failed}")
    _warnings(opened.session.warnings)


def _number(label: str, value: str, about: str, note: str | None = None) -> None:
    st.metric(
        label,
        value,
        delta=note,
        delta_color="off",
        delta_arrow="off",
        width=CARD,
        help=about,
    )


def _accuracy(workspace: Workspace) -> None:
    """The float model's metric, measured in the background while the card stands there."""
    meter, metric = workspace.opened.meter, workspace.opened.session.metric
    if meter is None:
        _number("Float accuracy", "–", "There are no evaluation data to measure on")
        return
    owner = f"{workspace.id} card"
    waiting = not meter.ask(owner, None).settled

    def live() -> None:
        found = meter.ask(owner, None)
        _number(f"Float {metric.name}", *_said(found, workspace))
        if waiting and found.settled:
            st.rerun()

    st.fragment(live, run_every=jobs_view.POLL if waiting else None)()


def _failed(workspace: Workspace) -> str | None:
    """Why the float model cannot be measured, if that is known."""
    meter = workspace.opened.meter
    return None if meter is None else meter.ask(f"{workspace.id} card", None).error


def _said(found: LiveResult, workspace: Workspace) -> tuple[str, str, str]:
    if found.error is not None:
        return "–", "See below", "cannot be measured"
    if found.best is None:
        return "…", "The float model runs over the evaluation data", "measuring"
    metric = workspace.opened.session.metric
    value = show.scored(found.best.reference.value, metric)
    return value, metric.description, f"measured, n = {found.best.scores.count:,}"


def _data(workspace: Workspace) -> str:
    session = workspace.opened.session
    said = f"Ranges from {session.calibration_data.count:,} calibration samples"
    data = session.evaluation_data
    return f"{said}, {'no' if data is None else f'{data.count:,}'} evaluation samples."


def _warnings(found: list[str]) -> None:
    for warning in found[:2]:
        st.warning(warning)
    if len(found) > 2:
        with st.expander(f"{len(found) - 2} more warnings"):
            for warning in found[2:]:
                st.warning(warning)


def _bytes(size: int) -> str:
    return f"{show.count(size)}B" if size >= 1000 else f"{size} B"


def steps() -> None:
    """Calibrate > Inspect > Export, each with its page."""
    for column, (number, (page, title, text)) in zip(
        st.columns(len(STEPS)), enumerate(STEPS, 1), strict=True
    ):
        with column, st.container(border=True):
            st.page_link(shipped("pages") / f"{page}.py", label=f"**{number}. {title}**")
            st.caption(text)
