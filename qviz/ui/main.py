"""The script that Streamlit runs for every visit: which pages there are, and nothing else."""

from __future__ import annotations

import streamlit as st

from qviz.shipped import shipped

# No page_icon: a :material: icon makes the browser fetch a font from another host.
st.set_page_config(page_title="qviz", layout="wide")

page = st.navigation(
    [st.Page(shipped("pages") / "ranges.py", title="Ranges", default=True)], position="top"
)
page.run()
