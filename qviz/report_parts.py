"""The sections of a report, each from the values that it is about."""

from __future__ import annotations

from typing import Any

from qviz import report_words as words
from qviz.calibrators import Candidate
from qviz.digits import count, number, percent, scored, span
from qviz.figures import histogram_figure
from qviz.figures_plan import skip_curve_figure
from qviz.figures_sensitivity import ranking_figure
from qviz.recipe_diff import sentence, source
from qviz.report_content import Content, RangeView
from qviz.report_html import card, code, figure, folded, items, paragraph, section, table, text
from qviz.report_proof import cards as proof_cards

#: A coverage table of more ops than this is folded.
LONG = 30


def cards(content: Content) -> str:
    """The numbers that are looked for first."""
    made = []
    metric, found = content.metric, content.measured
    if found is not None:
        size = f"measured on {found.samples:,} samples"
        made += [
            card(f"{metric.title}, float", scored(found.float_value, metric), size),
            card(f"{metric.title}, int8", scored(found.value, metric), "simulated, " + size),
        ]
        if found.change == found.change:
            note = f"relative; 95 %: {span(found.interval)}"
            made.append(card("Change", percent(found.change, signed=True), note))
    able = [row for row in content.coverage if row.status == "int8"]
    share = sum(row.macs for row in able) / content.macs if content.macs else 1.0
    done = f"{percent(share)} of multiply-accumulates"
    made.append(card("Ops in int8", f"{len(able)} of {len(content.coverage)}", done))
    made += proof_cards(content.certificate)
    return f'<div class="cards">{"".join(made)}</div>'


def recipe(content: Content) -> str:
    """The decision and what it does otherwise than the default."""
    found = content.differences
    return section(
        "recipe",
        "Recipe",
        paragraph(words.decided(content.recipe)),
        paragraph(sentence(found, content.base)),
        items(one.text for one in found) if found else "",
        folded("recipe.json", code(content.recipe.to_json())),
    )


def calibrators(content: Content) -> str:
    """Accuracy by calibrator."""
    if not content.calibrators:
        return ""
    rows, marked = [], []
    for i, ((name, per_channel), one) in enumerate(content.calibrators.items()):
        if (name, per_channel) == (content.recipe.calibrator, content.recipe.per_channel):
            marked.append(i)
        rows.append(
            (
                name,
                "per channel" if per_channel else "per tensor",
                scored(one.value, content.metric),
                percent(one.change, signed=True),
                span(one.interval),
                number(one.divergence),
                f"{one.flips:,}",
            )
        )
    one = next(iter(content.calibrators.values()))
    heads = (
        "calibrator<",
        "weights<",
        content.metric.title,
        "change",
        "95 % interval",
        words.divergence(one.divergence_name),
        "predictions changed",
    )
    return section(
        "calibrators",
        "Calibrators",
        paragraph(
            f"With everything int8, on {one.samples:,} samples; change is relative to float. The "
            "one that the recipe uses is marked."
        ),
        table(heads, rows, marked=marked),
        tag="measured",
    )


def coverage(content: Content) -> str:
    """Every op: int8, float by choice, or float and why."""
    rows = content.coverage
    heads = ("op<", "type<", "runs as<", "because<", "multiply-accumulates", "parameters")
    made = table(
        heads,
        (
            (
                row.op,
                row.type,
                row.status,
                row.reason,
                count(row.macs) if row.macs else "",
                count(row.parameters) if row.parameters else "",
            )
            for row in rows
        ),
        marked=[i for i, row in enumerate(rows) if row.status == "float by choice"],
    )
    return section(
        "coverage",
        "Coverage",
        paragraph(words.covered(rows, content.macs)),
        folded(f"All {len(rows)} ops", made, printed=True) if len(rows) > LONG else made,
    )


def ranges(content: Content) -> str:
    """The tensors that suffer most, with their candidate ranges."""
    if not content.ranges:
        return ""
    return section(
        "ranges",
        "Ranges",
        paragraph(
            f"The {len(content.ranges)} of {content.tensors} tensors with the lowest SQNR under "
            "the recipe, lowest first. Grey is what calibration saw; a pair of lines is where a "
            "calibrator would clip, the thick one is the recipe's. Clipping and SQNR are "
            f"estimated from the histogram of {content.calibration_samples:,} calibration samples. "
            "Click a name to hide it in every picture."
        ),
        '<div class="legend" role="group" aria-label="Calibrators"></div>',
        f'<div class="ranges">{"".join(map(_range, content.ranges))}</div>',
        tag="estimated",
    )


