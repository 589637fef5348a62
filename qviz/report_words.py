"""The sentences of a report; the export page says the same."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.coverage import CoverageRow
from qviz.digits import count, number, percent, scored, span
from qviz.metrics import METRICS, Metric
from qviz.recipe import Recipe
from qviz.recipe_diff import source
from qviz.report_content import Content, Measured, RangeView
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity


def headline(measured: Measured | None, metric: Metric) -> str:
    """What quantization costs."""
    if measured is None:
        return "Not measured: there are no evaluation data."
    return (
        f"{metric.title} {scored(measured.value, metric)} in int8, "
        f"{scored(measured.float_value, metric)} in float: change {changed(measured)}, measured on "
        f"{measured.samples:,} samples."
    )


def changed(measured: Measured) -> str:
    """A relative change with its interval; there is none from a float score of 0."""
    if measured.change != measured.change:
        return "not defined relative to float"
    return f"{percent(measured.change, signed=True)} (95 % interval {span(measured.interval)})"


def decided(recipe: Recipe) -> str:
    """A recipe in one sentence, without its exceptions."""
    scales = "one scale per output channel" if recipe.per_channel else "one scale per tensor"
    ops = "everything int8 that can be" if recipe.int8 else "everything in float"
    if many := len(recipe.overrides):
        ops += f", with {many} {'exception' if many == 1 else 'exceptions'}"
    tuned = ", tuned" if recipe.weights else ""
    return (
        f"{recipe.calibrator} ranges, {recipe.weight_bits} bit weights ({scales}{tuned}), "
        f"{recipe.activation_bits} bit activations, profile {recipe.profile}; {ops}."
    )


def covered(rows: Sequence[CoverageRow], macs: int) -> str:
    """How much of the model runs in int8, and what does not, by reason."""
    int8 = [row for row in rows if row.status == "int8"]
    chosen = sum(row.status == "float by choice" for row in rows)
    imposed = len(rows) - len(int8) - chosen
    share = sum(row.macs for row in int8) / macs if macs else 1.0
    return (
        f"{len(int8)} of {len(rows)} ops run in int8 ({percent(share)} of {count(macs)} "
        f"multiply-accumulates per sample), {chosen} in float by choice, {imposed} in float for a "
        "reason that the table names."
    )


def ranged(view: RangeView) -> str:
    """What the recipe's range of one tensor costs."""
    one = view.chosen
    lo, hi = one.range.lo, one.range.hi
    limits = f"±{number(hi)}" if lo == -hi else f"{number(lo)} to {number(hi)}"
    clipped = percent(one.clipped_fraction)
    return (
        f"{source(one.calibrator)}: {limits}, step {number(one.scale)}, {clipped} of values "
        f"clipped, SQNR {number(one.sqnr_db)} dB; {view.histogram.size:,} values seen, "
        f"{number(view.histogram.min)} to {number(view.histogram.max)}."
    )


def ranked(found: Sensitivity) -> str:
    """What the ranking as a whole says."""
    if not found.rows:
        return "Nothing was measured."
    shown = min(3, len(found.rows))
    text = (
        f"The worst {shown} of {len(found.rows)} explain {percent(found.shares[shown - 1])} of the "
        f"summed {divergence(found.divergence_name)}. Each was measured alone on "
        f"{max(row.samples for row in found.rows):,} samples, the others in float; whiskers are "
        "95 % intervals."
    )
    if found.flat:
        text += " The ranking is flat: no small set explains the loss."
    return text


def divergence(name: str) -> str:
    """``KL divergence from float`` for ``kl``."""
    return METRICS[name].title if name in METRICS else name


def exclude(found: Sensitivity, most: int = 3) -> str:
    """The worst ops, to paste on the command line and into Python."""
    names = [row.name for row in found.rows[:most]]
    options = " ".join(f"--skip '{name}'" for name in names)
    return f"{options}\nrecipe.skip({', '.join(map(repr, names))})"


def search_sentence(found: SearchResult) -> str:
    """What a search found."""
    best = found.best
    verdict = "within" if found.reached else "not within"
    return (
        f"{found.method.capitalize()} search with {found.recipe.calibrator} ranges: "
        f"{len(best.skipped)} of {found.quantizable} ops in float ({percent(best.float_macs)} of "
        f"multiply-accumulates) give a measured drop of {percent(best.drop, signed=True)} (95 % "
        f"interval {percent(best.low, signed=True)} to {percent(best.high, signed=True)}), "
        f"{verdict} the target of {percent(found.max_drop)}."
    )


def title(content: Content) -> str:
    """Of the page."""
    return f"{content.name} in int8"
