"""The script that Streamlit runs for every visit: which pages there are, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

from qviz.shipped import shipped
from qviz.ui import sidebar, visit, warm

PAGES = (
    ("start", "Start"),
    ("overview", "Overview"),
    ("ranges", "Ranges"),
    ("sensitivity", "Sensitivity"),
    ("plan", "Plan"),
    ("tune", "Win back"),
    ("export", "Export"),
)

# Streamlit puts the folders of its scripts first on the path, where `import models` of a visitor's
# own factory, or `import coverage` of a library, would find our files.
for folder in (Path(__file__).parent, Path(__file__).parent.parent):
    while str(folder) in sys.path:
        sys.path.remove(str(folder))

# No icon: a :material: icon makes the browser fetch a font from another host.
st.set_page_config(page_title="qviz", layout="wide")
# Streamlit leaves a hand's breadth empty above every page.
st.html(
    "<style>.stMainBlockContainer { padding-top: 4.5rem; } .st-key-keys { display: none; }</style>"
)
with st.container(key="keys"):
    script = (Path(__file__).parent / "keys.js").read_text(encoding="utf-8")
    st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)

pages = [
    st.Page(
        shipped("pages") / f"{name}.py",
        title=title,
        url_path="" if name == "start" else name,
        default=name == "start",
    )
    for name, title in PAGES
]
page = st.navigation(pages, position="top")
warm.up()
sidebar.draw(visit.attach())
page.run()
