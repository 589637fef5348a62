"""Ranges: where the values of one tensor lie, and where each calibrator would cut them off."""

from __future__ import annotations

import streamlit as st

from qviz import figures
from qviz.ui import visit
from qviz.ui.chart import chart

st.title("Ranges")
workspace = visit.require()
layer = visit.layer(workspace)
graph = workspace.opened.session.graph
if layer is not None:
    tensor = next(o.tensor for o in graph.ops[layer].operands if o.kind == "activation")
    found = workspace.opened.calibration
    figure = figures.histogram_figure(
        found.histograms[tensor], found.candidates[tensor], name=tensor
    )
    chart(figure, key="histogram", alt=f"Histogram of {tensor}")
