"""Undo and Redo of the draft, alike on every page that changes it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from qviz.ui.workspace import Workspace


def buttons(workspace: Workspace, *, key: str, after: Callable[[], None] | None = None) -> None:
    """The two buttons, one beside the other where the container is horizontal.

    Args:
        workspace: whose draft it is.
        key: of the page.
        after: called when the draft has changed, in the callback.
    """
    history = workspace.history
    for label, shortcut, act, what, says in (
        ("Undo", "Ctrl+Z", workspace.undo, history.undoes, "Takes back"),
        ("Redo", "Ctrl+Shift+Z", workspace.redo, history.redoes, "Does again"),
    ):
        st.button(
            label,
            key=f"{key}_{label.lower()}",
            shortcut=shortcut,
            disabled=what is None,
            on_click=_act,
            args=(act, after),
            help=f"{says}: {what}" if what else f"There is nothing to {label.lower()}",
        )


def _act(act: Callable[[], None], after: Callable[[], None] | None) -> None:
    act()
    if after is not None:
        after()
