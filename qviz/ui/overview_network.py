"""The network as a picture, coloured by any number per op; also as a file for Model Explorer."""

from __future__ import annotations

import re

import streamlit as st

from qviz import node_data
from qviz.figures_graph import network_figure
from qviz.ui import overview, overview_data, visit
from qviz.ui.chart import chart
from qviz.ui.workspace import Workspace


def network(workspace: Workspace) -> None:
    """The picture, what it is coloured by, and the download."""
    numbers = {number.key: number for number in overview_data.numbers(workspace)}
    graph = workspace.opened.session.graph
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = st.selectbox(
            "Colour",
            list(numbers),
            key="overview_colour",
            format_func=lambda name: numbers[name].title,
            persist_state="session",
            width=420,
        )
        number = numbers[key]
        st.download_button(
            "For Model Explorer",
            data=lambda: node_data.model_explorer(number, graph),
            file_name=f"{re.sub(r'[^A-Za-z0-9]+', '-', graph.name)}-{number.key}.json",
            mime="application/json",
            on_click="ignore",
            key="overview_node_data",
            help="These numbers as custom node data: in Model Explorer open the model's .pt2 file, "
            "then add this file with Add per-node data",
        )
    if "sensitivity" not in numbers:
        st.caption("Run Sensitivity to colour the ops by what each one costs.")
    draft = overview_data.draft(workspace)
    chart(
        network_figure(graph, number, chosen=visit.layer(workspace), details=draft.details),
        key="overview_network",
        alt=f"The network's {len(graph.ops)} ops from input to output, coloured by: "
        f"{number.title}. The table of ops has the same numbers",
        on_click=lambda op: overview.look_at(str(op), workspace),
    )
    st.caption(
        "Read it like text, from left to right and line by line; a line above the ops is a "
        "connection that skips them, ops below each other are branches. Small grey points have no "
        "such number. Click an op to choose it; drag a box to zoom into it, double click for the "
        "whole network."
    )
