"""What one pass over the calibration data gave, and which calibrator does best with it.

Collect once, decide many times: the histograms are the same for every calibrator, bit width and
profile; candidates are pure functions of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from qviz.affine import Grid
from qviz.calibrators import DEFAULT_CANDIDATES, Candidate, candidates, clip_range
from qviz.data import Data, overlap
from qviz.errors import RecipeError
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.intervals import Interval, tie_groups
from qviz.profiles import profile
from qviz.recipe import Recipe, TensorRange

#: Fewer samples than this leave the tails of the ranges to chance (AMCT advises 16 to 32 images,
#: NVIDIA 512 to 1024).
FEW_CALIBRATION_SAMPLES = 32
#: Fewer samples than this cannot tell a drop of a few per cent from noise.
FEW_EVALUATION_SAMPLES = 100
#: An evaluation value this many times the calibrated extreme is far outside.
FAR_OUTSIDE = 1.5


class _Candidates(Mapping[str, tuple[Candidate, ...]]):
    """Tensor name -> candidates, computed once when looked up."""

    def __init__(
        self, histograms: Mapping[str, Histogram], grid: Grid, specs: tuple[str, ...]
    ) -> None:
        self._histograms = {name: h for name, h in histograms.items() if h.finite}
        self._grid, self._specs = grid, specs
        self._found: dict[str, tuple[Candidate, ...]] = {}

    def __getitem__(self, name: str) -> tuple[Candidate, ...]:
        if name not in self._found:
            self._found[name] = candidates(self._histograms[name], self._grid, self._specs)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._histograms)

    def __len__(self) -> int:
        return len(self._histograms)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Histograms of all observed tensors.

    Attributes:
        histograms: by tensor name, in execution order.
        samples: number of calibration samples.
        grid: of the candidates.
        specs: the calibrators that make them.
        nonnegative: tensors that no value can be below zero of (they come from ReLU, softmax ...).
    """

    histograms: Mapping[str, Histogram]
    samples: int
    grid: Grid
    specs: tuple[str, ...] = DEFAULT_CANDIDATES
    nonnegative: frozenset[str] = frozenset()

    @cached_property
    def candidates(self) -> Mapping[str, tuple[Candidate, ...]]:
        """Every candidate range of every tensor that saw data, with what it costs.

        Computed per tensor when first looked up: one is a matter of milliseconds, all those of a
        large model are not.
        """
        return _Candidates(self.histograms, self.grid, self.specs)

    @property
    def least_error(self) -> dict[str, str]:
        """Tensor -> the calibrator with the least expected squared error."""
        return {
            name: min(rows, key=lambda c: c.mse).calibrator
            for name, rows in self.candidates.items()
        }

    def ranges(self, calibrator: str, grid: Grid | None = None) -> tuple[TensorRange, ...]:
        """The range of every tensor that saw data, by one calibrator."""
        found = []
        for name, h in self.histograms.items():
            if h.finite:
                own = (grid or self.grid).for_values(nonnegative=name in self.nonnegative)
                chosen = clip_range(h, calibrator, own)
                found.append(TensorRange(name, chosen.lo, chosen.hi, calibrator))
        return tuple(found)


def make_recipe(
    calibration: Calibration,
    calibrator: str,
    *,
    profile_name: str = "cuda",
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
) -> Recipe:
    """A recipe that quantizes everything with one calibrator's ranges.

    Raises:
        RangeError: unknown calibrator, or a bit width outside 2 to 8.
        RecipeError: unknown profile.
    """
    grid = profile(profile_name).activation_grid(activation_bits)
    return Recipe(
        profile=profile_name,
        calibrator=calibrator,
        per_channel=per_channel,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        ranges=calibration.ranges(calibrator, grid),
    )


@dataclass(frozen=True)
class CalibratorRow:
    """One calibrator measured on the evaluation data.

    Attributes:
        calibrator: its spec.
        per_channel: weights per channel; False is there for comparison only.
        value: the metric.
        change: relative change from float.
        interval: 95 % paired bootstrap interval of it.
        divergence: mean distance of the outputs from float's.
        tied: the data cannot tell it from the best by the metric.
        best: chosen: the least divergence among those tied for the best.
        tensors_won: tensors for which its range has the least expected squared error.
    """

    calibrator: str
    per_channel: bool
    value: float
    change: float
    interval: Interval
    divergence: float
    tied: bool
    best: bool
    tensors_won: int


