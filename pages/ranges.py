"""Ranges: where the values of one tensor lie, and where each calibrator would cut them off."""

from __future__ import annotations

import streamlit as st

from qviz.ui import ranges, ranges_view, tune_seen, visit
from qviz.ui import ranges_words as words
from qviz.ui.ranges_metric import draft_metric
from qviz.ui.ranges_weight import weight

st.title("Ranges")
workspace = visit.require()
op = visit.layer(workspace)
if op is None:
    st.info(words.NO_OPS)
    st.stop()

operand = ranges.toolbar(workspace, op)
if operand.kind == "weight":
    weight(workspace, operand, log=st.session_state["ranges_log"])
    st.stop()

tune_seen.require(workspace)
shown = ranges_view.view(workspace.opened, workspace.recipe, operand)
graph = workspace.opened.session.graph
st.markdown(words.about(graph.ops[op], shown, graph))
left, right = st.columns([3, 1])
with left:
    ranges.picture(workspace, shown)
with right:
    draft_metric(workspace, key="ranges_measured")
    ranges.inputs(workspace, shown)
ranges.diagnosis(workspace, shown)
candidates, channels, beside = st.tabs(
    ["Candidates", "Channels", "Side by side"], key="ranges_tab", on_change="rerun"
)
with candidates:
    if candidates.open:
        ranges.table(workspace, shown)
with channels:
    if channels.open:
        ranges.channels(shown)
with beside:
    if beside.open:
        ranges.beside(workspace, shown)
