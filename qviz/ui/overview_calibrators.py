"""Which calibrator for the whole model: every one measured, the best one for the draft."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from qviz import background, tables
from qviz.calibration import CalibratorRow
from qviz.profiles import profile
from qviz.recipe import Recipe
from qviz.ui import jobs_view
from qviz.ui.words import Columns
from qviz.ui.workspace import Workspace

KIND = "calibrators"
_number = st.column_config.NumberColumn
COLUMNS: Columns = {
    "calibrator": st.column_config.TextColumn("Calibrator", pinned=True),
    "weights": "Weight scales",
    "value": _number("Metric", format="%.4g"),
    "change_percent": _number("Change %", format="%+.3f", help="Relative to float"),
    "low_percent": _number("95 % from", format="%+.3f", help="Interval of the change, %"),
    "high_percent": _number("95 % to", format="%+.3f", help="Interval of the change, %"),
    "divergence": _number("Divergence", format="%.3g", help="Mean distance from float's outputs"),
    "tied": st.column_config.CheckboxColumn(
        "Tied", help="The data cannot tell it from the best by the metric"
    ),
    "best": st.column_config.CheckboxColumn("Best", help="Least divergence among the tied"),
    "tensors_won": _number("Tensors won", help="On which its range has the least error"),
}


def calibrators(workspace: Workspace) -> None:
    """The table, or the button that measures it."""
    session = workspace.opened.session
    if session.evaluation_data is None:
        st.info("Calibrators are compared on evaluation data, and there are none.")
        return
    samples = session.evaluation_data.count
    specs = workspace.opened.calibration.specs
    job = workspace.jobs.get(KIND)
    if job is None and _known(workspace):
        measure(workspace)
        job = workspace.jobs[KIND]
        job.wait(2.0)  # no measurement, files are read; most folders need less
    shown = None if job is None else job.snapshot()
    if job is not None and shown is not None and shown.active:
        jobs_view.progress(job, key="overview_calibrators")
        return
    if shown is not None:
        jobs_view.failure(shown)
    rows = shown.result if shown is not None else None
    if rows:
        _table(workspace, rows, samples)
        return
    st.write(
        f"Every op in int8 with the ranges of one calibrator, for each of {len(specs)} "
        f"calibrators, and once with a single weight scale per tensor for comparison: "
        f"{len(specs) + 1} measurements on {samples:,} evaluation samples."
    )
    st.button(
        "Measure all calibrators",
        key="overview_measure",
        type="primary",
        on_click=measure,
        args=(workspace,),
    )


def _known(workspace: Workspace) -> bool:
    """Whether the run folder has the outputs of so many recipes that repeating them is quick."""
    run = workspace.opened.session.run
    kept = 0 if run is None else len(list(run.path.glob("outputs-*.npz")))
    return kept > len(workspace.opened.calibration.specs)


def measure(workspace: Workspace) -> None:
    """Start measuring every calibrator; for callbacks."""
    work = background.calibrators(workspace.opened.session)
    workspace.submit(KIND, "calibrators", work)


def _table(workspace: Workspace, rows: tuple[CalibratorRow, ...], samples: int) -> None:
    best = next(row for row in rows if row.best)
    recipe = workspace.recipe
    ties = sum(row.tied for row in rows) - 1
    said = f"**{best.calibrator}** has the least divergence from float"
    if ties:
        said += f" among the {ties + 1} that the metric cannot tell apart"
    st.write(f"{said}. Measured on {samples:,} evaluation samples, everything int8.")
    st.button(
        f"Use {best.calibrator} for the draft",
        key="overview_use",
        on_click=use,
        args=(workspace, best.calibrator),
        disabled=_has(workspace, best.calibrator),
        help="Replaces all ranges of the draft; what is left in float stays so"
        if not _has(workspace, best.calibrator)
        else "The draft has exactly these ranges",
    )
    metric = workspace.opened.session.metric
    table = tables.calibrators_table(rows)
    unit = {"fraction": "%"}.get(metric.unit, metric.unit)
    digits = "%.4g"
    if metric.unit == "fraction":
        digits = "%.2f"
        table = table.assign(value=100 * table["value"])
    heading = f"{metric.title} ({unit})" if unit else metric.title
    st.dataframe(
        table,
        hide_index=True,
        column_config=COLUMNS | {"value": _number(heading, format=digits)},
        key="overview_calibrators_table",
        alt="One row per calibrator with its measured metric",
    )
    now = len({r.calibrator for r in recipe.ranges})
    st.caption(
        f"The draft's ranges come from {recipe.calibrator}"
        + (" and others, chosen tensor by tensor." if now > 1 else ".")
        + " Changes are relative to float."
        + (" Measured with the model's own weights, not the draft's." if recipe.weights else "")
    )


def _has(workspace: Workspace, calibrator: str) -> bool:
    return _with_ranges(workspace, calibrator) == workspace.recipe


def use(workspace: Workspace, calibrator: str) -> None:
    """Give the draft one calibrator's ranges; for callbacks."""
    workspace.apply(_with_ranges(workspace, calibrator), f"{calibrator} ranges everywhere")


def _with_ranges(workspace: Workspace, calibrator: str) -> Recipe:
    recipe = workspace.recipe
    grid = profile(recipe.profile).activation_grid(recipe.activation_bits)
    ranges = workspace.opened.calibration_of(recipe).ranges(calibrator, grid)
    return replace(recipe, calibrator=calibrator, ranges=ranges)
