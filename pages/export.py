"""Export."""

from __future__ import annotations

import streamlit as st

from qviz.ui import visit

st.title("Export")
visit.require()
