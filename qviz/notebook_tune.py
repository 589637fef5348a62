"""What a cell shows that ends in something of winning accuracy back, and what of it while it runs.

made = session.tune("bias_correction", recipe)       # Tuning: before, after, what changed
session.remedies(recipe)                             # Remedies: op by op
session.auto()                                       # AutoResult: step by step
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qviz.auto import AutoEvent, AutoResult, AutoStep
from qviz.digits import duration, number, percent, scored, span
from qviz.notebook_html import Table, View
from qviz.search.widths import Frontier
from qviz.tables_tune import changes_table, comparable, remedies_table
from qviz.tune.qat_options import Epoch
from qviz.tune.remedy import Remedies, fall_of
from qviz.tune.result import Tuning

#: Rows of a running job that are shown.
ROWS = 12


def tuning_view(made: Tuning) -> View:
    """One method applied: before and after with the interval, noise named, what changed."""
    before, after = made.before, made.after
    text = f"{made.title}: {len(made.changes):,} changes in {duration(made.seconds)}"
    notes = []
    if before is None or after is None:
        text += "; not measured, there are no evaluation data"
    else:
        metric = after.metric
        text += f"; {metric.name} {scored(before.value, metric)} → {scored(after.value, metric)}"
        text += f", {percent(made.gain, signed=True)} (95 % {span(made.interval)})"
        text += ": noise" if made.noise else ""
        fall, ends = fall_of(before, after, made.seed)
        said = f"Divergence from float ({after.divergence_name}) {number(before.divergence)} → "
        said += f"{number(after.divergence)}, falls by {percent(fall)}"
        notes.append(said + (f" (95 % {span(ends)})." if ends is not None else "."))
        notes.append(f"Drop from float {percent(before.drop)} → {percent(after.drop)}.")
    notes += [f"{note}." for note in made.notes]
    counts = f"Seed {made.seed}; fitted on at most {made.calibration:,} calibration samples"
    counts += f", trained on at most {made.training:,}" if made.training else ""
    notes.append(f"{counts}, measured on {made.evaluation:,} evaluation samples.")
    notes.append("The recipe before is untouched; the new one is `made.recipe`.")
    groups = comparable(made.changes)
    unit = next(iter(groups), None)

    def figure() -> object:
        from qviz.figures_tune import changes_figure

        assert unit is not None  # else there is no figure
        return changes_figure(groups[unit], unit)

    table = Table(changes_table(made.changes), "qviz.tables_tune.changes_table(made.changes)")
    return View(text, tuple(notes), (table,), None if unit is None else figure)


def remedies_view(found: Remedies) -> View:
    """What helps which op, tried on each alone."""

    def figure() -> object:
        from qviz.figures_remedies import remedies_figure

        return remedies_figure(found)

    notes = []
    if found.together is not None:
        notes.append("The best of every op together: `remedies.together.recipe`.")
    table = Table(remedies_table(found), "qviz.tables_tune.remedies_table(remedies)")
    return View(f"Remedies: {found.summary}", tuple(notes), (table,), figure)


def auto_view(found: AutoResult) -> View:
    """An escalation: what was tried, what is best, and the commands that repeat it."""
    ended = f"{found.ended[:1].upper()}{found.ended[1:]}"
    text = f"{ended}: {found.measured} variants measured in {duration(found.seconds)}"
    notes = [] if found.best is None else [f"Best: {found.best.sentence}.", "`result.recipe`"]
    notes += [f"{note}." for note in found.notes]
    notes += [f"`{command}`" for command in found.commands]
    return View(text, tuple(notes), (Table(steps_table(found.steps)),))


def frontier_view(found: Frontier) -> View:
    """Bit allocations along a sweep of limits."""
    from qviz.tables_allocation import frontier_table

    def figure() -> object:
        from qviz.figures_allocation import frontier_figure

        return frontier_figure(found)

    text = f"Frontier: {len(found.points)} allocations, {len(found.greedy)} greedy ones"
    if found.spearman is not None:
        text += f"; predicted against measured, Spearman {found.spearman:.3f}"
    table = Table(frontier_table(found), "qviz.tables_allocation.frontier_table(frontier)")
    return View(text, tables=(table,), figure=figure)


def steps_table(steps: Sequence[AutoStep]) -> pd.DataFrame:
    """One row per step of an escalation."""
    rows = [(one.stage, one.outcome, one.sentence) for one in steps]
    return pd.DataFrame(rows, columns=["stage", "outcome", "what it did"])


def epochs_table(epochs: Sequence[Epoch]) -> pd.DataFrame:
    """One row per epoch of a training."""
    rows = [(e.number, e.loss, e.held_out_loss, e.lr, e.steps, e.best) for e in epochs]
    names = ["epoch", "training loss", "held-out loss", "learning rate", "steps", "best so far"]
    return pd.DataFrame(rows, columns=names).astype(
        {"training loss": "float64", "held-out loss": "float64"}
    )


def partial_table(partial: object) -> pd.DataFrame | None:
    """What a running job of this kind has published so far; None if it is of another kind."""
    if isinstance(partial, Remedies):
        return remedies_table(partial).tail(ROWS)
    if isinstance(partial, AutoEvent):
        return steps_table(partial.steps[-ROWS:])
    if isinstance(partial, tuple) and partial and isinstance(partial[0], Epoch):
        return epochs_table(partial[-ROWS:])
    return None
