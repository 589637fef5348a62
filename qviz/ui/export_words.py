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
RESULT_COLUMNS: Columns = {
    "format": st.column_config.TextColumn("Format", pinned=True),
    "result": "Result",
    "parity": st.column_config.TextColumn("Parity", help="Against the simulation of its recipe"),
    "note": st.column_config.TextColumn("Note", width="large"),
}
BACKEND_COLUMNS: Columns = {
    "backend": st.column_config.TextColumn("Backend", pinned=True),
    "verdict": "Verdict",
    "value": "Metric",
    "from_float": st.column_config.TextColumn(
        "Change from float", help="Relative, with its 95 % paired bootstrap interval"
    ),
    "from_simulated": st.column_config.TextColumn(
        "From simulation", help="The same, from what the simulation scores"
    ),
    "same_class": _number("Same class", format="percent", help="As the simulation, of all samples"),
    "sqnr_db": _number(
        "SQNR (dB)", format="%.3g", help="Of the outputs against the simulated ones"
    ),
    "count": _number("Outputs compared", format="compact"),
    "one_step": _number("One step off", format="localized", help="A sum next to a tie"),
    "more": _number("More than one", format="localized"),
}
IDENTITY_COLUMNS: Columns = {
    "what": st.column_config.TextColumn("What", pinned=True),
    "name": "Name",
    "digest": "Digest",
}
KERNEL_COLUMNS: Columns = {
    "backend": st.column_config.TextColumn("Backend", pinned=True),
    "kind": "Ops",
    "kernels": "Kernels",
    "reason": "Because",
}
CALL_COLUMNS: Columns = {
    "backend": "Backend",
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
    "Runs every integer kernel of every backend beside the simulation on the same inputs, and the "
    "whole program beside float"
)
NEAREST_HELP = (
    "Otherwise such a format is refused. What was changed is said beside it, and its accuracy is "
    "measured anew."
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
