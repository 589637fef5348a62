"""The text of the page Win back: sentences, labels and column configurations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from qviz.digits import count, duration, number, percent
from qviz.intervals import Interval
from qviz.metrics import Metric
from qviz.search.pipelines import PipelineName
from qviz.tables_tune import Tried
from qviz.tune.methods import Cost
from qviz.ui.export_words import plain
from qviz.ui.ranges_words import scored
from qviz.ui.words import Columns

INTRO = (
    "What can be done about the accuracy that int8 costs: each method changes weights or ranges of "
    "the draft, is measured before and after on the same samples, and can be taken back."
)
NO_DATA = (
    "There are no evaluation data, so a method can be applied, but nobody can say what it wins. "
    "Open the model again with evaluation data (--evaluation)."
)
NO_TRAINING = (
    "This method trains, and there are no training data. Open the model again with some: "
    "`qviz app MODEL --train DATA`, or Training data on the page Start. They have to be other "
    "samples than those of calibration and evaluation."
)
GUIDED = (
    "One thing after the other, cheapest first, until the drop is within the target: calibrators, "
    "cheap fixes, partial quantization, reconstruction, and training if there are training data. "
    "It begins with the calibrators, not with the draft, and keeps the best so far; the draft "
    "changes only when that is used."
)
BITS = (
    "Below 8 bits: fewer bits for weights, or for weights and activations. What int8 hardware "
    "computes stays int8; a checkpoint packs weights of at most 4 bits in half a byte."
)
OTHER_START = (
    "The draft has changed since: these allocations began with the draft as it was, and using one "
    "puts its recipe in the place of the present one."
)
OTHER_ALLOCATION = "The allocation chosen above is another one."
#: What a pipeline may not exceed.
LIMITED = {
    "size": "the size",
    "bytes": "the file size",
    "bops": "the bit operations",
    "latency": "the time",
    "loss": "the loss",
}
REMEDIES = (
    "Every method of seconds on one op alone, for the ops that hurt most. Each attempt begins with "
    "the draft. The op left in float is measured beside them."
)
SPEARMAN = (
    "The prediction adds up what each layer alone adds to the loss, on calibration samples. How "
    "well its order holds along the frontier is the rank correlation (Spearman) with what was "
    "measured on evaluation samples."
)
PIPELINES: Mapping[PipelineName, tuple[str, str]] = {
    "light": (
        "Light pipeline",
        "Allocate at this limit, then statistics tuning where it helps: seconds",
    ),
    "advanced": (
        "Advanced pipeline",
        "AdaQuant at every width, losses measured anew, allocate at this limit, then statistics "
        "and bias tuning where they help: minutes",
    ),
}
COSTS: Mapping[Cost, tuple[str, str]] = {
    "seconds": ("Seconds", "Statistics of the calibration data; no labels."),
    "minutes": ("Minutes", "Fits on the calibration data; no labels."),
    "hours": ("Hours", "Training, as long as its data and schedule say."),
}
VERDICTS = {
    "better": "better than before on these samples",
    "worse": "worse than before on these samples",
    "noise": "inside the interval: noise",
    "not measured": "not measured",
}

_number = st.column_config.NumberColumn
CHANGE_COLUMNS: Columns = {
    "target": st.column_config.TextColumn("Where", pinned=True),
    "what": "What",
    "before": _number("Before", format="%.4g"),
    "after": _number("After", format="%.4g"),
    "unit": st.column_config.TextColumn("Unit", help="Of the numbers before and after"),
    "note": "Note",
}


FRONTIER_COLUMNS: Columns = {
    "found_by": st.column_config.TextColumn("Found by", pinned=True),
    "size_percent": _number("Size %", format="%.2f", help="Of the float32 weights"),
    "megabytes": _number("All (MB)", format="%.3f", help="With what gets no width, in float32"),
    "bops_percent": _number("Bit operations %", format="%.2f", help="Of those at 8 bits"),
    "predicted_loss": _number("Loss predicted", format="%.3g"),
    "divergence": _number("measured", format="%.3g"),
    "drop_percent": _number("Drop %", format="%.3f"),
    "low_percent": _number("95 % from", format="%.3f"),
    "high_percent": _number("to", format="%.3f"),
    "widths": st.column_config.TextColumn("Layers at each width", width="medium"),
}


REMEDY_COLUMNS: Columns = {
    "site": st.column_config.TextColumn("Op", pinned=True),
    "remedy": st.column_config.TextColumn("Remedy", width=230),
    "verdict": st.column_config.TextColumn(
        "Verdict", help="Noise: no more than the interval, or another rounding, explains"
    ),
    "best": st.column_config.CheckboxColumn("Best", help="Of those that help this op"),
    "fall_percent": _number(
        "Divergence falls %", format="%+.2f", help="From float, relative; positive is better"
    ),
    "fall_low_percent": _number("95 % from", format="%+.2f"),
    "fall_high_percent": _number("to", format="%+.2f"),
    "luck_percent": _number(
        "Luck %", format="%.2f", help="What rounding the op another way does by itself"
    ),
    "gain_percent": _number("Metric %", format="%+.3f", help="Relative gain; positive is better"),
    "low_percent": _number("95 % from ", format="%+.3f"),
    "high_percent": _number("to ", format="%+.3f"),
    "seconds": _number("Time (s)", format="%.1f"),
}


def tried_columns(metric: Metric) -> Columns:
    """Columns of the record."""
    name = f"{metric.name} (%)" if metric.unit == "fraction" else metric.name
    digits = "%.2f" if metric.unit == "fraction" else "%.4g"
    return {
        "step": _number("#", pinned=True, width=50),
        "title": st.column_config.TextColumn("Tried", pinned=True),
        "verdict": st.column_config.TextColumn(
            "Verdict", help="Noise: the 95 % interval of the gain contains 0"
        ),
        "before": _number(f"{name} before", format=digits),
        "after": _number("after", format=digits),
        "gain_percent": _number("Gain %", format="%+.3f", help="Relative; positive is better"),
        "low_percent": _number("95 % from", format="%+.3f", help="Paired interval of the gain"),
        "high_percent": _number("to", format="%+.3f"),
        "drop_percent": _number("Drop after %", format="%.3f", help="From the float model"),
        "divergence_before": _number("Divergence before", format="%.3g"),
        "divergence_after": _number("after", format="%.3g"),
        "how": st.column_config.TextColumn("Options", width="medium"),
        "changes": _number("Changes"),
        "seconds": _number("Time (s)", format="%.1f"),
        "seed": _number("Seed"),
        "calibration": _number("Calibration", help="Samples it could fit on"),
        "training": _number("Training", help="Samples it could train on"),
        "evaluation": _number("Evaluation", help="Samples it was measured on"),
        "now": st.column_config.CheckboxColumn("In use", help="The draft is what this step gave"),
    }


def headline(one: Tried, metric: Metric, ends: Interval | None = None) -> str:
    """What a step did, in a sentence or two.

    Args:
        one: the step.
        metric: what was measured.
        ends: 95 % interval of the relative fall of the divergence, if it is known.
    """
    text = f"**{plain(one.title)}**"
    if one.verdict == "not measured":
        return f"{text}: {_changed(one.changes)}. Not measured: there are no evaluation data."
    text += f": {metric.name} {scored(one.before, metric)} → {scored(one.after, metric)}, "
    text += f"{percent(one.gain, signed=True)} (95 %: {percent(one.low, signed=True)} to "
    text += f"{percent(one.high, signed=True)}), {VERDICTS[one.verdict]}."
    first, last = one.divergence
    if first == first and last == last:
        text += f" Divergence from float {number(first)} → {number(last)}"
        text += f"{_moved(1 - last / first, ends)}." if ends is not None and first else "."
    return text


def _moved(fell: float, ends: Interval) -> str:
    """A relative fall of the divergence in words; a rise is called one."""
    down = fell >= 0
    low, high = (ends.low, ends.high) if down else (-ends.high, -ends.low)
    text = f", a {'fall' if down else 'rise'} of {percent(abs(fell))} "
    text += f"(95 %: {percent(low)} to {percent(high)})"
    if 0.0 in ends:
        return f"{text}: noise"
    return f"{text}: the outputs {'come nearer to' if down else 'move away from'} float's"


def _changed(changes: int) -> str:
    return f"{changes:,} {'change' if changes == 1 else 'changes'}"


def against(drop: float | None, target: float) -> str:
    """A drop beside the target."""
    if drop is None:
        return ""
    if drop <= target:
        return f"within the target of {percent(target)}"
    return f"{percent(drop - target)} above the target of {percent(target)}"


def record(one: Tried) -> str:
    """Time, seed and samples of a step."""
    parts = [f"{duration(one.seconds)} for the method", f"seed {one.seed}"]
    roles = {"calibration": "fitted on at most", "training": "trained on at most",
             "evaluation": "measured on"}  # fmt: skip
    parts += [f"{verb} {one.samples[role]:,} {role} samples"
              for role, verb in roles.items() if one.samples.get(role)]  # fmt: skip
    return "; ".join(parts) + "."


def further(found: Mapping[str, float | int | str]) -> str:
    """Further numbers of a method."""

    def said(value: float | int | str) -> str:
        if isinstance(value, float):
            return number(value)
        return f"{value:,}" if isinstance(value, int) else value

    parts = [f"{name.replace('_', ' ')} {plain(said(v))}" for name, v in found.items()]
    return f" {'; '.join(parts)}." if parts else ""


def command(
    run: Path,
    start: Path,
    method: str,
    options: Mapping[str, object],
    ops: Sequence[str] | None,
) -> str:
    """What to type to apply a method to a recipe again."""
    words = ["qviz", "tune", str(run), "--method", method]
    for name, value in options.items():
        words += ["--option", f"{name}={value}"]
    words += ["--ops", ",".join(ops)] if ops else []
    return shlex.join([*words, "--from", str(start)])


def applies(count: int) -> str:
    """On how many sites a method applies."""
    return f"Applies to {count:,} {'site' if count == 1 else 'sites'}"


def label(one: Tried) -> str:
    """What a step is called in the history of the draft."""
    return f"{one.title} ({one.verdict})" if one.gain is not None else one.title


def size(bytes: int) -> str:
    """``1.2 MB``."""
    return f"{count(bytes)}B" if bytes >= 1000 else f"{bytes} B"


def widths(found: Mapping[tuple[int, int], int]) -> str:
    """How many ops have which width: ``W4A8 12, W8A8 7``; the one width if all have it."""
    names = [f"W{w}A{a}" for w, a in found]
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{name} {n}" for name, n in zip(names, found.values(), strict=True))
