"""The formats on the export page: which, what each carries, and what each can make of the draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import streamlit as st
from packaging.requirements import Requirement

from qviz.errors import QvizError
from qviz.export import EXPORTERS, nearest
from qviz.ui import export_words as words
from qviz.ui.workspace import Workspace

#: Session-state key of the chosen names.
KEY = "export_formats"


@dataclass(frozen=True)
class Fit:
    """What a format can make of a recipe here.

    Attributes:
        changes: what the nearest recipe that it can express says otherwise, in words.
        missing: packages that are not installed.
        extra: that brings them.
        error: why the recipe does not fit the model at all; "" if it does.
    """

    changes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: str = ""
    error: str = ""


def choose(workspace: Workspace) -> tuple[tuple[str, ...], bool]:
    """The formats that the page says, and whether they get the nearest recipe they can express."""
    offered = list(EXPORTERS)
    st.session_state.setdefault(KEY, offered[:1])
    chosen = st.pills("Formats", offered, selection_mode="multi", key=KEY, persist_state="session")
    with st.container(horizontal=True):
        st.button("All formats", key="export_all", on_click=_choose, args=(offered,))
        st.button("Only the checkpoint", key="export_first", on_click=_choose, args=(offered[:1],))
    near = st.toggle(
        "Write the nearest recipe where a format cannot express this one",
        key="export_nearest",
        persist_state="session",
        help=words.NEAREST_HELP,
    )
    for name in chosen:
        _describe(name, fit(workspace, name), near=near)
    return tuple(name for name in offered if name in chosen), near


def _choose(names: Sequence[str]) -> None:
    st.session_state[KEY] = list(names)


def fit(workspace: Workspace, name: str) -> Fit:
    """What one format can make of the draft."""
    form = EXPORTERS[name]
    missing = missing_packages(form.extra) if form.extra else ()
    try:
        found = nearest(workspace.opened.session.graph, workspace.recipe, form.limits)
    except QvizError as failure:
        return Fit((), missing, form.extra or "", str(failure))
    return Fit(tuple(map(str, found.changes)), missing, form.extra or "")


def missing_packages(extra: str) -> tuple[str, ...]:
    """Packages of one of qviz's extras that are not installed."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("qviz") or ()]
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return ()
    names = (
        one.name
        for one in wanted
        if one.marker is not None
        and one.marker.evaluate({"extra": extra})
        and not one.marker.evaluate({"extra": ""})
    )
    return tuple(name for name in names if not _installed(name))


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _describe(name: str, found: Fit, *, near: bool) -> None:
    """What a format carries, and what stands in its way."""
    text = words.about(EXPORTERS[name])
    if found.missing:
        packages = ", ".join(found.missing)
        text += f" :orange[Needs {packages}: pip install 'qviz\\[{found.extra}\\]'.]"
    if found.error:
        text += f" :red[{words.plain(found.error)}]"
    if found.changes:
        said = words.plain("; ".join(found.changes))
        verb = "Will be written as" if near else "Cannot express this recipe. The nearest"
        text += f" :orange[{verb}: {said}.]"
    st.caption(text)
