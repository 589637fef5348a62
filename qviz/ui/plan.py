"""The plan page: the table on the left, what the draft does on the right, variants below."""

from __future__ import annotations

import streamlit as st

from qviz.ui import plan_know, plan_words
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_editor import editor
from qviz.ui.plan_outcome import outcome
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
    known = plan_know.known(workspace, state, choice.base)
    left, right = st.columns([11, 9], gap="medium")
    with left:
        st.caption(plan_words.INTRO)
        choice = editor(workspace, state, choice, known)
    with right:
        outcome(workspace, state, choice, known)
