"""The text of the export page, and the columns of its tables."""

from __future__ import annotations

import re

import streamlit as st

from qviz.export import Format
from qviz.ui.words import Columns

_number = st.column_config.NumberColumn
DIFFERENCE_COLUMNS: Columns = {
    "what": st.column_config.TextColumn("Otherwise", pinned=True),
    "now": "This recipe",
    "before": "Compared with",
}
FILE_COLUMNS: Columns = {
    "file": st.column_config.TextColumn("File", pinned=True),
    "bytes": _number("Size", format="bytes"),
}
PARITY_COLUMNS: Columns = {
    "op": st.column_config.TextColumn("Op", pinned=True, help="Or the tensor that becomes codes"),
    "kernel": "Kernel",
    "output": st.column_config.TextColumn("Output", help="Integer codes, or float numbers"),
    "count": _number("Outputs compared", format="localized"),
    "one_step": _number("One step off", format="localized", help="A sum next to a tie"),
    "more": _number("More than one", format="localized"),
    "largest": _number("Largest (steps)", format="%.3g"),
}
FOLDER_HELP = (
    "Folder on this computer. A name without a slash in front is a folder in the run folder. It is "
    "made if it is not there."
)
VERIFY_HELP = (
    "Runs every integer kernel beside the simulation on the same inputs, and the whole program "
    "beside float"
)
REPORT_HELP = (
    "One file with the figures in it, interactive in any browser, without a network. It is written "
    "into the run folder."
)


def plain(text: str) -> str:
    """A text as Markdown that shows it: names of ops have underscores and colons in them."""
    return re.sub(r"([\\`*_{}\[\]()#+!|$~:<>])", r"\\\1", text)


def about(form: Format) -> str:
    """What a format is and what it carries."""
    return f"**{form.name}**: {plain(form.title)}. {plain(form.carries)}."
