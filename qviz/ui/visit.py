"""The present visit: which workspace it looks at and which op, both kept in the address.

Pages call ``require`` first; it gives an open workspace, or draws what is missing and stops.
"""

from __future__ import annotations

import difflib

import streamlit as st

from qviz.samples import samples
from qviz.ui import jobs_view, launch
from qviz.ui.launch import Start
from qviz.ui.workspace import Workspace, Workspaces

#: Session-state key of the op picker; setting it in a callback chooses an op on every page.
LAYER = "layer"
#: How long a visit waits for a model that is being opened before its progress is drawn, in s.
PATIENCE = 1.5


@st.cache_resource(show_spinner=False)
def workspaces() -> Workspaces:
    """All workspaces of this server."""
    return Workspaces()


def attach() -> Workspace | None:
    """Find the workspace of the address, or start the one that the command line asked for.

    Called once per run by main.py, before any page: a change of page drops the address's
    parameters, so they are written back.
    """
    if asked_layer := st.query_params.get(LAYER):
        st.session_state["asked_layer"] = asked_layer  # used once the model is open
    found = workspaces().find(st.session_state.get("w") or st.query_params.get("w"))
    asked = launch.start()
    if found is None and (name := st.query_params.get("sample")) in {s.name for s in samples()}:
        found = workspaces().create(Start(model=f"sample:{name}"))
    if found is None and asked.model is not None:
        found = workspaces().create(asked)
    if found is not None:
        look_at(found)
        found.opening.wait(PATIENCE)
    return found


def look_at(workspace: Workspace) -> None:
    """Let this visit look at a workspace; also for callbacks that open a model."""
    if st.session_state.get("w") != workspace.id:
        if "w" in st.session_state:  # another model: its ops are others
            st.session_state.pop(LAYER, None)
            st.query_params.pop(LAYER, None)
        st.session_state["w"] = workspace.id
    st.query_params["w"] = workspace.id
    st.query_params.pop("sample", None)


def open_model(start: Start) -> None:
    """Open a model in a workspace of its own and look at it; for callbacks."""
    look_at(workspaces().create(start))


def current() -> Workspace | None:
    """The workspace of this visit if its model is open, without drawing anything."""
    found = workspaces().find(st.session_state.get("w"))
    return found if found is not None and found.opening.snapshot().state == "done" else None


def require() -> Workspace:
    """The workspace of this visit, its model open; else says what is missing and stops the page."""
    found = workspaces().find(st.session_state.get("w"))
    if found is None:
        st.info("No model is open yet.")
        first = samples()[0]
        st.button(
            f"Open the sample {first.name}",
            key="open_first_sample",
            type="primary",
            on_click=open_model,
            args=(Start(model=f"sample:{first.name}"),),
        )
        st.stop()
    shown = found.opening.snapshot()
    if shown.state == "done" and not st.session_state.get("beside"):
        st.rerun()  # it was opened after the sidebar had been drawn without it
    if shown.active:
        jobs_view.progress(found.opening, key="opening")
        st.stop()
    if shown.state != "done":
        jobs_view.failure(shown)
        st.page_link(start_page(), label="Open another model")
        st.stop()
    for warning in found.opened.session.warnings:
        st.warning(warning)
    return found


def start_page() -> str:
    """Path of the landing page, for links."""
    from qviz.shipped import shipped

    return str(shipped("pages") / "start.py")


def ops(workspace: Workspace) -> tuple[str, ...]:
    """Names of the ops that can be chosen, in execution order: those with int8 arithmetic."""
    graph = workspace.opened.session.graph
    return workspace.opened.memo("ops", lambda: tuple(op.name for op in graph.quantizable))


def layer(workspace: Workspace) -> str | None:
    """The chosen op; None only if the model has none that could be int8.

    A name in the address that does not exist is said, and the nearest or the first is taken.
    """
    names = ops(workspace)
    if not names:
        return None
    wanted = st.session_state.get(LAYER) or st.session_state.pop("asked_layer", None)
    if wanted not in names:
        near = difflib.get_close_matches(str(wanted or ""), names, 1, 0.6)
        chosen = near[0] if near else hardest(workspace)
        if wanted:
            name = workspace.opened.session.graph.name
            notice = f"{name} has no op named {wanted!r}; this is {chosen}."
            st.session_state["layer_notice"] = (chosen, notice)
        wanted = chosen
        st.session_state[LAYER] = chosen
    elif LAYER not in st.session_state:
        st.session_state[LAYER] = wanted
    st.query_params[LAYER] = str(wanted)
    return str(wanted)


def choose(op: str) -> None:
    """Choose an op everywhere; for callbacks."""
    st.session_state[LAYER] = op
    st.query_params[LAYER] = op


def step(workspace: Workspace, by: int) -> None:
    """Choose the op ``by`` places further; for callbacks."""
    names = ops(workspace)
    at = names.index(layer(workspace) or names[0])
    choose(names[(at + by) % len(names)])


def hardest(workspace: Workspace) -> str:
    """The op with the tensor that loses most even under its best range: the one to look at."""
    return workspace.opened.hardest
