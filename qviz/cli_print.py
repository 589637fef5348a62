"""Results as text for a person: three significant digits, units, signed changes.

What is estimated and what is measured is said in the heading of its column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qviz.digits import count as count
from qviz.digits import number as number
from qviz.digits import percent as percent
from qviz.digits import scored as scored
from qviz.digits import span as span

if TYPE_CHECKING:
    from qviz.calibration import Calibration, CalibratorRow
    from qviz.coverage import CoverageRow
    from qviz.evaluate import Evaluation
    from qviz.graph import Graph
    from qviz.metrics import Metric
    from qviz.search.skip import SearchResult, SkipPoint
    from qviz.sensitivity import Sensitivity

#: Measured points of a search that are printed before the middle is left out.
POINTS = 16
#: What a tensor's name is cut to.
NAME = 44


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> str:
    """Columns as wide as they must be; a head that ends in "<" makes its column left-aligned."""
    left = [head.endswith("<") for head in heads]
    lines = [[head.removesuffix("<") for head in heads], *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        (
            indent
            + "  ".join(
                cell.ljust(width) if side else cell.rjust(width)
                for cell, width, side in zip(line, widths, left, strict=True)
            )
        ).rstrip()
        for line in lines
    )


def graph_lines(graph: Graph, rows: Sequence[CoverageRow]) -> str:
    """How much there is, and how much of it can be int8."""
    parameters = sum(row.parameters for row in rows)
    macs = sum(row.macs for row in rows if row.status == "int8")
    return (
        f"{len(graph.ops)} ops, {len(graph.quantizable)} of them quantizable "
        f"({percent(macs / graph.macs if graph.macs else 1.0)} of MACs); "
        f"{count(parameters)} parameters, {count(graph.macs)} MACs per sample"
    )


def coverage_table(rows: Sequence[CoverageRow]) -> str:
    """Every op: int8, float by choice, or float and why."""
    return table(
        ("op<", "type<", "output<", "MACs", "parameters", "status<", "reason<"),
        (
            (
                row.op,
                row.type,
                "x".join("?" if s < 0 else str(s) for s in row.shape) or "-",
                count(row.macs) if row.macs else "-",
                count(row.parameters) if row.parameters else "-",
                row.status,
                row.reason,
            )
            for row in rows
        ),
    )


def calibration_table(calibration: Calibration, grid_note: str) -> str:
    """Range and best candidate of every tensor."""
    rows = []
    for name, h in calibration.histograms.items():
        found = calibration.candidates.get(name)
        if not found:
            rows.append((short(name), "-", "-", "-", "-", "-", "never saw data"))
            continue
        best = min(found, key=lambda c: c.mse)
        rows.append(
            (
                short(name),
                f"{number(h.min)} to {number(h.max)}",
                f"{number(best.range.lo)} to {number(best.range.hi)}",
                number(best.scale),
                percent(best.clipped_fraction),
                f"{number(best.sqnr_db)} dB",
                best.calibrator,
            )
        )
    heads = ("tensor<", "seen", "best range", "step", "clipped", "SQNR", f"calibrator{grid_note}<")
    return table(heads, rows)


def short(name: str) -> str:
    """A name that leaves room for the other columns."""
    return name if len(name) <= NAME else f"{name[: NAME // 2 - 1]}..{name[-NAME // 2 + 1 :]}"


def calibrators_table(rows: Sequence[CalibratorRow], metric: Metric, chosen: str) -> str:
    """Accuracy by calibrator; ``*`` marks the chosen one."""
    return table(
        ("", "calibrator<", "weights<", metric.name, "change", "95 % interval", "divergence", "<"),
        (
            (
                "*" if row.calibrator == chosen and (row.per_channel or len(rows) == 1) else "",
                row.calibrator,
                "per channel" if row.per_channel else "per tensor",
                scored(row.value, metric),
                percent(row.change, signed=True),
                span(row.interval),
                number(row.divergence),
                "best" if row.best else "tied" if row.tied else "",
            )
            for row in rows
        ),
    )


def sensitivity_table(result: Sensitivity, top: int) -> str:
    """The worst ops with intervals, ties and the place the gradient estimate gave them."""
    order = sorted(result.proxy, key=lambda name: -result.proxy[name])
    place = {name: i + 1 for i, name in enumerate(order)}
    rows = []
    for row in result.rows[:top]:
        d = row.divergence_interval
        rows.append(
            (
                str(row.rank + 1),
                short(row.name),
                row.type,
                number(row.divergence),
                f"{number(d.low)} to {number(d.high)}" if d else "-",
                percent(row.change, signed=True),
                span(row.change_interval),
                str(row.tie + 1),
                str(place.get(row.name, "-")),
            )
        )
    measured, change = f"{result.divergence_name} measured", f"{result.metric} change"
    heads = ("", "op<", "type<", measured, "95 %", change, "95 %", "tie", "estimated rank")
    return table(heads, rows)


def sensitivity_notes(result: Sensitivity, top: int) -> str:
    """What the ranking as a whole says."""
    shares = result.shares
    shown = min(top, len(shares))
    text = f"The worst {shown} of {len(shares)} make {percent(shares[shown - 1])} of the sum."
    text += " Ops with one tie number cannot be told apart."
    if result.flat:
        text += " It is flat: no small set of ops explains the loss."
    if result.spearman is not None:
        text += f" The estimate ranks like the measurement at Spearman {number(result.spearman)}."
    return text


def curve_table(result: SearchResult, metric: Metric) -> str:
    """Every measured set of skipped ops, the middle left out if there are many."""
    points = list(result.curve)
    head, tail = points, []
    if len(points) > POINTS:
        head, tail = points[: POINTS // 2], points[-POINTS // 2 :]
    rows = [_point(p, result, metric) for p in head]
    if tail:
        rows.append(("", "...", f"{len(points) - POINTS} more in search.json", "", "", "", "", ""))
        rows += [_point(p, result, metric) for p in tail]
    return table(
        (
            "",
            "skipped",
            "step<",
            "estimated drop",
            "measured drop",
            "95 % interval",
            metric.name,
            "MACs in float",
        ),
        rows,
    )


def _point(point: SkipPoint, result: SearchResult, metric: Metric) -> tuple[str, ...]:
    step = "all int8" if not point.skipped else point.step
    if point.skipped and point.step == "add":
        step = f"skip {short(point.skipped[-1])}"
    elif point.step == "give back":
        step = f"give back {_given_back(point, result)}"
    return (
        "*" if point == result.best else "",
        str(len(point.skipped)),
        step,
        percent(point.predicted, signed=True),
        percent(point.drop, signed=True),
        f"{percent(point.low, signed=True)} to {percent(point.high, signed=True)}",
        scored(point.value, metric),
        percent(point.float_macs),
    )


def _given_back(point: SkipPoint, result: SearchResult) -> str:
    """What was left out of the last set before it that was within the target."""
    earlier = result.curve[: result.curve.index(point)]
    base = next((p for p in reversed(earlier) if p.drop <= result.max_drop), point)
    return ", ".join(short(n) for n in base.skipped if n not in point.skipped)


def search_lines(result: SearchResult) -> str:
    """What was found, in a sentence or two."""
    best = result.best
    verdict = "within" if result.reached else "NOT within"
    text = (
        f"{len(best.skipped)} of {result.quantizable} ops left in float "
        f"({percent(best.float_macs)} of MACs): measured drop {percent(best.drop, signed=True)}, "
        f"{verdict} the target of {percent(result.max_drop)}."
    )
    if not result.reached:
        text += " This is the best found."
    elif best.high > result.max_drop:
        text += f" Its 95 % interval reaches to {percent(best.high, signed=True)}."
    if result.flat and best.skipped:
        text += " Sensitivity is flat: no small set of ops explains the loss."
    return text


def evaluation_lines(found: Evaluation) -> str:
    """One recipe against float."""
    metric = found.metric
    text = (
        f"float  {metric.name} {scored(found.reference.value, metric)}\n"
        f"int8   {metric.name} {scored(found.value, metric)}, change "
        f"{percent(found.change, signed=True)} (95 % {span(found.interval)}), measured on "
        f"{found.scores.count} samples\n"
        f"{found.divergence_name} from float {number(found.divergence)}"
    )
    if found.p_value is not None:
        gone = sum(f.float_class == f.target for f in found.flips)
        came = sum(f.int8_class == f.target for f in found.flips)
        text += (
            f"; {len(found.flips)} predictions flipped ({gone} to wrong, {came} to right, "
            f"McNemar p {number(found.p_value)})"
        )
    elif found.flips:
        text += f"; {len(found.flips)} predictions flipped"
    return text