def _range(view: RangeView) -> str:
    made = histogram_figure(view.histogram, view.candidates, selected=view.selected)
    made.update_layout(showlegend=False, height=300, margin={"l": 55, "r": 10, "t": 10, "b": 45})
    made.update_yaxes(title="count (log scale)")
    made.for_each_trace(lambda trace: trace.update(name=source(trace.name)))
    readers = ", ".join(view.readers[:4]) + (" …" if len(view.readers) > 4 else "")
    body = (
        paragraph(words.ranged(view))
        + paragraph(f"Read by {readers}", "soft")
        + figure(made, f"Histogram of {view.tensor} with its candidate ranges")
        + folded("Candidates in numbers", _candidates(view.candidates, view.selected))
    )
    return f'<article class="range"><h3>{text(view.tensor)}</h3>{body}</article>'


def _candidates(found: tuple[Candidate, ...], selected: str) -> str:
    return table(
        ("calibrator<", "from", "to", "step", "clipped", "SQNR (dB)"),
        (
            (
                source(one.calibrator),
                number(one.range.lo),
                number(one.range.hi),
                number(one.scale),
                percent(one.clipped_fraction),
                number(one.sqnr_db),
            )
            for one in found
        ),
        marked=[i for i, one in enumerate(found) if one.calibrator == selected],
    )


def sensitivity(content: Content) -> str:
    """Which ops hurt."""
    found = content.sensitivity
    if found is None or not found.rows:
        return ""
    rows = (
        (
            str(row.rank + 1),
            row.name,
            row.type,
            number(row.divergence),
            _limits(row.divergence_interval),
            percent(row.change, signed=True),
            span(row.change_interval),
            str(row.tie + 1),
        )
        for row in found.rows
    )
    title = words.divergence(found.divergence_name)
    heads = (
        "rank", f"{'op' if found.rows[0].name == found.rows[0].name.split('/')[0] else 'operand'}<",
        "type<", title, "95 %", f"{content.metric.title} change", "95 %", "tie",
    )  # fmt: skip
    return section(
        "sensitivity",
        "Sensitivity",
        paragraph(words.ranked(found)),
        paragraph(f"Measured with {content.ranked}, not with this recipe.")
        if content.ranked
        else "",
        figure(ranking_figure(found), f"{title} that each op causes alone"),
        paragraph("To leave the worst three in float, on the command line or in Python:"),
        code(words.exclude(found)),
        folded("All rows", table(heads, rows), printed=True),
        paragraph("Rows of one tie number cannot be told apart with these data.", "soft"),
        tag="measured",
    )


def _limits(interval: Any) -> str:  # noqa: ANN401 - an Interval or None
    return "-" if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def search(content: Content) -> str:
    """The skip curve."""
    found = content.search
    if found is None:
        return ""
    rows = (
        (
            str(len(point.skipped)),
            percent(point.predicted, signed=True),
            percent(point.drop, signed=True),
            f"{percent(point.low, signed=True)} to {percent(point.high, signed=True)}",
            scored(point.value, content.metric),
            percent(point.float_macs),
            ", ".join(point.skipped),
        )
        for point in found.curve
    )
    heads = (
        "ops in float", "estimated drop", "measured drop", "95 % interval", content.metric.title,
        "of MACs in float", "which<",
    )  # fmt: skip
    chosen = [i for i, point in enumerate(found.curve) if point is found.best]
    return section(
        "search",
        "Partial quantization",
        paragraph(words.search_sentence(found)),
        figure(
            skip_curve_figure(found),
            "Drop of the metric against the number of ops left in float",
        )
        if len(found.curve) > 1  # one point is no curve
        else "",
        folded("All points", table(heads, rows, marked=chosen), printed=True),
        tag="measured",
    )


def provenance(content: Content) -> str:
    """Model, data, versions, and how to do it again."""
    rows = [
        (s.role, s.name, "" if s.count is None else f"{s.count:,}", s.digest)
        for s in content.sources
    ]
    versions = ", ".join(f"{name} {version}" for name, version in content.versions.items())
    return section(
        "provenance",
        "Provenance",
        table(("what<", "name<", "samples", "digest<"), rows),
        paragraph(f"Versions: {versions}. Report made {content.created}."),
        paragraph("The command that made the run:") + code(content.command)
        if content.command
        else "",
        paragraph("This recipe again, on the command line:") + code(content.again)
        if content.again
        else "",
        paragraph("The same in Python:") + code(content.python) if content.python else "",
    )
