"""What the Ranges page shows of one operand under the draft, and the changes it can make to it.

Values and pure functions; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from qviz.affine import Grid
from qviz.calibrators import Candidate, ClipRange, candidates, clip_range
from qviz.diagnosis import Finding, diagnose
from qviz.errors import RangeError
from qviz.graph import Operand
from qviz.histogram import Histogram, empty
from qviz.histogram_density import density
from qviz.recipe import Decision, Recipe, TensorRange, activation_grid, resolve
from qviz.ui.chart import Limits
from qviz.ui.models import Opened


@dataclass(frozen=True, eq=False)
class View:
    """One activation tensor under a recipe.

    Attributes:
        operand: what reads it.
        decision: whether that is int8, and at how many bits.
        grid: of its codes.
        histogram: of its values; empty where calibration never reached it.
        candidates: what the calibrators would choose on that grid.
        current: the range of the recipe with what it costs, None without a range.
        weights: key of the weights that the values come from.
    """

    operand: Operand
    decision: Decision
    grid: Grid
    histogram: Histogram
    candidates: tuple[Candidate, ...]
    current: Candidate | None
    weights: str = ""

    @property
    def tensor(self) -> str:
        """The tensor whose range it is."""
        return self.operand.tensor

    @property
    def best(self) -> Candidate | None:
        """The candidate with the least expected error."""
        return min(self.candidates, key=lambda one: one.mse, default=None)

    @property
    def shown(self) -> tuple[Candidate, ...]:
        """The candidates, and the recipe's range if it is none of them."""
        if self.current is None or self.current in self.candidates:
            return self.candidates
        return (*self.candidates, self.current)


def view(opened: Opened, recipe: Recipe, operand: Operand) -> View:
    """Look at an activation operand under a recipe.

    Raises:
        RecipeError: the recipe does not fit the model.
    """
    decision = resolve(recipe, opened.session.graph)[operand.name]
    grid = activation_grid(recipe, opened.session.graph, operand.tensor, decision.bits)
    histogram = opened.calibration_of(recipe).histograms.get(operand.tensor) or empty()
    rows = of_tensor(opened, recipe, operand.tensor, grid)
    found = recipe.range_of.get(operand.tensor)
    current = None
    if found is not None and histogram.finite:
        current = custom(histogram, found.lo, found.hi, grid)
        named = next((one for one in rows if one.calibrator == found.calibrator), None)
        if named is not None and named.range == current.range:
            current = named
        elif named is None:  # a calibrator that is not among the candidates
            current = replace(current, calibrator=found.calibrator)
    return View(operand, decision, grid, histogram, rows, current, recipe.weights)


def of_tensor(opened: Opened, recipe: Recipe, tensor: str, grid: Grid) -> tuple[Candidate, ...]:
    """The candidates of one tensor on any grid, with a recipe's weights; made once."""
    found = opened.calibration_of(recipe)
    if grid == found.grid:
        return found.candidates.get(tensor, ())
    histogram = found.histograms.get(tensor)
    if histogram is None or not histogram.finite:
        return ()
    return opened.memo(
        f"candidates {tensor} {grid} {recipe.weights}",
        lambda: candidates(histogram, grid, found.specs),
    )


def custom(histogram: Histogram, lo: float, hi: float, grid: Grid) -> Candidate:
    """A range that a person chose: it holds 0, and is mirrored on a symmetric grid.

    Raises:
        RangeError: an end is not a number, or ``lo`` is above ``hi``.
    """
    # checked here, so that the message speaks of the range and not of a spec
    wanted = ClipRange(lo, hi)
    (made,) = candidates(histogram, grid, [f"fixed:{wanted.lo!r}:{wanted.hi!r}"])
    return replace(made, calibrator="fixed")


def findings(opened: Opened, shown: View) -> tuple[Finding, ...]:
    """What is special about the tensor; worked out once."""
    return opened.memo(
        f"findings {shown.tensor} {shown.grid} {shown.weights}",
        lambda: diagnose(shown.histogram, shown.grid, shown.candidates),
    )


