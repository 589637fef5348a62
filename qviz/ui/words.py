"""The text of the pages: sentences and labels, made from values. No widgets here."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from qviz.progress import Progress
from qviz.ui.launch import Start

if TYPE_CHECKING:
    from qviz.calibration import Calibration
    from qviz.graph import Graph

INTRO = (
    "Where the values of each activation tensor lie, and where INT8 would cut them off. "
    "One pass over the calibration data gives every histogram and every candidate range."
)
TENSOR_HELP = (
    "Type to search. A tensor is named by the op that makes it. First shown is the one with the "
    "lowest SQNR under its best candidate."
)
READING = (
    "The lines are the limits of the range that each calibrator would choose (only the upper one "
    "where no value is negative): what lies outside is clipped, what lies inside is rounded to "
    "256 steps. Click a name in the legend to hide it. Empty bins are drawn at the bottom edge. "
    "Error and SQNR are expected values, computed from the histogram."
)
REST = (
    "This page shows ranges; so far the app does no more. Sensitivity, the search for the ops "
    "that have to stay float, and the verified int8 checkpoint are on the command line, and "
    "in Python. All of it, for this model:"
)

Columns = dict[str, ColumnConfig | str | None]

_number = st.column_config.NumberColumn
CANDIDATE_COLUMNS: Columns = {
    "calibrator": "Calibrator",
    "lo": _number("From", format="%.5g"),
    "hi": _number("To", format="%.5g"),
    "step": _number("Step", format="%.4g", help="The size of one INT8 step, in tensor units"),
    "clipped_percent": _number("Clipped %", format="%.4f"),
    "mse": _number("Mean squared error", format="%.3g"),
    "sqnr_db": _number("SQNR (dB)", format="%.2f", help="10 log10(signal / error); more is better"),
    "best": st.column_config.CheckboxColumn("Highest SQNR"),
}
TENSOR_COLUMNS: Columns = {
    "tensor": st.column_config.TextColumn("Tensor", pinned=True),
    "shape": "Shape per sample",
    "min": _number("Min", format="%.4g"),
    "max": _number("Max", format="%.4g"),
    "values": _number("Values", format="compact"),
    "zeros_percent": _number("Zeros %", format="%.1f"),
    "not_finite": _number("NaN or Inf"),
    "best_calibrator": "Highest SQNR",
    "sqnr_db": _number("SQNR (dB)", format="%.2f"),
    "read_by": "Read as int8 by",
}


COVERAGE_COLUMNS: Columns = {
    "op": st.column_config.TextColumn("Op", pinned=True),
    "type": "Type",
    "status": "Runs as",
    "reason": "Because",
    "shape": "Output per sample",
    "macs": _number("Multiply-accumulates", format="compact"),
    "parameters": _number("Parameters", format="compact"),
    "source": "Called at",
}


def model_name(choice: Start) -> str:
    """What the model picker shows."""
    return str(choice.model).removeprefix("sample:")


def progress(step: Progress) -> str:
    """The line under the progress bar."""
    text = f"{step.verb}: {step.done:,} of {step.total:,}"
    return text if step.remaining is None else f"{text}, {step.remaining:.0f} s left"


def summary(graph: Graph, calibration: Calibration) -> str:
    """One line about the model that is open."""
    return (
        f"**{graph.name}**: {len(graph.quantizable)} of {len(graph.ops)} ops have int8 arithmetic; "
        f"{graph.macs / 1e6:,.1f} M multiply-accumulates per sample. "
        f"{len(calibration.histograms)} tensors, calibrated on {calibration.samples:,} samples."
    )


def picture(tensor: str) -> str:
    """The histogram in words, for readers who cannot see it; the numbers are in the table."""
    return f"Histogram of {tensor} with its candidate ranges; the table below lists them"


def command(choice: Start) -> str:
    """The command that does the whole job on this model."""
    given = {
        "--weights": choice.weights,
        "--calibration": choice.calibration,
        "--evaluation": choice.evaluation,
        "--preprocessing": choice.preprocessing,
        "--profile": None if choice.profile == "cuda" else choice.profile,
    }
    words = ["qviz", "run", str(choice.model)]
    for option, value in given.items():
        words += [option, value] if value else []
    return shlex.join([*words, "-o", choice.run or "out"])
