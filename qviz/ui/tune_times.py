"""Times of each width for a limit on latency: which folder was timed at which width."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from qviz.errors import TuneError
from qviz.int8.timing_file import times_in
from qviz.recipe import Recipe
from qviz.search.allocation_problem import Times
from qviz.search.layers import layers_of
from qviz.search.widths import Width
from qviz.session import Session

KEY = "tune_times"
#: Session-state key of why what is typed there cannot be used.
PROBLEM = "tune_times_problem"


def field(widths: tuple[Width, ...]) -> None:
    """Where the folders are typed, one line for each width."""
    example = "\n".join(f"{width}=checkpoint-{str(width).lower()}" for width in widths)
    st.text_area(
        "Timed checkpoints, one for each width",
        key=KEY,
        placeholder=example,
        height=max(100, 28 * (1 + len(widths))),
        persist_state="session",
        on_change=forget,
        help="Export a checkpoint with everything at that width, run `qviz bench FOLDER` on the "
        "machine that counts, and name the folder here",
    )


def forget() -> None:
    """What was wrong does not hold any more."""
    st.session_state.pop(PROBLEM, None)


def given(session: Session, recipe: Recipe, widths: tuple[Width, ...]) -> Times:
    """The table of seconds that the typed folders make.

    Raises:
        TuneError: a line is no width and folder, a width has no line, or a folder no times.
        RangeError: a width is none.
    """
    folders: dict[Width, Path] = {}
    for line in str(st.session_state.get(KEY, "")).splitlines():
        if not line.strip():
            continue
        text, equals, folder = (part.strip() for part in line.partition("="))
        if not equals or not folder:
            raise TuneError(f"line {line!r}", "is not a width and a folder", "Write W4A8=FOLDER")
        try:
            folders[Width.parse(text)] = Path(folder).expanduser()
        except RuntimeError as failure:
            raise TuneError(f"folder {folder}", "has no such home", "Write it in full") from failure
    for width in widths:
        if width not in folders:
            raise TuneError(f"times at {width}", "are not given", f"Add a line {width}=FOLDER")
    return times_in(folders, layers_of(session.graph_of(recipe), recipe), widths)
