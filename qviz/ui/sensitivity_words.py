"""The text of the Sensitivity page: sentences, lists to paste and columns, made from values."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

import streamlit as st

from qviz.digits import duration
from qviz.figures_sensitivity import quantity, tied
from qviz.progress import Progress
from qviz.ranking import Granularity, Mode, Operands, Sensitivity, SensitivityRow
from qviz.recipe import Recipe
from qviz.ui.sensitivity_results import Kept, Setting
from qviz.ui.words import Columns

INTRO = "What each op costs in INT8, worst first: these are the ones to leave in float, or to mend."
NO_DATA = (
    "Sensitivity compares the model's outputs in INT8 with those in float, and this model was "
    "opened without evaluation samples to compare them on."
)
MODES: dict[Mode, str] = {"only_this": "Only this", "all_but_this": "All but this"}
PARTS: dict[Operands, str] = {"both": "Both", "weights": "Weights", "activations": "Activations"}
GRAINS: dict[Granularity, str] = {"op": "Op", "operand": "Operand"}
MODE_HELP = (
    "Only this: one op is INT8, the rest float - what it costs by itself. "
    "All but this: everything is INT8 except one op - what leaving it in float wins."
)
PART_HELP = "What of an op is switched: its weights, the activations it reads, or both."
GRAIN_HELP = "Op: all operands of an op together. Operand: each weight and each input by itself."
FORMS = {"names": "Names", "cli": "Command line", "python": "Python"}
BAND = "Ops on one grey band are tied: these samples cannot tell them apart."
PROXY = (
    "The estimate takes one gradient pass over at most 256 samples for all ops together; a "
    "measurement takes a pass over all samples for each. Points on the dotted line agree exactly."
)
CAUSES = (
    "Divergence by one part alone, measured rows only. Mostly: at least twice the other part's, "
    "with 95 % intervals that do not overlap."
)

_number = st.column_config.NumberColumn
RANKING_COLUMNS: Columns = {
    "rank": _number("Rank", width="small", pinned=True),
    "name": st.column_config.TextColumn("Op", pinned=True),
    "type": "Type",
    "basis": "Basis",
    "divergence": _number("Divergence", format="%.2e", help="Mean over the samples"),
    "divergence_low": _number("from", width=90, format="%.2e", help="95 % interval"),
    "divergence_high": _number("to", width=90, format="%.2e", help="95 % interval"),
    "share_percent": _number(
        "Loss explained (%)", format="%.1f", help="By this row and all above it"
    ),
    "change_percent": _number("Metric change (%)", format="%+.3f", help="Relative"),
    "change_low_percent": _number("from (%)", width=90, format="%+.3f", help="95 % interval"),
    "change_high_percent": _number("to (%)", width=90, format="%+.3f", help="95 % interval"),
    "tie": _number("Tie group", help="Rows of one group cannot be told apart"),
    "samples": _number("Samples", format="localized"),
}
CAUSE_COLUMNS: Columns = {
    "name": st.column_config.TextColumn("Op", pinned=True),
    "type": "Type",
    "cause": "Cause",
    "weights": _number("Weights only", format="%.2e"),
    "activations": _number("Activations only", format="%.2e"),
    "both": _number("Both", format="%.2e"),
}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def title(setting: Setting) -> str:
    """A setting in words: ``only this, weights, per op``."""
    part = "weights and activations" if setting.operands == "both" else setting.operands
    return f"{MODES[setting.mode].lower()}, {part}, per {setting.granularity}"


def recipe_line(recipe: Recipe) -> str:
    """A recipe in a few words: ``mse ranges (2 others), 8-bit weights per channel``."""
    other = sum(r.calibrator != recipe.calibrator for r in recipe.ranges)
    text = f"{recipe.calibrator} ranges" + (f" ({other} otherwise)" if other else "")
    if (recipe.weight_bits, recipe.activation_bits) != (8, 8):
        text += f", weights {recipe.weight_bits} bits, activations {recipe.activation_bits} bits"
    if not recipe.per_channel:
        text += ", one scale per weight tensor"
    skipped = len(recipe.skipped)
    return text + (f", {skipped} left in float" if skipped else "")


def recipe_measured(recipe: Recipe, draft: Recipe, samples: int, metric: str) -> str:
    """Which recipe is measured, and on what."""
    text = f"Recipe: the draft, {recipe_line(recipe)}"
    if recipe != draft:
        count = len(draft.skipped)
        text += f"; the {count} that it leaves in float are ranked too"
    return f"{text}. Data: {samples:,} evaluation samples. Metric: {metric}."


def before_line(kept: Kept, grain: str, *, stopped: bool) -> str:
    """What there is of an unfinished ranking; empty if nothing.

    Args:
        kept: how much.
        grain: op or operand.
        stopped: the last job was cancelled just now.
    """
    if not kept.whole and not kept.begun:
        return "Cancelled before anything was measured." if stopped else ""
    text = f"{kept.whole:,} of {kept.names:,} {grain}s were measured before"
    if stopped:
        text = f"Cancelled. {kept.whole:,} of {kept.names:,} {grain}s are measured and can be used"
    if kept.begun:
        text += f", {kept.begun:,} more on some of the samples"
    return f"{text}; Run goes on from there."


def progress_line(now: Progress, ranking: Sensitivity | None) -> str:
    """How far a running job is, and how long it still takes."""
    left = "" if now.remaining is None else f", about {duration(now.remaining)} left"
    if now.verb == "evaluate":
        return f"Float model: {now.done:,} of {now.total:,} samples{left}"
    if now.verb == "proxy":
        return f"Estimate by gradients: {now.done:,} of {now.total:,} samples{left}"
    if ranking is None:
        return f"{now.done:,} of {now.total:,} samples{left}"
    done = sum(row.exact for row in ranking.rows)
    return f"Measured {done:,} of {len(ranking.rows):,}, last {now.message}{left}"


def headline(ranking: Sensitivity, grain: str) -> str:
    """What the ranking says as a whole, or says so far."""
    rows, shares = ranking.rows, ranking.shares
    total, few = len(rows), min(3, len(rows))
    now = "" if all(row.exact for row in rows) else ", so far"
    if not any(row.divergence > 0 for row in rows):
        return f"No {grain} changes the outputs on these samples{now}."
    if ranking.flat:
        half = next(i + 1 for i, share in enumerate(shares) if share >= 0.5)
        return (
            f"No small set explains the loss{now}: half of it takes {half} of {total:,} {grain}s. "
            "Better ranges will help more than leaving a few in float."
        )
    if total == 1:
        return f"There is one {grain}, and it explains all of the loss{now}."
    worst = f"the worst {'two' if few == 2 else 'three'} of {total:,} {grain}s"
    if shares[0] >= 0.5:
        return (
            f"{rows[0].name} alone explains {_percent(shares[0])} of the loss, {worst} "
            f"{_percent(shares[few - 1])}{now}."
        )
    return f"T{worst[1:]} explain {_percent(shares[few - 1])} of the loss{now}."


def basis_line(ranking: Sensitivity) -> str:
    """What the loss is, and how much of it is measured."""
    measured = [row for row in ranking.rows if row.exact]
    each = "caused by each alone" if ranking.mode == "only_this" else "won by leaving each in float"
    text = f"Loss: {quantity(ranking)}, {each}, summed over the rows. "
    total = f"{len(ranking.rows):,}"
    if not measured:
        return f"{text}All {total} are estimated from gradients, none is measured yet."
    samples = {row.samples for row in measured}
    most = f" to {max(samples):,}" if len(samples) > 1 else ""
    on = f"on {min(samples):,}{most} samples"
    if len(measured) == len(ranking.rows):
        return f"{text}All {len(measured):,} are measured {on}, with 95 % intervals."
    rest = "the hollow ones estimated" if ranking.proxy else "the rest not yet"
    return f"{text}{len(measured):,} of {total} are measured {on}, {rest}."


def table_line(ranking: Sensitivity) -> str:
    """How the columns of the table are to be read."""
    base = "float, by this alone" if ranking.mode == "only_this" else "INT8, by this left in float"
    return (
        f"Divergence: {quantity(ranking)}. Metric change: {ranking.metric} relative to all {base}. "
        "Choose a row to choose its op."
    )


def alt(ranking: Sensitivity) -> str:
    """The bars in words."""
    worst = ", ".join(f"{row.name} {row.divergence:.3g}" for row in ranking.rows[:3])
    return f"Bars of {quantity(ranking)}, worst first: {worst}. The table below lists all"


def row_line(ranking: Sensitivity, row: SensitivityRow) -> str:
    """One row in words: its place, its divergence, what the metric does."""
    text = f"**{row.name}** ({row.type}): rank {row.rank + 1:,} of {len(ranking.rows):,}, "
    if not row.exact and not ranking.proxy:
        return f"**{row.name}** ({row.type}) is not measured yet."
    text += f"{quantity(ranking)} {'measured' if row.exact else 'estimated'} {row.divergence:.3g}"
    if (span := row.divergence_interval) is not None:
        text += f" [{span.low:.3g}, {span.high:.3g}]"
    if row.change is not None:
        text += f", {ranking.metric} {100 * row.change:+.2f} % relative"
    if (span := row.change_interval) is not None:
        text += f" [{100 * span.low:+.2f}, {100 * span.high:+.2f}]"
    tied = [one.name for one in ranking.rows if one.tie == row.tie and one.name != row.name]
    if tied:
        others = ", ".join(tied[:3]) + (f" and {len(tied) - 3} more" if len(tied) > 3 else "")
        text += f"; tied with {others}"
    return text + "."


def draft_line(recipe: Recipe) -> str:
    """What the draft leaves in float."""
    skipped = recipe.skipped
    if not skipped:
        return "The draft leaves nothing in float."
    few = ", ".join(skipped[:3]) + (f" and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    return f"The draft leaves {len(skipped)} in float: {few}."


def causes_line(counts: Mapping[str, int]) -> str:
    """How many ops have which cause."""
    said = ("mostly weights", "mostly activations", "both alike", "weights only")
    order = (*said, "activations only", "not measured yet")
    return ", ".join(f"{counts[one]} {one}" for one in order if counts.get(one)) + "."


def paste(names: Sequence[str], form: str) -> str:
    """Names as a list to paste: plain, as options of the command line, or a Python list."""
    if form == "cli":
        return " ".join(f"--skip {shlex.quote(name)}" for name in names)
    return json.dumps(list(names)) if form == "python" else "\n".join(names)


def cut_line(ranking: Sensitivity, count: int) -> str:
    """How much the worst ``count`` explain, and whether the cut goes through a tie."""
    text = f"They explain {_percent(ranking.shares[count - 1])} of the loss."
    for first, last in tied(ranking.rows):
        if first < count <= last:
            text += (
                f" Ranks {first + 1} to {last + 1} are tied: these samples cannot say which of "
                "them belong in the list."
            )
    return text


def spearman_line(ranking: Sensitivity, correlation: float, count: int) -> str:
    """What the rank correlation of estimate and measurement means."""
    if correlation >= 0.9:
        meaning = "the estimate alone would have given almost this order"
    elif correlation >= 0.7:
        meaning = "the estimate finds the bad ones, its order among neighbours is not to be trusted"
    else:
        meaning = "the estimate misleads on this model: go by the measurement"
    text = f"Spearman rank correlation {correlation:.2f} over {count:,} measured: {meaning}."
    few = min(10, count // 2)
    if few >= 3:
        measured = [row.name for row in ranking.rows if row.exact]
        guessed = sorted(measured, key=lambda name: -ranking.proxy.get(name, 0.0))
        same = len(set(measured[:few]) & set(guessed[:few]))
        text += f" Of the {few} worst it names {same}."
    return text
