"""Session: the one stateful object - model, data, statistics, measurements, one lock.

The verbs of all faces, in the order of the work: ``calibrate``, ``recipe``, ``evaluate``,
``best_calibrator`` (measuring.py), ``sensitivity``, ``search``, ``tune``, ``export``;
``opening.open`` makes a session. Each finished piece of work is kept in memory and, if there is a
run folder, on disk, so that repeating a verb goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from qviz import records, remedying, tuning
from qviz.auto import AutoOptions, AutoResult, OnEvent, Strategy
from qviz.data import Data
from qviz.errors import RecipeError
from qviz.measuring import Measuring
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
from qviz.tune.qat import QATOptions
from qviz.tune.qat_loss import Loss
from qviz.tune.qat_trainer import MakeOptimizer, OnEpoch
from qviz.tune.remedy import Remedies
from qviz.tune.result import Tuning
from qviz.tune.step import Subject


class Session(Measuring):
    """A model, its data and everything found out about them so far: attributes of ``Measuring``."""

    _variants: dict[str, Recipe] | None = None
    _tuned_rows: tuple[dict[str, Any], ...] = ()

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
            data, seed, sim = self._evaluation(), self._seed, self.simulator_of(recipe)

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
                self.simulator_of(recipe),
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
        sensitivity: Sensitivity | Callable[[], Sensitivity] | None = None,
        on_point: Callable[[SkipPoint], None] | None = None,
        progress: OnProgress | None = None,
    ) -> SearchResult:
        """Leave the fewest ops in float that bring the metric within ``max_drop`` of float.

        Args:
            recipe: where to start; None is the best calibrator's.
            max_drop: relative, 0.01 is 1 %.
            method: ``greedy`` or ``bisect``.
            sensitivity: a ranking, or what makes one if it is needed; None measures it then.
            on_point: called with each measured point.
            progress: told how far it is.
        """
        with self._lock:
            self._check_target()
            recipe = recipe or self.recipe()
            self.reference(progress=progress)
            result = search(
                recipe,
                self.graph,
                sensitivity or (lambda: self.sensitivity(recipe, progress=progress)),
                lambda r: self.evaluate(r, progress=None),
                max_drop=max_drop,
                method=method,
                on_point=on_point,
                progress=progress,
            )
            if self.run is not None:
                self.run.write_json("search", asdict(result))
            return result

    @property
    def variants(self) -> dict[str, Recipe]:
        """Named recipes, oldest first; the run folder keeps them. Change them with ``keep``."""
        if self._variants is None:
            self._variants = records.read_variants(self.run)
        return dict(self._variants)

    def keep(self, name: str, recipe: Recipe | None) -> None:
        """Keep a recipe under a name, or forget the name (None).

        Raises:
            RecipeError: the name is empty.
        """
        if not name.strip():
            raise RecipeError("variant", "it has no name", "Type one")
        variants = self.variants
        variants.pop(name, None)
        if recipe is not None:
            variants[name] = recipe
        self._variants = variants
        records.write_variants(self.run, variants)

    def tune(
        self,
        method: str,
        recipe: Recipe | None = None,
        *,
        ops: Sequence[str] | None = None,
        name: str | None = None,
        progress: OnProgress | None = None,
        **options: float | int | str | bool,
    ) -> Tuning:
        """Win accuracy back with one method; the recipe given stays as it is.

        Args:
            method: a name in ``qviz.tune.methods.METHODS``.
            recipe: where to start; None is the best calibrator's.
            ops: change only these ops (or tensors); None changes all that the method can.
            name: keep the result as a variant of that name.
            progress: told how far it is.
            options: of the method, by name.

        Returns:
            The new recipe, measured before and after on the evaluation data (if there is any).

        Raises:
            TuneError: the method cannot be applied, or its fit failed.
            RangeError: an option is unknown or out of bounds.
        """
        with self._lock:
            start = recipe or self.recipe()
            made = tuning.tune(self, method, start, ops=ops, options=options, progress=progress)
            if name is not None:
                self.keep(name, made.recipe)
            return made

    def remedies(
        self,
        recipe: Recipe | None = None,
        *,
        sites: int | Sequence[str] = 3,
        sensitivity: Sensitivity | None = None,
        methods: Sequence[str] | None = None,
        on_rows: Callable[[Remedies], None] | None = None,
        progress: OnProgress | None = None,
    ) -> Remedies:
        """Try what costs seconds on single ops, the recipe given stays as it is.

        Args:
            recipe: where every attempt starts; None is the best calibrator's.
            sites: so many of the worst ops, or their names.
            sensitivity: a ranking made before; None measures it if it is needed.
            methods: names in ``METHODS``; None is all that cost seconds and win accuracy.
            on_rows: called with all there is after each attempt.
            progress: told after each attempt.
        """
        with self._lock:
            return remedying.remedies(
                self, recipe or self.recipe(), sites, sensitivity, methods, on_rows, progress
            )

    def qat(
        self,
        recipe: Recipe | None = None,
        options: QATOptions | None = None,
        *,
        ops: Sequence[str] | None = None,
        name: str | None = None,
        loader: Iterable[object] | None = None,
        held_out: Data | None = None,
        loss: Loss | None = None,
        optimizer: MakeOptimizer | None = None,
        on_epoch: OnEpoch | None = None,
        progress: OnProgress | None = None,
    ) -> Tuning:
        """Train the weights with the rounding in the forward pass; the recipe given stays as it is.

        Killed and called again, it goes on where the run folder says it was.

        Args:
            recipe: where to start; None is the best calibrator's.
            options: schedule, ranges, distillation ...; None are the defaults.
            ops: train only the weights of these ops; None trains all.
            name: keep the result as a variant of that name.
            loader: batches of your own in place of the training data; walked once per epoch.
            held_out: training samples that choose the epoch, in place of a part of that data.
            loss: ``(what the model returns, targets) -> mean``, in place of cross entropy.
            optimizer: ``(QATModel) -> torch.optim.Optimizer``, in place of the options'.
            on_epoch: told each epoch when it is measured.
            progress: told how far it is.

        Raises:
            TuneError: there is no training data or no label, or the loss became NaN.
        """
        from qviz import training

        with self._lock:
            made = training.qat(
                self, recipe or self.recipe(), options or QATOptions(), ops=ops, loader=loader,
                held_out=held_out, loss=loss, optimizer=optimizer, on_epoch=on_epoch,
                progress=progress,
            )  # fmt: skip
            if name is not None:
                self.keep(name, made.recipe)
            return made

    def subject(
        self,
        recipe: Recipe,
        *,
        ops: Sequence[str] | None = None,
        progress: OnProgress | None = None,
    ) -> Subject:
        """What a method of ``qviz.tune`` is given for a recipe."""
        return tuning.subject(self, recipe, ops, progress)

    def tunings(self) -> list[dict[str, Any]]:
        """The record of every step tuned in this run, oldest first."""
        return list(self._tuned_rows) if self.run is None else self.run.rows(tuning.TABLE)

    def note_tuning(self, row: Mapping[str, Any]) -> None:
        """Add a row to the record."""
        if self.run is None:
            self._tuned_rows = (*self._tuned_rows, dict(row))
        else:
            self.run.append(tuning.TABLE, row)

    def auto(
        self,
        *,
        max_drop: float = 0.01,
        strategy: Strategy = "guided",
        time_budget: float | None = None,
        calibrators: Sequence[str] | None = None,
        weight_bits: int = 8,
        activation_bits: int = 8,
        per_channel: bool = True,
        ends_at_8: bool = True,
        skip: Sequence[str] = (),
        options: Mapping[str, Mapping[str, float | int | str | bool]] | None = None,
        without: Sequence[str] = (),
        confirm: Data | None = None,
        evaluator: Callable[[float, float], tuple[bool, float]] | None = None,
        on_event: OnEvent | None = None,
        progress: OnProgress | None = None,
    ) -> AutoResult:
        """Escalate from calibrators to training until the metric is within ``max_drop`` of float.

        Args:
            max_drop: the target, relative; 0.01 is 1 %.
            strategy: ``guided`` or ``amct``.
            time_budget: seconds it may take; what does not fit is skipped, and said.
            calibrators: candidates; None is the strategy's own choice.
            weight_bits: 2 to 8.
            activation_bits: 2 to 8.
            per_channel: False is one scale per weight tensor.
            ends_at_8: below 8 bits, the first and last layers keep 8.
            skip: ops left in float from the beginning.
            options: of tune methods: ``{"adaquant": {"iterations": 200}}``.
            without: tune methods that are not tried.
            confirm: data that chose nothing, to measure the result on once.
            evaluator: of ``amct``: (float accuracy, another) -> (accepted, loss).
            on_event: told when a step begins and ends, with everything found so far.
            progress: told how far the verbs inside are.
        """
        from qviz.auto_clock import Clock
        from qviz.auto_run import auto

        clock = Clock(time_budget)  # the float model is measured within it
        self._check_target()
        given = [(m, k, str(v)) for m, of in (options or {}).items() for k, v in of.items()]
        asked = AutoOptions(
            max_drop,
            strategy,
            time_budget,
            None if calibrators is None else tuple(calibrators),
            weight_bits,
            activation_bits,
            per_channel,
            ends_at_8,
            tuple(skip),
            tuple(given),
            tuple(without),
        )
        return auto(
            self,
            asked,
            confirm=confirm,
            evaluator=evaluator,
            on_event=on_event,
            progress=progress,
            clock=clock,
        )

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
