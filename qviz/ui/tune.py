"""The page Win back: where the draft is, and below it one tab for each way to better it."""

from __future__ import annotations

import streamlit as st

from qviz.ui import (
    jobs_view,
    tune_bits,
    tune_guided,
    tune_methods,
    tune_now,
    tune_sites,
    tune_training,
    tune_tried,
)
from qviz.ui import tune_words as words
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

TABS = {
    "Methods": tune_methods.methods,
    "Op by op": tune_sites.sites,
    "Bit widths": tune_bits.bits,
    "Training": tune_training.training,
    "Guided": tune_guided.guided,
    "Tried": tune_tried.history,
}


def page(workspace: Workspace) -> None:
    """Everything below the title."""
    st.caption(words.INTRO)
    tune_now.now(workspace)
    job = running(workspace)
    if job is not None:
        jobs_view.progress(job, key="tune_running")
    for tab, draw in zip(
        st.tabs(list(TABS), key="tune_tab", on_change="rerun"), TABS.values(), strict=True
    ):
        if tab.open:
            with tab:
                draw(workspace)
