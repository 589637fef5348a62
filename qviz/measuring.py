"""Measuring: a model with its data, and what every recipe scores on them.

Each finished piece of work is kept in memory and, if there is a run folder, on disk. ``Session``
(session.py) builds the longer verbs on it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from torch import Tensor

from qviz import calibration as calibrating
from qviz import records
from qviz.calibration import Calibration, CalibratorRow
from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.coverage import CoverageRow, coverage
from qviz.data import Data
from qviz.errors import DataError, MetricError
from qviz.evaluate import Evaluation, Outputs, compare, extremes, outputs
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.live import Live
from qviz.loading import LoadedModel
from qviz.metrics import Metric
from qviz.observe import observe
from qviz.profiles import profile
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.simulate import Simulator
from qviz.store import RunFolder
from qviz.tunings import Tunings
from qviz.weights import TunedWeights


class Measuring:
    """A model, its data, and what is measured of them; ``Session`` adds the verbs.

    Attributes:
        model: where the model came from.
        graph: the captured model.
        calibration_data: the samples ranges come from.
        evaluation_data: the samples that measure, None if there are none.
        metric: what is measured.
        run: the run folder, None if nothing is kept on disk.
        memory_budget: bytes that kept activations may take; can be set.
        warnings: what is doubtful about data or ranges, in words; grows as verbs run.
        training_data: for methods that train, None if there is none.
    """

    def __init__(
        self,
        model: LoadedModel,
        graph: Graph,
        calibration: Data,
        evaluation: Data | None,
        metric: Metric,
        *,
        run: RunFolder | None,
        profile_name: str,
        batch_size: int,
        memory_budget: int,
        seed: int,
        training: Data | None = None,
    ) -> None:
        profile(profile_name)
        self.model = model
        self.graph = graph
        self.calibration_data = calibration
        self.evaluation_data = evaluation
        self.training_data = training
        self.metric = metric
        self.run = run
        self.warnings: list[str] = calibrating.data_warnings(calibration, evaluation, training)
        self._profile = profile_name
        self._batch_size = batch_size
        self.memory_budget = memory_budget
        self._seed = seed
        self._simulator = Simulator(graph)
        self._tunings = Tunings(self._simulator, run)
        self._names = records.graph_key(graph)
        self._lock = threading.RLock()
        # of its own: the app measures a recipe while a long verb holds the other
        self._reference_lock = threading.RLock()
        self._calibration: Calibration | None = None
        self._reference: Outputs | None = None
        self._evaluations: dict[str, Evaluation] = {}

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self._seed

    @property
    def profile(self) -> str:
        """Whose rules a recipe follows unless it says otherwise."""
        return self._profile

    @property
    def batch_size(self) -> int:
        """Samples per forward pass."""
        return self._batch_size

    @property
    def simulator(self) -> Simulator:
        """Runs the graph under a recipe, with the model's own weights."""
        return self._simulator

    def simulator_of(self, recipe: Recipe | None) -> Simulator:
        """Runs the graph with the weights that a recipe was made for.

        Raises:
            RecipeError: the recipe names tuned weights that are not known here.
        """
        return self._tunings.simulator(recipe)

    def graph_of(self, recipe: Recipe | None) -> Graph:
        """The graph with the weights that a recipe was made for; ``RecipeError`` as above."""
        return self.simulator_of(recipe).graph

    def tuned(self, recipe: Recipe | None) -> TunedWeights:
        """The weights that a recipe was made for; ``RecipeError`` as above."""
        return self._tunings.weights(recipe)

    def add_weights(self, tuned: TunedWeights) -> str:
        """Keep tuned weights; returns the key for ``Recipe.weights``.

        Raises:
            RecipeError: they are of another model.
            ShapeError: likewise.
        """
        return self._tunings.add(tuned)

    def histograms_of(
        self, recipe: Recipe, progress: OnProgress | None = None
    ) -> Mapping[str, Histogram]:
        """Histograms of the calibration data with the weights that a recipe was made for."""
        if not recipe.weights:
            return (self._calibration or self.calibrate(progress=progress)).histograms
        data = self.calibration_data
        return self._tunings.histograms(
            recipe, lambda sim: observe(sim.program, data, progress=progress)
        )

    def coverage(self, recipe: Recipe | None = None) -> tuple[CoverageRow, ...]:
        """Every op: int8, float by choice, or float because of a named reason."""
        return coverage(self.graph, recipe)

    def calibrate(
        self,
        calibrators: Sequence[str] = DEFAULT_CANDIDATES,
        *,
        progress: OnProgress | None = None,
    ) -> Calibration:
        """One pass over the calibration data: every histogram, every candidate range.

        The pass is made once; later calls, and later runs of the same folder, use its histograms.

        Args:
            calibrators: specs of the candidates.
            progress: told how far it is.
        """
        with self._lock:
            grid = profile(self._profile).activation_grid(8)
            if self._calibration is None:
                histograms = records.read_histograms(self.run, self._names)
                if histograms is None:
                    data = self.calibration_data
                    histograms = observe(self._simulator.program, data, progress=progress)
                    records.write_histograms(self.run, self._names, histograms)
                self.warnings += calibrating.unseen_warnings(self.graph, histograms)
            else:
                histograms = dict(self._calibration.histograms)
            known = self._calibration
            if known is None or known.specs != tuple(calibrators):
                count = self.calibration_data.count
                tensors = self.graph.tensors.values()
                never = frozenset(t.name for t in tensors if t.nonnegative)
                self._calibration = Calibration(histograms, count, grid, tuple(calibrators), never)
            assert self._calibration is not None
            return self._calibration

    def recipe(
        self,
        calibrator: str = "auto",
        *,
        weight_bits: int = 8,
        activation_bits: int = 8,
        per_channel: bool = True,
        profile: str | None = None,
    ) -> Recipe:
        """A recipe with everything int8 and one calibrator's ranges; no new pass.

        Args:
            calibrator: a spec, ``percentile:99.99``; ``auto`` is what ``best_calibrator`` chose.
            weight_bits: 2 to 8.
            activation_bits: 2 to 8.
            per_channel: False is one scale per weight tensor, for comparison.
            profile: whose rules to follow; None is the session's.
        """
        found = self._calibration or self.calibrate()
        if calibrator == "auto":
            calibrator = next(r.calibrator for r in self.best_calibrator() if r.best)
        return calibrating.make_recipe(
            found,
            calibrator,
            profile_name=profile or self._profile,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            per_channel=per_channel,
        )

    def reference(self, *, progress: OnProgress | None = None) -> Outputs:
        """The float model's outputs on the evaluation data; computed once.

        On the way it is seen whether evaluation leaves the calibrated ranges.
        """
        with self._reference_lock:
            if self._reference is None:
                data = self._evaluation()
                seen: dict[str, tuple[float, float]] = {}
                self._reference = outputs(
                    self._simulator.program,
                    data,
                    batch_size=self._batch_size,
                    progress=progress,
                    watch=extremes(self._simulator.program, seen),
                )
                if self._calibration is not None:
                    histograms = self._calibration.histograms
                    self.warnings += calibrating.range_warnings(histograms, seen)
            return self._reference

    def evaluate(
        self, recipe: Recipe | None = None, *, progress: OnProgress | None = None
    ) -> Evaluation:
        """Measure a recipe on the evaluation data; None measures the float model itself.

        Measured once per recipe: the result is kept in the session and in the run folder.
        """
        key = "float" if recipe is None else records.digest(recipe, self._names)
        if key not in self._evaluations:
            reference = self.reference(progress=progress)
            made = self._outputs(recipe, reference, key, progress)
            self._evaluations[key] = compare(made, reference, self.metric, seed=self._seed)
            records.write_evaluation(self.run, key, recipe, self._evaluations[key])
        return self._evaluations[key]

    def live(self) -> Live:
        """Measures recipes within about a second, on the first samples of the evaluation data."""
        data = self._evaluation()
        return Live(
            self.simulator_of, data, self.metric, batch_size=self._batch_size, seed=self._seed
        )

    def _outputs(
        self, recipe: Recipe | None, reference: Outputs, key: str, progress: OnProgress | None
    ) -> Tensor:
        if recipe is None:
            return reference.values
        stored = records.read_outputs(self.run, key)
        if stored is not None and stored.shape == reference.values.shape:
            return stored
        simulator = self.simulator_of(recipe)
        made = outputs(
            simulator.program,
            self._evaluation(),
            simulator.edits(recipe),
            batch_size=self._batch_size,
            progress=progress,
        ).values
        records.write_outputs(self.run, key, made)
        return made

    def best_calibrator(self, *, progress: OnProgress | None = None) -> tuple[CalibratorRow, ...]:
        """Every candidate calibrator measured on the evaluation data, the best one marked."""
        with self._lock:
            found = self._calibration or self.calibrate(progress=progress)
            return calibrating.compare_calibrators(
                found, lambda r: self.evaluate(r, progress=progress), self.recipe
            )

    def _evaluation(self) -> Data:
        if self.evaluation_data is None:
            raise DataError("evaluation data", "are missing", "Give some with evaluation=")
        if self.metric.needs_labels and not self.evaluation_data.labelled:
            raise MetricError(
                self.metric.name,
                f"needs labels, {self.evaluation_data.name} has none",
                "Give targets, or measure agreement instead",
            )
        return self.evaluation_data

    def _check_target(self) -> None:
        """A relative drop needs a float score other than zero, on a scale with a zero."""
        value = self.evaluate(None).value
        if value == 0 or self.metric.unit == "dB":
            raise MetricError(
                self.metric.name,
                f"the float model scores {value:g} {self.metric.unit}".rstrip()
                + ", so a relative drop from it has no meaning",
                "Search with top1, agreement or a function of your own, R2 for instance",
            )
