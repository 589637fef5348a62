"""The plan page: what the draft does on top, the table beside the curve."""

from __future__ import annotations

import streamlit as st

from qviz.ui import plan_know, plan_latency, plan_words
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_editor import editor, toolbar_of
from qviz.ui.plan_outcome import follow
from qviz.ui.plan_state import state_of
from qviz.ui.workspace import Workspace


@st.fragment
def draft(workspace: Workspace) -> None:
    """The draft: a tick runs this part of the page only."""
    state = state_of(workspace)
    choice = Choice.of(workspace.recipe, workspace.opened.session.graph)
    if not choice.operands:
        st.info("This model has no op with int8 arithmetic: there is nothing to choose.")
        return
    plan_know.recall(workspace, state, choice)
    known = plan_know.known(workspace, state, choice.base)
    st.caption(plan_words.INTRO)
    numbers = st.container(key="plan_top")  # above the table, but it shows what was just ticked
    bar = st.container(key="plan_bar")
    left, right = st.columns([11, 9], gap="medium")
    with left:
        prices = plan_latency.prices(workspace, choice)
        choice, toolbar = editor(workspace, choice, known, bar, prices)
    # the numbers first: they are what a tick is waited for
    follow(workspace, state, choice, known, numbers, right)
    with right:
        plan_latency.section(workspace, state, choice, known, prices)
    with toolbar:
        toolbar_of(workspace, state, choice, known)
