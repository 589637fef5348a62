"""The text of the plan page: sentences, labels and column configurations."""

from __future__ import annotations

import math

import streamlit as st

from qviz.digits import number, percent
from qviz.estimate import Estimate
from qviz.evaluate import Evaluation
from qviz.search.skip import SkipPoint
from qviz.ui.words import Columns

INTRO = (
    "Tick what stays in float. The estimate is there at once, the measurement a second later: "
    "first on a part of the evaluation samples, then on all of them."
)
HOW = (
    "**Estimated**: to second order the divergences that ops cause alone add up, as long as their "
    "errors are independent; the drop of the metric is in proportion to the divergence, at the "
    "rate measured with everything int8. **Measured**: the model was run with this choice."
)
NO_DATA = (
    "There are no evaluation data, so nothing can be estimated or measured: ops can be chosen, but "
    "not judged. Open the model again with evaluation data (--evaluation)."
)
FLAT = "Sensitivity is flat: no small set of ops explains the loss."

_number = st.column_config.NumberColumn


def choice_columns(kind: str, unit: str, latency: str = "") -> Columns:
    """Columns of the table in which ops or operands are ticked; ``latency``: how it is known."""
    return {
        "float": st.column_config.CheckboxColumn(
            "Float", help="Ticked: left in float", pinned=True, width="small"
        ),
        "name": st.column_config.TextColumn(kind, pinned=True),
        "type": "Type",
        "divergence": _number(
            unit,
            format="%.3g",
            width=105,
            help="From the float model's outputs, caused by this alone when it is int8",
        ),
        "share_percent": _number("Share %", format="%.1f", help="Of the summed divergence"),
        "known": st.column_config.TextColumn(
            "Known", help="measured: run with only this int8; estimated: from gradients"
        ),
        "tied": st.column_config.TextColumn(
            "Tied", help="Rows with the same sign cannot be told apart with these samples"
        ),
        "macs_percent": _number(
            "MACs %", format="%.2f", help="Share of the model's multiply-accumulates"
        ),
        "size_kb": _number(
            "Float size (kB)", format="%.1f", help="Weights and biases in float; int8 is a quarter"
        ),
        "extra_us": _number(
            "µs if float",
            format="%+.3g",
            help=f"What leaving this op alone in float adds to one pass; below zero it is quicker "
            f"in float. {latency[:1].upper()}{latency[1:]}",
        ),
        "note": "Note",
    }


POINT_COLUMNS: Columns = {
    "ops_in_float": _number("Ops in float"),
    "float_macs_percent": _number("MACs in float %", format="%.2f"),
    "drop_percent": _number("Drop measured %", format="%.3f"),
    "low_percent": _number("95 % from", format="%.3f"),
    "high_percent": _number("to", format="%.3f"),
    "predicted_percent": _number("Drop predicted %", format="%.3f"),
    "divergence": _number("Divergence measured", format="%.3g"),
    "predicted_divergence": _number("Divergence predicted", format="%.3g"),
    "value": _number("Metric", format="%.4g"),
    "from": "From",
    "flag": "Not as predicted",
    "skipped": "In float",
}


def how_much(ops: int, of: int, float_macs: float) -> str:
    """``3 of 59 ops in float (2.3 % of MACs)``."""
    return f"{ops} of {of} ops in float ({percent(float_macs)} of MACs)"


def estimated(found: Estimate | None) -> str:
    """What an estimate was made from."""
    if found is None:
        return "nothing is known yet"
    if found.drop is None:
        return f"divergence {number(found.divergence)}; the drop follows once all int8 is measured"
    text = f"divergence {found.divergence:.2g}"
    if found.interval is not None:
        text += f"; 95 % of its rate: {100 * found.interval.low:.2g} to "
        text += f"{100 * found.interval.high:.2g} %"
    if found.ops and not found.measured:
        text += f"; from gradients of {ops(found.ops)}, none measured alone"
    elif found.ops:
        text += f"; {found.measured} of {ops(found.ops)} measured alone"
    return text


def measured(found: Evaluation, low: float, high: float) -> str:
    """Interval, divergence and number of samples of a measurement."""
    interval = "" if math.isnan(found.drop) else f"95 %: {percent(low)} to {percent(high)}; "
    return f"{interval}divergence {number(found.divergence)}"


def search_said(
    first: SkipPoint, best: SkipPoint, count: int, of: int, target: float, *, finished: bool
) -> str:
    """What a search found, in a sentence or two.

    Args:
        first: everything int8.
        best: what was found.
        count: ops that it leaves in float.
        of: ops that could be int8.
        target: largest relative drop allowed.
        finished: it was not stopped.
    """
    if count == 0:
        need = "No op has to be in float: with" if best.drop <= target else "With"
        text = f"{need} everything int8 the drop is {percent(best.drop)}, target {percent(target)}."
    else:
        text = (
            f"{how_much(count, of, best.float_macs)} {'brings' if count == 1 else 'bring'} the "
            f"drop from {percent(first.drop)} to {percent(best.drop)}, target {percent(target)}."
        )
    if best.drop > target:
        text += " The target is not reached: this is the best found."
    elif best.high > target:
        text += f" The 95 % interval reaches to {percent(best.high)}."
    if not finished:
        text += " The search was stopped early: fewer skips may do."
    return text


def ops(count: int) -> str:
    """``1 op``, ``3 ops``."""
    return f"{count:,} {'op' if count == 1 else 'ops'}"


def roughly(value: float | None) -> str:
    """An estimate: two digits, and a sign that says so."""
    return "-" if value is None else f"≈ {100 * value:.2g} %"
