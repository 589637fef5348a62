"""What each of qviz's values looks like as the result of a cell: one line, tables, a figure.

``view`` maps a value to a ``View``, a plain value itself; ``notebook_show`` puts views on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from qviz import report_certificate as words
from qviz import tables
from qviz.calibration import CalibratorRow
from qviz.calibrators import Candidate
from qviz.cli_print import graph_lines
from qviz.coverage import CoverageRow, coverage
from qviz.digits import number, percent, scored, span
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.node_data import OpNumber
from qviz.notebook_html import Table, View
from qviz.notebook_ranges import calibration_view, candidates_view, histogram_view
from qviz.notebook_tune import auto_view, frontier_view, remedies_view, tuning_view
from qviz.recipe import Recipe
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity
from qviz.session import Session
from qviz.tables_sensitivity import ranking_table

if TYPE_CHECKING:
    from qviz.int8.certificate import Certificate

#: Ops named in a line that can be pasted.
WORST = 3


def calibrators_view(rows: tuple[CalibratorRow, ...]) -> View:
    """Every calibrator measured."""

    def figure() -> object:
        from qviz.figures_calibrators import calibrators_figure

        return calibrators_figure(rows)

    best = next((row for row in rows if row.best), rows[0])
    text = (
        f"Calibrators measured: best is {best.calibrator}, {percent(best.change, signed=True)} "
        f"from float (95 % {span(best.interval)})"
    )
    note = "Tied ones cannot be told from the best by the metric; of those, the least divergence."
    return View(text, (note,), (Table(tables.calibrators_table(rows)),), figure)


def evaluation_view(found: Evaluation) -> View:
    """Float against int8 on the same samples, and the predictions that changed."""
    n, metric = found.scores.count, found.metric
    text = (
        f"{metric.name} measured on {n:,} samples: {scored(found.value, metric)}, "
        f"float {scored(found.reference.value, metric)}; "
        f"change {percent(found.change, signed=True)} (95 % {span(found.interval)})"
    )
    notes = [f"Outputs: {found.divergence_name} {number(found.divergence)} from float's."]
    if found.p_value is not None:
        notes.append(
            f"{len(found.flips):,} of {n:,} predictions changed; McNemar's test that they changed "
            f"for the better as often as for the worse: p = {number(found.p_value)}."
        )
    frame = pd.DataFrame(
        [(f.sample, f.target, f.float_class, f.int8_class) for f in found.flips],
        columns=["sample", "label", "float says", "int8 says"],
    )
    return View(text, tuple(notes), (Table(frame, "evaluation.flips"),) if found.flips else ())


def recipe_view(recipe: Recipe) -> View:
    """The decision: what is not default, and the ranges."""
    channel = "per channel" if recipe.per_channel else "per tensor"
    float_ops = len(recipe.skipped)
    default = "" if recipe.int8 else ", everything float unless named"
    text = (
        f"Recipe: {recipe.calibrator} ranges of {len(recipe.ranges)} tensors, "
        f"weights {recipe.weight_bits} bits {channel}, activations {recipe.activation_bits} bits, "
        f"profile {recipe.profile}{default}; {float_ops or 'nothing'} left in float by choice"
        + (f"; tuned weights {recipe.weights}" if recipe.weights else "")
    )
    words = {True: "int8", False: "float", None: "as the rest"}
    exceptions = pd.DataFrame(
        [
            (o.target, words[o.int8], "" if o.bits is None else str(o.bits))
            for o in recipe.overrides
        ],
        columns=["exception", "runs as", "bits"],
    )
    ranges = pd.DataFrame(
        [(r.tensor, r.lo, r.hi, r.calibrator) for r in recipe.ranges],
        columns=["tensor", "from", "to", "calibrator"],
    )
    kept = [Table(f, "recipe.ranges") for f in (exceptions, ranges) if len(f)]
    return View(text, tables=tuple(kept))


def sensitivity_view(ranking: Sensitivity) -> View:
    """The ranking, worst first, with a line to paste."""

    def figure() -> object:
        from qviz.figures_sensitivity import ranking_figure

        return ranking_figure(ranking)

    rows = ranking.rows
    measured = [row for row in rows if row.exact]
    samples = max((row.samples for row in measured), default=0)
    asked = "only this int8" if ranking.mode == "only_this" else "all but this int8"
    kinds = "" if ranking.operands == "both" else f", {ranking.operands} only"
    text = f"Sensitivity ({asked}{kinds}): {len(rows)} measured on {samples:,} samples"
    if len(measured) < len(rows):
        rest = "estimated" if ranking.proxy else "not measured"
        text = (
            f"Sensitivity ({asked}{kinds}): {len(measured)} of {len(rows)} measured on up to "
            f"{samples:,} samples, the others {rest}"
        )
    notes = ["Rows of the same tie cannot be told apart by these samples."]
    worst = rows[:WORST]
    if worst:
        share = ranking.shares[len(worst) - 1]
        names = ", ".join(repr(row.name) for row in worst)
        notes.insert(0, f"The worst {len(worst)} explain {share:.0%} of the summed divergence.")
        notes.append(f"To leave them in float: `recipe.skip({names})`")
    table = Table(ranking_table(ranking), "qviz.tables.sensitivity_table(sensitivity)")
    return View(text, tuple(notes), (table,), figure)


def search_view(result: SearchResult) -> View:
    """What a search found, and every point it measured."""

    def figure() -> object:
        from qviz.figures_plan import skip_curve_figure

        return skip_curve_figure(result)

    names = ", ".join(repr(name) for name in result.best.skipped)
    notes = (f"Left in float: `recipe.skip({names})`",) if names else ()
    table = Table(tables.curve_table(result), "qviz.tables.curve_table(result)")
    return View(f"Search: {result.summary}", notes, (table,), figure)


def coverage_view(rows: tuple[CoverageRow, ...]) -> View:
    """Every op: int8, float by choice, or float because of a named reason."""
    kinds = [row.status for row in rows]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
    table = Table(tables.coverage_table(rows), "qviz.tables.coverage_table(rows)")
    return View(f"{len(rows)} ops: {counts}", tables=(table,))


def graph_view(graph: Graph) -> View:
    """The captured model, op by op."""
    rows = coverage(graph)

    def figure() -> object:
        from qviz.figures_graph import network_figure

        status = OpNumber("status", "runs as", "", {row.op: row.status for row in rows})
        details = {row.op: f"{row.type}: {row.reason or row.status}" for row in rows}
        return network_figure(graph, status, details=details)

    text = f"{graph.name}: {graph_lines(graph, rows)}"
    return View(text, tables=coverage_view(rows).tables, figure=figure)


def session_view(session: Session) -> View:
    """The model with its data. Nothing is measured for it."""
    evaluation = session.evaluation_data
    notes = [f"Calibration data: {session.calibration_data.count:,} samples."]
    if evaluation is not None:
        notes.append(
            f"Evaluation data: {evaluation.count:,} samples, metric {session.metric.name}."
        )
    if session.run is not None:
        notes.append(f"Kept in `{session.run.path}`.")
    notes += [f"Warning: {text}." for text in session.warnings]
    shown = graph_view(session.graph)
    return View(shown.text, tuple(notes), shown.tables, shown.figure)


def certificate_view(found: Certificate) -> View:
    """An int8 checkpoint against what was simulated."""
    values = found.to_json()
    verdict = "passed" if found.passed else "FAILED"
    text = (
        f"Parity certificate, {verdict}: {found.metric} measured on {found.samples:,} samples; "
        f"{words.verdict_sentence(values)}"
    )
    ran = [one.name for one in found.backends if one.verdict in ("passed", "failed")]
    notes = (
        *(words.parity_sentence(values, name) for name in ran),
        words.tolerance_sentence(values),
        words.size_sentence(values),
        words.machine_sentence(values),
    )
    backends = pd.DataFrame(
        words.backend_rows(values), columns=[h.removesuffix("<") for h in words.heads(values)]
    )
    times = pd.DataFrame(
        [(one.batch, one.float_ms, one.int8_ms, one.ratio, one.threads) for one in found.latency],
        columns=["batch", "float ms", "int8 ms", "int8 / float", "threads"],
    )
    return View(text, notes, (Table(backends), *((Table(times),) if len(times) else ())))


Maker = Callable[[Any], View]

#: By module and name, so that nothing has to be imported before it is used.
VIEWS: dict[tuple[str, str], Maker] = {
    ("qviz.calibration", "Calibration"): calibration_view,
    ("qviz.histogram_value", "Histogram"): histogram_view,
    ("qviz.evaluate", "Evaluation"): evaluation_view,
    ("qviz.recipe", "Recipe"): recipe_view,
    ("qviz.ranking", "Sensitivity"): sensitivity_view,
    ("qviz.search.skip", "SearchResult"): search_view,
    ("qviz.graph", "Graph"): graph_view,
    ("qviz.session", "Session"): session_view,
    ("qviz.int8.certificate", "Certificate"): certificate_view,
    ("qviz.tune.result", "Tuning"): tuning_view,
    ("qviz.tune.remedy", "Remedies"): remedies_view,
    ("qviz.auto", "AutoResult"): auto_view,
    ("qviz.search.widths", "Frontier"): frontier_view,
    ("qviz.notebook_html", "View"): lambda shown: shown,
}
#: By the type of the items of a tuple.
ROWS: dict[type, Maker] = {
    CalibratorRow: calibrators_view,
    CoverageRow: coverage_view,
    Candidate: candidates_view,
}


def view(value: object) -> View | None:
    """How a value is shown; None if it is none of qviz's."""
    if type(value) is tuple:
        kinds = {type(item) for item in value}
        maker = ROWS.get(kinds.pop()) if len(kinds) == 1 else None
    else:
        maker = VIEWS.get((type(value).__module__, type(value).__qualname__))
    return None if maker is None else maker(value)
