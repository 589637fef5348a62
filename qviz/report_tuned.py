"""The section of a report that says how accuracy was won back, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qviz.digits import duration, number, percent, scored, span
from qviz.figures_tune import steps_figure
from qviz.intervals import Interval
from qviz.metrics import Metric
from qviz.recipe import Recipe
from qviz.report_content import Content, Escalation
from qviz.report_html import code, figure, folded, items, paragraph, table
from qviz.report_html import section as made_section
from qviz.tables_tune import Tried

NAME = "tuning"
TITLE = "Winning accuracy back"
#: More steps than this are folded; the picture and the sentence say what matters.
LONG = 12


def section(content: Content) -> str:
    """Every step tried, with those marked that led to the recipe."""
    if not content.tried and content.escalation is None:
        return ""
    way = way_to(content.tried, content.recipe)
    return made_section(
        NAME,
        TITLE,
        paragraph(led(way, content.recipe, len(content.tried))) if content.tried else "",
        _steps(content, way) if content.tried else "",
        "" if content.escalation is None else _escalation(content.escalation),
        tag="measured",
    )


def way_to(tried: Sequence[Tried], recipe: Recipe) -> tuple[Tried, ...]:
    """The steps that led to a recipe, first to last; none if it was not tuned.

    A recipe that was changed after it was tuned, in its ranges or in what stays in float, is found
    by its weights.
    """
    last = next((one for one in reversed(tried) if one.recipe == recipe), None)
    if last is None and recipe.weights:
        last = next(
            (one for one in reversed(tried) if one.recipe and one.recipe.weights == recipe.weights),
            None,
        )
    if last is None or last.start is None:
        return () if last is None else (last,)
    before = tuple(one for one in tried if one.step < last.step)
    return (*way_to(before, last.start), last)


def led(way: Sequence[Tried], recipe: Recipe, tried: int) -> str:
    """The way in one sentence."""
    many = "1 step was tried" if tried == 1 else f"{tried} steps were tried"
    if not way:
        return f"{many} in this run; none of them led to this recipe."
    titles = ", then ".join(one.title for one in way)
    text = f"{many} in this run; this recipe came out of {titles} (marked)"
    if way[-1].recipe != recipe:
        text += ", and was changed afterwards"
    return (
        f"{text}. Each step is measured before and after on the same samples; a change inside its "
        "95 % interval is noise."
    )


def _steps(content: Content, way: Sequence[Tried]) -> str:
    metric, measured = content.metric, [one for one in content.tried if one.drop is not None]
    target = None if content.search is None else content.search.max_drop
    drawn = ""
    if measured:
        drawn = figure(
            steps_figure(measured, target=target, metric=metric.name),
            f"Drop of {metric.name} from float before and after each step",
        )
    notes = [f"{one.title}: {note}" for one in way for note in one.notes]
    marked = [i for i, one in enumerate(content.tried) if one in way]
    made = table(HEADS, [_row(one, metric) for one in content.tried], marked=marked)
    if len(content.tried) > LONG:
        made = folded(f"All {len(content.tried)} steps", made, printed=True)
    return drawn + made + (items(notes) if notes else "")


HEADS = (
    "step", "method<", "verdict<", "before", "after", "gain", "95 % interval",
    "divergence before", "divergence after", "how<", "fitted on", "trained on", "measured on",
    "seed", "time",
)  # fmt: skip


def _row(one: Tried, metric: Metric) -> tuple[str, ...]:
    known = one.low is not None and one.high is not None
    limits = Interval(one.low or 0.0, one.high or 0.0) if known else None
    samples = [one.samples.get(role, 0) for role in ("calibration", "training", "evaluation")]
    return (
        str(one.step),
        one.title,
        one.verdict,
        *("-" if math.isnan(x) else scored(x, metric) for x in (one.before, one.after)),
        percent(one.gain, signed=True),
        span(limits),
        *map(number, one.divergence),
        one.how,
        *(f"{count:,}" if count else "-" for count in samples),
        str(one.seed),
        duration(one.seconds),
    )


def _escalation(found: Escalation) -> str:
    steps = [(stage, outcome, sentence) for stage, outcome, sentence in found.steps]
    kept = [i for i, (_, outcome, _) in enumerate(steps) if outcome == "kept"]
    body = table(("stage<", "outcome<", "what it did<"), steps, marked=kept)
    again = (
        paragraph("The same result without the detours:") + code("\n".join(found.commands))
        if found.commands
        else ""
    )
    return (
        paragraph(f"Found by qviz auto: {found.ended}.")
        + (items(found.notes) if found.notes else "")
        + folded(f"What qviz auto tried, {len(steps)} steps", body, printed=True)
        + again
    )
