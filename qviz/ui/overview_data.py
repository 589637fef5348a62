"""What the overview shows of a draft: made once per recipe, whoever looks and however often."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from qviz import cli_print as show
from qviz.affine import Grid
from qviz.coverage import CoverageRow, coverage
from qviz.graph import Graph, Op
from qviz.histogram_cost import ClipRange, describe
from qviz.node_data import OpNumber, op_numbers
from qviz.recipe import Decision, Recipe, activation_grid, resolve
from qviz.sensitivity import Sensitivity
from qviz.tables_overview import Entering, mini_histogram, overview_table
from qviz.ui.models import Opened
from qviz.ui.workspace import Workspace

#: Drafts that are kept per model.
KEPT = 16


@dataclass(frozen=True, eq=False)
class Draft:
    """One recipe on one model, as the overview shows it.

    Attributes:
        rows: one per op, in execution order.
        entering: by op, the tensor that enters it and loses most.
        table: the same as a table.
        details: lines under an op's name in the picture, by op.
    """

    rows: tuple[CoverageRow, ...]
    entering: Mapping[str, Entering]
    table: pd.DataFrame
    details: Mapping[str, str]

    @property
    def int8_ops(self) -> int:
        """How many ops run in int8."""
        return sum(row.status == "int8" for row in self.rows)

    @property
    def int8_macs(self) -> float:
        """Share of the multiply-accumulates that run in int8; 0 if there are none."""
        total = sum(row.macs for row in self.rows)
        return sum(r.macs for r in self.rows if r.status == "int8") / total if total else 0.0

    @property
    def worst(self) -> tuple[str, Entering] | None:
        """The op with the lowest SQNR, and what enters it."""
        found = [(one.sqnr_db, op) for op, one in self.entering.items()]
        return (min(found)[1], self.entering[min(found)[1]]) if found else None


def draft(workspace: Workspace) -> Draft:
    """The workspace's draft, made if it is new."""
    opened, recipe = workspace.opened, workspace.recipe
    known: OrderedDict[Recipe, Draft] = opened.memo("overview", OrderedDict)
    found = known.get(recipe)
    if found is None:
        found = known[recipe] = _make(opened, recipe)
        while len(known) > KEPT:
            known.popitem(last=False)
    return found


def _make(opened: Opened, recipe: Recipe) -> Draft:
    graph = opened.session.graph
    rows = coverage(graph, recipe)
    decisions = resolve(recipe, graph)
    entering = {
        op.name: one
        for op in graph.quantizable
        if (one := _entering(opened, recipe, op, decisions)) is not None
    }
    histograms = opened.calibration_of(recipe).histograms
    bars = opened.memo(
        f"overview_bars {recipe.weights}",
        lambda: {name: mini_histogram(h) for name, h in histograms.items()},
    )
    details = {row.op: _detail(row, entering.get(row.op)) for row in rows}
    return Draft(rows, entering, overview_table(rows, entering, bars), details)


def _entering(
    opened: Opened, recipe: Recipe, op: Op, decisions: Mapping[str, Decision]
) -> Entering | None:
    """Of the int8 inputs of an op the one with the lowest SQNR; of all if none is int8."""
    reads = [o for o in op.operands if o.kind == "activation" and o.tensor in recipe.range_of]
    reads = [o for o in reads if decisions[o.name].int8] or reads
    found = []
    for operand in reads:
        histogram = opened.calibration_of(recipe).histograms.get(operand.tensor)
        if histogram is None or not histogram.finite:
            continue
        clip = recipe.range_of[operand.tensor]
        sqnr = _sqnr_db(opened, recipe, operand.tensor, decisions[operand.name].bits)
        found.append(Entering(operand.tensor, clip.lo, clip.hi, sqnr))
    return min(found, key=lambda one: one.sqnr_db, default=None)


def _sqnr_db(opened: Opened, recipe: Recipe, tensor: str, bits: int) -> float:
    """Expected SQNR of a tensor's range, computed once per range."""
    clip = recipe.range_of[tensor]
    grid = activation_grid(recipe, opened.session.graph, tensor, bits)
    known: dict[tuple[str, str, float, float, Grid], float] = opened.memo("overview_sqnr", dict)
    key = (recipe.weights, tensor, clip.lo, clip.hi, grid)
    if key not in known:
        histogram = opened.calibration_of(recipe).histograms[tensor]
        known[key] = describe(histogram, ClipRange(clip.lo, clip.hi), grid).sqnr_db
    return known[key]


def _detail(row: CoverageRow, entering: Entering | None) -> str:
    shape = " × ".join("?" if size < 0 else str(size) for size in row.shape)
    lines = [f"{row.type}, output {shape or 'one number'} per sample"]
    if row.macs or row.parameters:
        lines.append(f"{show.count(row.macs)} MACs, {show.count(row.parameters)} parameters")
    if entering is not None:
        lines.append(
            f"reads {entering.tensor}: {entering.lo:.4g} to {entering.hi:.4g}, "
            f"SQNR {entering.sqnr_db:.1f} dB"
        )
    lines.append(f"{row.status}: {row.reason}" if row.reason else row.status)
    return "<br>".join(lines)


def numbers(workspace: Workspace) -> tuple[OpNumber, ...]:
    """Everything the network can be coloured by; with sensitivity as far as it is measured."""
    now = draft(workspace)
    return op_numbers(
        now.rows, {op: one.sqnr_db for op, one in now.entering.items()}, sensitivity(workspace)
    )


def sensitivity(workspace: Workspace) -> Sensitivity | None:
    """What the workspace's last ranking has found so far."""
    job = workspace.jobs.get("sensitivity")
    if job is None:
        return None
    shown = job.snapshot()
    found = shown.result or shown.partial
    return found if isinstance(found, Sensitivity) else None


def weight_bytes(graph: Graph, recipe: Recipe | None) -> int:
    """Bytes of all weights and constants: estimated, a file adds names and padding.

    An int8 weight is as many bits as the recipe says, with a float32 scale per output channel (one
    if the recipe is per tensor); everything else is as it is in the model. A weight that two ops
    share is int8 if both read it so.
    """
    attributes = {n.target for n in graph.module.graph.nodes if n.op == "get_attr"}
    tensors = dict(graph.module.named_parameters()) | dict(graph.module.named_buffers())
    total = sum(t.numel() * t.element_size() for k, t in tensors.items() if k in attributes)
    if recipe is None:
        return total
    decisions = resolve(recipe, graph)
    shared: dict[str, list[tuple[Decision, int]]] = {}
    for operand in graph.operands.values():
        attribute = graph.weights.get(operand.tensor)
        if operand.kind == "weight" and attribute in tensors and attribute in attributes:
            axis = operand.axis if recipe.per_channel else None
            scales = 1 if axis is None else tensors[attribute].shape[axis]
            shared.setdefault(attribute, []).append((decisions[operand.name], scales))
    for attribute, uses in shared.items():
        if all(decision.int8 for decision, _ in uses):
            weight = tensors[attribute]
            bits = max(decision.bits for decision, _ in uses)
            packed = math.ceil(weight.numel() * bits / 8) + 4 * max(s for _, s in uses)
            total += packed - weight.numel() * weight.element_size()
    return total
