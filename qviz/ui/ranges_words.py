"""The text of the Ranges page: sentences, labels and columns, made from values."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from qviz import digits
from qviz.calibrators import Candidate
from qviz.diagnosis import WeightCost
from qviz.evaluate import Evaluation
from qviz.graph import Graph, Op
from qviz.histogram import Histogram
from qviz.metrics import Metric
from qviz.ui.ranges_view import View
from qviz.ui.words import Columns

NO_OPS = (
    "No op of this model has int8 arithmetic, so there is no range to choose. "
    "The Overview says why."
)
HOW = (
    "Drag a limit, or move it with the arrow keys: what lies outside is clipped, what lies inside "
    "is rounded to steps. With the dashed square above the picture a box chooses the range; a "
    "click in the legend hides a line; empty bins are drawn at the bottom edge. Clipped share, "
    "SQNR and error are expected values, computed from the histogram."
)
HOW_WEIGHT = (
    "A weight's range is that of its values, so there is nothing to choose but one scale for all "
    "channels or one for each. The line is the largest magnitude of the whole weight."
)
CHANNELS = (
    "Smallest to largest value of every channel; the lines are the one range that all channels of "
    "an activation share."
)
NO_CHANNELS = "This tensor has no channel axis, so channels are not told apart."
BESIDE = "The values of other tensors with their ranges in this draft, up to four."
NO_DATA = "No evaluation data were given, so the draft's effect on the model cannot be measured."

_number = st.column_config.NumberColumn
COLUMNS: Columns = {
    "calibrator": st.column_config.TextColumn("Calibrator", pinned=True),
    "note": st.column_config.TextColumn(
        "Note", width=90, help="best: least expected error, highest SQNR"
    ),
    "lo": _number("From", format="%.5g"),
    "hi": _number("To", format="%.5g"),
    "step": _number("Step", format="%.4g", help="The size of one step, in units of the tensor"),
    "clipped_percent": _number("Clipped (%)", format="%.4f", help="Share of the values"),
    "sqnr_db": _number("SQNR (dB)", format="%.2f", help="10 log10(signal / error); more is better"),
    "mse": _number("Expected MSE", format="%.3g", help="In squared units of the tensor"),
    "clipping_share": _number("by clipping (%)", format="%.1f", help="Share of the error"),
    "rounding_share": _number("by rounding (%)", format="%.1f", help="Share of the error"),
}


def about(op: Op, shown: View, graph: Graph) -> str:
    """One line on what is looked at."""
    info = graph.tensors[shown.tensor]
    readers = [name for name in info.consumers if name != shown.operand.name]
    how = (
        f"int{shown.decision.bits} in this draft"
        if shown.decision.int8
        else f"float in this draft ({shown.decision.reason})"
    )
    text = f"**{op.name}** ({op.type}) reads `{shown.tensor}`, {_shape(info.shape)}: {how}."
    if readers:
        more = f" and {len(readers) - 2} more" if len(readers) > 2 else ""
        text += f" The same range serves {', '.join(f'`{name}`' for name in readers[:2])}{more}."
    return text


def about_weight(op: Op, shape: tuple[int, ...], bits: int | None, reason: str | None) -> str:
    """One line on a weight."""
    how = f"int{bits} in this draft" if reason is None else f"float in this draft ({reason})"
    return f"**{op.name}** ({op.type}), weight {_shape(shape)}: {how}."


def picture(shown: View) -> str:
    """The histogram in words, for readers who cannot see it."""
    h = shown.histogram
    text = f"Histogram of {shown.tensor}: {h.finite:,} values"
    if h.finite:
        text += f" from {h.min:.4g} to {h.max:.4g}, {digits.percent(h.zero_fraction)} of them zero"
    if shown.current is not None:
        one = shown.current
        text += f". Range in use {one.range.lo:.4g} to {one.range.hi:.4g} ({_name(one.calibrator)})"
    return f"{text}. The table below lists the candidate ranges."


def values(h: Histogram) -> str:
    """What the histogram holds."""
    text = f"{h.size:,} values"
    if h.finite:
        text += f" from {h.min:.5g} to {h.max:.5g}; {digits.percent(h.zero_fraction)} exactly 0"
    if h.nans or h.infs:
        text += f"; {h.nans:,} NaN and {h.infs:,} infinite ones left out"
    return f"{text}. Drag a limit to change the range." if h.finite else f"{text}."


def weight_cost(cost: WeightCost, per_channel: bool) -> str:
    """Both ways to scale a weight, with what each costs."""
    one, each = (_db(value) for value in (cost.per_tensor_db, cost.per_channel_db))
    used = "one per channel" if per_channel else "one for all"
    return (
        f"SQNR of the weight at {cost.bits} bits (computed): **{each}** with one scale per "
        f"channel, **{one}** with one scale for all {cost.amax.numel()} channels. "
        f"The draft uses {used}."
    )


def tuned_weight(value: Tensor, own: Tensor, limit: Tensor | None) -> str:
    """How far a tuned weight is from the model's own.

    Args:
        value: the draft's.
        own: the model's, of the same shape.
        limit: amax that the draft clips it at, None for its largest magnitude.
    """
    moved = float((value - own).norm() / own.norm().clamp(min=1e-30))
    if not moved:
        text = "The draft has tuned weights; this one is the model's own"
    else:
        share = float((value != own).double().mean())
        text = (
            f"**Tuned**: {digits.percent(share)} of the values differ from the model's own, by "
            f"{digits.percent(moved)} of its norm"
        )
    if limit is None:
        return f"{text}."
    kept = float((limit.max() / value.abs().max().clamp(min=1e-30)).clamp(max=1))
    return f"{text}. Its limits were tuned: the widest is {digits.percent(kept)} of the largest."


def scored(value: float, metric: Metric) -> str:
    """A value of a metric; a share of the samples so exact that one sample shows."""
    return f"{100 * value:.2f} %" if metric.unit == "fraction" else digits.scored(value, metric)


def measured(found: Evaluation, *, everything: bool) -> str:
    """On how many samples, and what float gives on the same."""
    count = f"{found.scores.count:,}"
    on = f"all {count} samples" if everything else f"{count} live samples"
    return f"measured on {on}; float {scored(found.reference.value, found.metric)}"


def change(found: Evaluation) -> str:
    """How far from float, with the interval."""
    if found.change != found.change:
        return "no relative change: the float model scores 0"
    return (
        f"{digits.percent(found.change, signed=True)} relative to float "
        f"(95 % interval {digits.span(found.interval)})"
    )


def flips(found: Evaluation) -> str:
    """How many predictions changed."""
    many = "prediction differs" if len(found.flips) == 1 else "predictions differ"
    return f"{len(found.flips):,} {many} from float's"


def custom_label(shown: View, lo: float, hi: float) -> str:
    """What a chosen range is called in the history."""
    span = f"±{hi:.4g}" if shown.grid.symmetric else f"{lo:.4g} to {hi:.4g}"
    return f"{shown.tensor}: range {span}"


def many(calibrator: str, count: int, what: str) -> str:
    """What a change of several ranges is called in the history."""
    return f"{calibrator} range for {count} tensor{'s' if count != 1 else ''} {what}".rstrip()


def _name(calibrator: str) -> str:
    return "custom" if calibrator == "fixed" else calibrator


def _db(value: float) -> str:
    return "no error" if value == float("inf") else f"{value:.1f} dB"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join("n" if size < 0 else str(size) for size in shape) or "one number"


def in_use(one: Candidate) -> str:
    """A range with what it costs, in one line."""
    return (
        f"{_name(one.calibrator)}: {one.range.lo:.4g} to {one.range.hi:.4g}, "
        f"clipped {100 * one.clipped_fraction:.3g} %, SQNR {_db(one.sqnr_db)} (estimated)"
    )
