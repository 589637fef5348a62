"""Live: the metric of a recipe within a second, on a part of the evaluation data.

Every value of the last recipe's run is kept. The next recipe mostly differs from it in one op, so
it starts at the first op that differs and costs the rest of the network only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from qviz.data import Batch, Data
from qviz.evaluate import Evaluation, Outputs, compare, first_output
from qviz.execute import Edits
from qviz.metrics import Metric
from qviz.recipe import Recipe
from qviz.simulate import Simulator, first_difference

#: A whole pass over the live samples should take no longer, in seconds.
SECONDS = 0.6
#: Fewer samples than this say nothing, however slow the model is.
FEWEST = 16
#: Bytes of kept values.
BUDGET = 512 << 20


@dataclass(eq=False)
class _Kept:
    batch: Batch
    values: list[Any]
    outputs: Tensor


class Live:
    """Measures recipes one after the other on the first samples of some data.

    Safe to call from several threads; calls wait for each other.

    Args:
        simulator_of: what runs a recipe: the captured model with the recipe's weights.
        data: evaluation samples; the first ones that fit ``seconds`` and ``budget`` are used.
        metric: what is measured.
        batch_size: samples per forward pass.
        seconds: how long a whole pass may take.
        budget: bytes of kept values.
        seed: of the intervals.
    """

    def __init__(
        self,
        simulator_of: Callable[[Recipe | None], Simulator],
        data: Data,
        metric: Metric,
        *,
        batch_size: int = 32,
        seconds: float = SECONDS,
        budget: int = BUDGET,
        seed: int = 0,
    ) -> None:
        self._simulator_of, self._data, self._metric = simulator_of, data, metric
        self._simulator = simulator_of(None)
        self._batch_size, self._seconds, self._budget = batch_size, seconds, budget
        self._seed = seed
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._edits: Edits = {}
        self._reference: Outputs | None = None

    @property
    def samples(self) -> int:
        """How many samples are measured; 0 before the first measurement."""
        return 0 if self._reference is None else self._reference.values.shape[0]

    def measure(self, recipe: Recipe | None, check: Callable[[], None] | None = None) -> Evaluation:
        """The metric of a recipe on the live samples; None is the float model.

        Args:
            recipe: what to measure.
            check: called between batches; what it raises stops the measurement.

        Raises:
            RecipeError: the recipe does not fit the model.
        """
        simulator = self._simulator_of(recipe)
        edits = {} if recipe is None else simulator.edits(recipe)
        with self._lock, torch.no_grad():
            if self._reference is None:
                self._start()
            reference = self._reference
            assert reference is not None  # _start set it
            self._move_to(simulator, edits, check)
            made = torch.cat([kept.outputs for kept in self._kept])
            return compare(made, reference, self._metric, seed=self._seed)

    def _start(self) -> None:
        """Run the float model over as many samples as time and memory allow, and keep it all."""
        program = self._simulator.program
        size = max(1, min(self._batch_size, FEWEST))
        # the first pass sets buffers up and says nothing about the time of the others
        self._run(next(iter(self._data.head(size).batches(size))), {})
        room, started = self._budget, time.monotonic()
        done = 0
        for batch in self._data.batches(size):
            kept = self._run(batch, {})
            self._kept.append(kept)
            done += batch.size
            used = _bytes(kept.values, program.steps)
            room -= used
            spent = time.monotonic() - started
            late = spent + spent * batch.size / done > self._seconds
            if (late and done >= FEWEST) or room < used:
                break
        targets = [kept.batch.targets for kept in self._kept]
        labels = [t for t in targets if t is not None]
        self._reference = Outputs(
            torch.cat([kept.outputs for kept in self._kept]),
            torch.cat(labels) if len(labels) == len(targets) else None,
        )
        self._edits = {}

    def _move_to(
        self, simulator: Simulator, edits: Edits, check: Callable[[], None] | None
    ) -> None:
        same = simulator is self._simulator
        first = first_difference(self._edits, edits) if same else 0
        if first is None:
            return
        program = simulator.program
        fresh: list[_Kept] = []
        for kept in self._kept:
            if check is not None:
                check()
            # other weights are other constants: nothing of the earlier run can be used
            values = list(kept.values) if same else program.inputs(kept.batch)
            results = program.run(values, edits, start=first, keep=True)
            outputs = first_output(results, kept.batch.size, program)
            fresh.append(_Kept(kept.batch, values, outputs))
        # all or nothing: stopped half way, the kept values still belong to the earlier recipe
        self._kept, self._edits, self._simulator = fresh, edits, simulator

    def _run(self, batch: Batch, edits: Edits) -> _Kept:
        program = self._simulator.program
        values = program.inputs(batch)
        results = program.run(values, edits, keep=True)
        return _Kept(batch, values, first_output(results, batch.size, program))


def _bytes(values: list[Any], steps: list[Any]) -> int:
    """Memory of the kept values; views share theirs."""
    seen: dict[int, int] = {}
    for step in steps:
        for leaf in pytree.tree_leaves(values[step.slot]):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())
