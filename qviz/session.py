"""Session: the one stateful object - model, data, statistics, measurements, one lock.

The verbs of all faces, in the order of the work: ``calibrate``, ``recipe``, ``evaluate``,
``best_calibrator``, ``sensitivity``, ``search``, ``export``; ``opening.open`` makes a session. Each
finished piece of work is kept in memory and, if there is a run folder, on disk, so that repeating
a verb goes on where it stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

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
from qviz.live import Live
from qviz.loading import LoadedModel
from qviz.metrics import Metric
from qviz.observe import observe
from qviz.profiles import profile
from qviz.progress import OnProgress
from qviz.proxy import proxy
from qviz.recipe import Recipe
from qviz.search.skip import Method, SearchResult, SkipPoint, search
from qviz.sensitivity import (
    Granularity,
    Mode,
    Operands,
    Sensitivity,
    measure,
    targets_of,
    variant,
)
from qviz.simulate import Simulator
from qviz.store import RunFolder


class Session:
    """A model, its data and everything found out about them so far.

    Attributes:
        model: where the model came from.
        graph: the captured model.
        calibration_data: the samples ranges come from.
        evaluation_data: the samples that measure, None if there are none.
        metric: what is measured.
        run: the run folder, None if nothing is kept on disk.
        memory_budget: bytes that kept activations may take; can be set.
        warnings: what is doubtful about data or ranges, in words; grows as verbs run.
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
    ) -> None:
        profile(profile_name)
        self.model = model
        self.graph = graph
        self.calibration_data = calibration
        self.evaluation_data = evaluation
        self.metric = metric
        self.run = run
        self.warnings: list[str] = calibrating.data_warnings(calibration, evaluation)
        self._profile = profile_name
        self._batch_size = batch_size
        self.memory_budget = memory_budget
        self._seed = seed
        self._simulator = Simulator(graph)
        self._names = records.graph_key(graph)
        self._lock = threading.RLock()
        # of its own: the app measures a recipe while a long verb holds the other
        self._reference_lock = threading.RLock()
        self._calibration: Calibration | None = None
        self._reference: Outputs | None = None
        self._evaluations: dict[str, Evaluation] = {}

    @property
    def simulator(self) -> Simulator:
        """Runs the graph under a recipe."""
        return self._simulator

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
            self._simulator, data, self.metric, batch_size=self._batch_size, seed=self._seed
        )

    def _outputs(
        self, recipe: Recipe | None, reference: Outputs, key: str, progress: OnProgress | None
    ) -> Tensor:
        if recipe is None:
            return reference.values
        stored = records.read_outputs(self.run, key)
        if stored is not None and stored.shape == reference.values.shape:
            return stored
        made = outputs(
            self._simulator.program,
            self._evaluation(),
            self._simulator.edits(recipe),
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

    def proxy(
        self,
        recipe: Recipe,
        *,
        operands: Operands = "both",
        granularity: Granularity = "op",
        progress: OnProgress | None = None,
    ) -> dict[str, float]:
        """Estimated divergence of each op by one gradient pass (see ``proxy.py``)."""
        with self._lock:
            groups = targets_of(recipe, self.graph, operands=operands, granularity=granularity)
            data, seed, sim = self._evaluation(), self._seed, self._simulator

            def make() -> dict[str, float]:
                edits = {k: sim.edits(variant(recipe, v, "only_this")) for k, v in groups.items()}
                return proxy(sim, data, edits, seed=seed, progress=progress)

            key = f"{records.digest(recipe, self._names)} {operands} {granularity} {seed}"
            return records.kept_proxy(self.run, key, make)

    def sensitivity(
        self,
        recipe: Recipe | None = None,
        *,
        mode: Mode = "only_this",
        operands: Operands = "both",
        granularity: Granularity = "op",
        on_rows: Callable[[Sensitivity], None] | None = None,
        progress: OnProgress | None = None,
    ) -> Sensitivity:
        """Rank ops by what quantizing each one does, worst first.

        Parts measured before (here, or by an earlier run in the same folder) are not repeated.

        Args:
            recipe: which operands are int8, and ranges; None is the best calibrator's.
            mode: ``only_this`` or ``all_but_this``.
            operands: ``both``, ``weights`` or ``activations``.
            granularity: ``op`` or ``operand``.
            on_rows: called with the ranking so far: first the proxy's, then as parts arrive.
            progress: told how far it is.
        """
        with self._lock:
            recipe = recipe or self.recipe()
            reference = self.reference(progress=progress)
            guess: Mapping[str, float] = {}
            if mode == "only_this":
                guess = self.proxy(
                    recipe, operands=operands, granularity=granularity, progress=progress
                )
            key = self.sweep_key(recipe, mode, operands, granularity)
            return measure(
                self._simulator,
                self._evaluation(),
                recipe,
                reference,
                self.metric,
                mode=mode,
                operands=operands,
                granularity=granularity,
                batch_size=self._batch_size,
                budget=self.memory_budget,
                proxy=guess,
                known=records.read_parts(self.run, key),
                save=lambda part: records.write_part(self.run, key, part),
                on_rows=on_rows,
                progress=progress,
            )

    def sweep_key(
        self, recipe: Recipe, mode: Mode, operands: Operands, granularity: Granularity
    ) -> str:
        """Under which name the run folder keeps the parts of a ranking."""
        # a part's samples depend on how the data was cut, its scores on the metric
        cut = f"{self._batch_size} {self.memory_budget}"
        what = f"{records.digest(recipe)} {self._names} {records.metric_key(self.metric)}"
        return f"{what} {mode} {operands} {granularity} {cut}"

    def search(
        self,
        recipe: Recipe | None = None,
        *,
        max_drop: float = 0.01,
        method: Method = "greedy",
        sensitivity: Sensitivity | None = None,
        on_point: Callable[[SkipPoint], None] | None = None,
        progress: OnProgress | None = None,
    ) -> SearchResult:
        """Leave the fewest ops in float that bring the metric within ``max_drop`` of float.

        Args:
            recipe: where to start; None is the best calibrator's.
            max_drop: relative, 0.01 is 1 %.
            method: ``greedy`` or ``bisect``.
            sensitivity: a ranking made before; None measures it if it is needed.
            on_point: called with each measured point.
            progress: told how far it is.
        """
        with self._lock:
            self._check_target()
            recipe = recipe or self.recipe()
            ranking = sensitivity or self.sensitivity(recipe, progress=progress)
            result = search(
                recipe,
                self.graph,
                ranking,
                lambda r: self.evaluate(r, progress=None),
                max_drop=max_drop,
                method=method,
                on_point=on_point,
                progress=progress,
            )
            if self.run is not None:
                self.run.write_json("search", asdict(result))
            return result

    def save(self, name: str, recipe: Recipe) -> None:
        """Write a recipe into the run folder as ``NAME.json``."""
        if self.run is not None:
            self.run.write_text(f"{name}.json", recipe.to_json())

    def export(
        self,
        recipe: Recipe | SearchResult,
        folder: str | Path,
        *,
        formats: Sequence[str] = ("checkpoint",),
        nearest_recipe: bool = False,
        refuse: Literal["raise", "report"] | None = None,
        on_result: Callable[[str, dict[str, Any]], None] | None = None,
        progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Write a recipe in the formats asked for: arguments and errors of ``qviz.export``."""
        from qviz.export import export

        chosen = recipe.recipe if isinstance(recipe, SearchResult) else recipe
        with self._lock:
            return export(self, chosen, folder, formats=formats, nearest_recipe=nearest_recipe,
                          refuse=refuse, on_result=on_result, progress=progress)  # fmt: skip

    def _check_target(self) -> None:
        """A relative drop needs a float score other than zero, on a scale with a zero."""
        value = self.evaluate(None).value
        if value == 0 or self.metric.unit == "dB":
            raise MetricError(
                self.metric.name,
                f"the float model scores {value:g} {self.metric.unit}".rstrip()
                + ", so a relative drop from it has no meaning",
                "Search with top1, agreement or another metric of quality",
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