def compare_calibrators(
    calibration: Calibration,
    measure: Callable[[Recipe], Evaluation],
    recipe_for: Callable[[str], Recipe],
) -> tuple[CalibratorRow, ...]:
    """Measure every candidate calibrator, and max with per-tensor weights beside them.

    The best is the one with the least divergence among those that the metric cannot tell from its
    best: on a few hundred samples a higher accuracy alone is mostly luck.

    Raises:
        RecipeError: there is no calibrator to compare.
    """
    if not calibration.specs:
        raise RecipeError("calibrators", "none was given", "Name at least one")
    recipes = [recipe_for(spec) for spec in calibration.specs]
    recipes.append(replace(recipe_for("max"), per_channel=False))
    results = [measure(r) for r in recipes]
    best, tied = best_of(results[: len(calibration.specs)])
    won = list(calibration.least_error.values())
    return tuple(
        CalibratorRow(
            calibrator=recipe.calibrator,
            per_channel=recipe.per_channel,
            value=result.value,
            change=result.change,
            interval=result.interval,
            divergence=result.divergence,
            tied=i in tied,
            best=i == best,
            tensors_won=won.count(recipe.calibrator) if recipe.per_channel else 0,
        )
        for i, (recipe, result) in enumerate(zip(recipes, results, strict=True))
    )


def best_of(results: Sequence[Evaluation]) -> tuple[int, frozenset[int]]:
    """The least divergence among those that the metric cannot tell from its best, and all those.

    Args:
        results: at least one, of the same samples.

    Returns:
        Index of the best, and the indices of all that are tied with it.
    """
    ranked = sorted(range(len(results)), key=lambda i: (results[i].drop, results[i].divergence))
    groups = tie_groups([results[i].scores for i in ranked])
    tied = frozenset(i for i, group in zip(ranked, groups, strict=True) if group == 0)
    return min(tied, key=lambda i: (results[i].divergence, i)), tied


def data_warnings(
    calibration: Data, evaluation: Data | None, training: Data | None = None
) -> list[str]:
    """What is doubtful about the data, in words."""
    found = []
    if calibration.count < FEW_CALIBRATION_SAMPLES:
        found.append(
            f"{calibration.name}: {calibration.count} calibration samples are few; ranges settle "
            f"from {FEW_CALIBRATION_SAMPLES} on, better 512"
        )
    if evaluation is None:
        return found
    if evaluation.count < FEW_EVALUATION_SAMPLES:
        found.append(
            f"{evaluation.name}: with {evaluation.count} evaluation samples a drop of a few per "
            "cent cannot be told from noise"
        )
    if shared := overlap(calibration, evaluation):
        found.append(
            f"{shared} of {evaluation.count} evaluation samples are calibration samples too: the "
            "measured drop is too good for them. Use other data to evaluate"
        )
    if training is not None and (shared := overlap(training, evaluation)):
        found.append(
            f"{shared} of {evaluation.count} evaluation samples are training samples too: what "
            "training wins on them says nothing. Use other data to evaluate"
        )
    return found


def range_warnings(
    histograms: Mapping[str, Histogram], seen: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Tensors whose evaluation values lie far outside what calibration saw.

    Args:
        histograms: of calibration.
        seen: (smallest, largest) value in evaluation by tensor.
    """
    found = []
    for name, (low, high) in seen.items():
        h = histograms.get(name)
        if h is None or not h.finite:
            continue
        for value, limit in ((high, h.max), (-low, -h.min)):
            span = max(abs(limit), h.amax / 2)
            if value > limit and value - limit > (FAR_OUTSIDE - 1) * span:
                found.append(
                    f"tensor {name}: evaluation reaches {low:.4g} to {high:.4g}, calibration saw "
                    f"only {h.min:.4g} to {h.max:.4g}. Calibrate with data like the evaluation's"
                )
                break
    return found


def unseen_warnings(graph: Graph, histograms: Mapping[str, Histogram]) -> list[str]:
    """Tensors that no calibration sample reached."""
    return [
        f"tensor {name}: never saw data, its readers stay float"
        for name in graph.observed
        if name not in histograms or not histograms[name].finite
    ]


def specs_with(specs: Sequence[str], calibrator: str) -> tuple[str, ...]:
    """The specs, with ``calibrator`` added if it is not among them."""
    return tuple(specs) if calibrator in specs or calibrator == "auto" else (*specs, calibrator)
