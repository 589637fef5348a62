"""The app: ``python app.py`` or ``streamlit run app.py`` (``qviz app`` takes a model as well).

A launcher, not a page: with a page here Streamlit would route ``pages/`` itself, and a visitor who
opens a deep link first would never run this file (qviz/ui/main.py does the routing).
"""

import streamlit as st

from qviz.ui.launch import MAIN, routes, server_options

app = st.App(MAIN, routes=routes())

if __name__ == "__main__":
    app.run(config=server_options())
