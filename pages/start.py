"""Start: open a sample, a model of one's own, or an earlier run."""

from __future__ import annotations

import streamlit as st

from qviz.ui import opening_card, opening_form, opening_recent, start, visit

start.go_if_asked()
st.title("qviz")
asked = visit.workspaces().find(st.session_state.get("w"))
workspace = visit.current()
if workspace is not None:
    opening_card.card(workspace)
    opening_card.steps()
    st.subheader("Open another model")
start.landing(brief=workspace is not None)
st.subheader("Your own model")
if not start.opening(asked):
    opening_form.forms(asked)
opening_recent.recent()
if workspace is None:
    st.subheader("Three steps")
    opening_card.steps()
