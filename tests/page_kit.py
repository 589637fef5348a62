"""A page of the app under AppTest: run it until something holds, and what its visit works on."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from qviz.ui import visit
from qviz.ui.workspace import Workspace


def wait(at: AppTest, ready: Callable[[], object]) -> AppTest:
    """Run the page until something holds."""
    deadline = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
        at.run()
        assert not at.exception, at.exception
    return at


def shows(at: AppTest, key: str) -> bool:
    """Whether the page has the button of that key."""
    return any(button.key == key for button in at.button)


def workspace(at: AppTest) -> Workspace:
    """What the visit works on."""
    found = visit.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def idle(at: AppTest) -> AppTest:
    """Run the page until no job runs."""
    worker = workspace(at).opened.worker
    return wait(at, lambda: not worker.busy).run()
