"""Overview: the whole network at once - as a table, as a picture, and by calibrator."""

from __future__ import annotations

import streamlit as st

from qviz.ui import (
    overview,
    overview_calibrators,
    overview_network,
    overview_ops,
    tune_seen,
    visit,
)

overview.go_if_asked()
st.title("Overview")
workspace = visit.require()
tune_seen.require(workspace)
overview.head(workspace)
ops, network, calibrators = st.tabs(
    ["Ops", "Network", "Calibrators"], key="overview_tab", on_change="rerun"
)
if ops.open:
    with ops:
        overview.chosen(workspace)
        overview_ops.ops(workspace)
if network.open:
    with network:
        overview.chosen(workspace)
        overview_network.network(workspace)
if calibrators.open:
    with calibrators:
        overview_calibrators.calibrators(workspace)
