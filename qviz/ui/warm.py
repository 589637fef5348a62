"""Import what opening a model needs before anybody asks for it, on a thread, once per server.

torch and its exporter take seconds to import; the first page does not need them, and whoever reads
it gives the time.
"""

from __future__ import annotations

import threading
import time

import streamlit as st

from qviz.samples import samples
from qviz.ui.launch import Start


def up() -> None:
    """Start warming, the first time a page is drawn."""
    _started()


@st.cache_resource(show_spinner=False)
def _started() -> threading.Thread:
    thread = threading.Thread(target=_import, name="qviz-warm", daemon=True)
    thread.start()
    return thread


#: The first page is drawn meanwhile; importing beside it would slow it down, in seconds.
GRACE = 1.0


def _import() -> None:
    time.sleep(GRACE)
    from qviz.ui import launch, visit

    if launch.start().model is None:
        # a whole sample warms the exporter and the compiled kernels too, and is there when clicked
        visit.workspaces().models.open(Start(model=f"sample:{samples()[0].name}"))
