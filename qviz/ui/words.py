"""The text of the pages: sentences and labels, made from values. No widgets here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import streamlit as st

from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.progress import Progress
from qviz.ui.launch import Start

INTRO = (
    "Where the values of each activation tensor lie, and where INT8 would cut them off. "
    "One pass over the calibration data gives every histogram and every candidate range."
)
READING = (
    "Each pair of lines is the range that one calibrator would choose: what lies outside is "
    "clipped, what lies inside is rounded to 256 steps. Click a name in the legend to hide it. "
    "Empty bins are drawn at the bottom edge. Error and SQNR are expected values, computed from "
    "the histogram."
)
REST = (
    "This page shows ranges; so far the app does no more. Sensitivity, the search for the ops "
    "that have to stay float, and the verified int8 checkpoint are on the command line, and "
    "in Python. All of it, for this model:"
)

_number = st.column_config.NumberColumn
CANDIDATE_COLUMNS = {
    "calibrator": "Calibrator",
    "lo": _number("From", format="%.5g"),
    "hi": _number("To", format="%.5g"),
    "step": _number("Step", format="%.4g", help="The size of one INT8 step, in tensor units"),
    "clipped_percent": _number("Clipped %", format="%.4f"),
    "mse": _number("Mean squared error", format="%.3g"),
    "sqnr_db": _number("SQNR (dB)", format="%.2f", help="10 log10(signal / error); more is better"),
    "best": st.column_config.CheckboxColumn("Highest SQNR"),
}
TENSOR_COLUMNS = {
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


def model_name(choice: Start) -> str:
    """What the model picker shows."""
    return str(choice.model).removeprefix("sample:")


def share(step: Progress) -> float:
    """How far a piece of work is, 0 to 1."""
    return min(step.done / step.total, 1.0) if step.total else 0.0


def progress(step: Progress) -> str:
    """The line under the progress bar."""
    return f"{step.message} ({step.done} of {step.total})" if step.total else step.message


def summary(graph: Graph, histograms: Mapping[str, Histogram]) -> str:
    """One line about the model that is open."""
    int8 = len(graph.quantizable)
    return (
        f"**{graph.name}**: {len(graph.ops)} ops, {int8} of them can run in int8, "
        f"{len(histograms)} tensors calibrated, {graph.macs / 1e6:,.1f} M multiply-accumulates "
        "per sample."
    )


def picture(tensor: str) -> str:
    """The histogram in words, for readers who cannot see it; the numbers are in the table."""
    return f"Histogram of {tensor} with its candidate ranges; the table below lists them"


def command(choice: Start) -> str:
    """The command that does the whole job on this model."""
    words = ["qviz", "run", str(choice.model)]
    if choice.calibration:
        words += ["--calibration", choice.calibration]
    if choice.evaluation:
        words += ["--evaluation", choice.evaluation]
    return shlex.join([*words, "-o", "out"])
