"""Sensitivity: what each op or operand costs, worst first, as it is measured."""

from __future__ import annotations

import streamlit as st

from qviz.ui import sensitivity, visit
from qviz.ui import sensitivity_words as words

st.title("Sensitivity")
workspace = visit.require()
st.markdown(words.INTRO)
sensitivity.require_data(workspace)
setting, recipe = sensitivity.form(workspace)
with st.container():
    sensitivity.status(workspace, setting, recipe)
with st.container():
    sensitivity.results(workspace, setting, recipe)
