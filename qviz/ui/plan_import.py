"""A recipe from a file, ours or another tool's, becomes a named variant."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from qviz.errors import QvizError
from qviz.export.importing import IMPORTERS, format_of, import_recipe
from qviz.ui.export_words import plain
from qviz.ui.workspace import Workspace

KEY = "variant_file"
#: Megabytes; these files say ranges, not weights.
LARGEST = 64
HELP = (
    "Ranges, bits and what is left in float are taken; what the file does not say is the draft's. "
    f"Read are: {', '.join(i.title for i in IMPORTERS.values())}"
)


@dataclass(frozen=True)
class Read:
    """What became of the last file.

    Attributes:
        text: what was taken, or what is wrong.
        notes: more about it, one line each.
        failed: nothing was taken.
    """

    text: str
    notes: tuple[str, ...] = ()
    failed: bool = False


def upload(workspace: Workspace, taken: Collection[str]) -> None:
    """The place to drop a file, and what became of the last one.

    Args:
        workspace: gets the variant.
        taken: names that other variants have.
    """
    with st.popover("Import a file", key="variant_import"):
        st.file_uploader(
            "Recipe or ranges from a file",
            key=KEY,
            help=HELP,
            max_upload_size=LARGEST,
            on_change=_take,
            args=(workspace, tuple(taken)),
        )


def outcome() -> None:
    """What became of the last file, once."""
    found = st.session_state.pop("variant_read", None)
    if not isinstance(found, Read):
        return
    text = "\n".join([plain(found.text), *(f"- {plain(note)}" for note in found.notes)])
    (st.error if found.failed else st.success)(text)


def _take(workspace: Workspace, taken: Collection[str]) -> None:
    """Callback: the file becomes a variant, selected in the list below."""
    file = st.session_state.get(KEY)
    if file is None:  # it was taken out again
        return
    name = _free(Path(file.name).stem or "imported", taken)
    with tempfile.TemporaryDirectory(prefix="qviz-") as folder:
        path = Path(folder) / "file"
        path.write_bytes(file.getvalue())
        try:
            format = format_of(path)
            graph = workspace.opened.session.graph
            found = import_recipe(path, graph, workspace.recipe, format)
            workspace.opened.session.tuned(found.recipe)  # refuses weights that are not here
            workspace.keep(name, found.recipe)
        except QvizError as error:
            cure = "Give another file" if "--format" in error.cure else error.cure
            said = f"{error.thing}: {error.reason}. {cure}.".replace(str(path), file.name)
            st.session_state["variant_read"] = Read(said, failed=True)
            return
    title = IMPORTERS[format].title
    st.session_state["variant_read"] = Read(f"{title} read as variant {name}.\n", found.notes)
    st.session_state["variant_chosen"] = name


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or with a number that makes it new."""
    names = (name, *(f"{name} {i}" for i in range(2, len(taken) + 3)))
    return next(n for n in names if n not in taken)