def limits(opened: Opened, shown: View) -> Limits | None:
    """What the chart needs to let the range be dragged; None where there is nothing to drag."""
    current, histogram = shown.current, shown.histogram
    drawn = opened.memo(
        f"density {shown.tensor} {shown.grid} {shown.weights}",
        lambda: drawn_density(histogram, shown.grid),
    )
    if current is None or drawn is None:
        return None
    best = shown.best
    return Limits(
        lo=current.range.lo,
        hi=current.range.hi,
        mirrored=shown.grid.symmetric,
        left=histogram.min < 0,
        cost={
            "clipped_fraction": current.clipped_fraction,
            "step": current.scale,
            "mse": current.mse,
            "clipping_mse": current.clipping_mse,
            "rounding_mse": current.rounding_mse,
            "sqnr_db": _number(current.sqnr_db),
        },
        density=drawn,
        best=None if best is None else {"name": best.calibrator, "sqnr_db": _number(best.sqnr_db)},
    )


def drawn_density(histogram: Histogram, grid: Grid) -> dict[str, Any] | None:
    """The density as ``ranges_cost.js`` reads it, None without values other than 0.

    The running sums are left out: the browser makes the same ones.
    """
    found = density(histogram) if histogram.finite else None
    if found is None:
        return None
    return {
        "first": found.first,
        "width": found.width,
        "counts": found.pieces[0, 1:-1].astype(int).tolist(),
        "low": histogram.min,
        "high": histogram.max,
        "splits": [_number(split) for split in found.splits],
        "finite": histogram.finite,
        "total_squares": histogram.total_squares,
        "symmetric": grid.symmetric,
        "quant_min": grid.quant_min,
        "quant_max": grid.quant_max,
    }


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def like(opened: Opened, operand: Operand) -> tuple[str, ...]:
    """The tensors read by ops of the same type, in execution order."""
    graph = opened.session.graph
    kind = graph.ops[operand.op].type
    wanted = {
        o.tensor
        for op in graph.quantizable
        if op.type == kind
        for o in op.operands
        if o.kind == "activation"
    }
    return tuple(name for name in graph.observed if name in wanted)


def with_calibrator(
    opened: Opened, recipe: Recipe, calibrator: str, tensors: Iterable[str]
) -> Recipe:
    """The recipe with one calibrator's ranges for these tensors; one without data keeps none.

    Raises:
        RangeError: the calibrator does not exist.
    """
    graph = opened.session.graph
    decisions = resolve(recipe, graph)
    bits = {o.tensor: decisions[o.name].bits for o in reversed(graph.operands.values())}
    new: dict[str, TensorRange] = {}
    for tensor in tensors:
        grid = activation_grid(recipe, graph, tensor, bits[tensor])
        if (found := _range(opened, recipe, tensor, calibrator, grid)) is not None:
            new[tensor] = TensorRange(tensor, found.lo, found.hi, calibrator)
    kept = [new.pop(old.tensor, old) for old in recipe.ranges]
    return replace(recipe, ranges=(*kept, *new.values()))


def with_everywhere(opened: Opened, recipe: Recipe, calibrator: str) -> Recipe:
    """The recipe with one calibrator's ranges for all tensors; what is float stays float."""
    changed = with_calibrator(opened, recipe, calibrator, opened.session.graph.observed)
    return replace(changed, calibrator=calibrator)


def usual(opened: Opened, recipe: Recipe, tensor: str, grid: Grid) -> str | None:
    """The calibrator that a reset goes back to: the recipe's own, if it can make a range."""
    for calibrator in (recipe.calibrator, "mse"):
        try:
            if _range(opened, recipe, tensor, calibrator, grid) is not None:
                return calibrator
        except RangeError:  # a recipe from elsewhere may name what does not exist here
            continue
    return None


def _range(
    opened: Opened, recipe: Recipe, tensor: str, calibrator: str, grid: Grid
) -> ClipRange | None:
    histogram = opened.calibration_of(recipe).histograms.get(tensor)
    if histogram is None or not histogram.finite:
        return None
    rows = of_tensor(opened, recipe, tensor, grid)
    found = next((one.range for one in rows if one.calibrator == calibrator), None)
    return found or clip_range(histogram, calibrator, grid)
