"""Win back: what can be done about the accuracy that int8 costs, tried, measured, taken back."""

from __future__ import annotations

import streamlit as st

from qviz.ui import tune, visit

st.title("Win back")
workspace = visit.require()
tune.page(workspace)
