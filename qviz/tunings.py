"""Tunings: the tuned weights of a session by key, and the simulators that run them.

A recipe names its weights by key (``Recipe.weights``), so whoever has the recipe has the pair. The
run folder keeps each set as ``weights-KEY.npz``; what lies there is read when a recipe asks for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from qviz.errors import RecipeError
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.recipe import Recipe
from qviz.simulate import Simulator
from qviz.store import RunFolder
from qviz.weights import NOTHING, TunedWeights, tuned_graph

#: Tuned models ready to run; each holds its quantized weights.
MOST = 4


class Tunings:
    """What was tuned of one model.

    Args:
        simulator: of the model's own weights.
        run: keeps the weights on disk, None keeps them in memory only.
    """

    def __init__(self, simulator: Simulator, run: RunFolder | None) -> None:
        self._own = simulator
        self._run = run
        self._lock = threading.RLock()
        self._weights: dict[str, TunedWeights] = {"": NOTHING}
        self._simulators: OrderedDict[str, Simulator] = OrderedDict()
        self._histograms: OrderedDict[str, Mapping[str, Histogram]] = OrderedDict()

    def add(self, tuned: TunedWeights) -> str:
        """Keep tuned weights, relative to the model's own; returns their key."""
        key = tuned.key
        with self._lock:
            if key not in self._weights:
                tuned_graph(self._own.graph, tuned)  # what does not fit is not kept
                if self._run is not None:
                    self._run.write_arrays(_file(key), tuned.to_arrays())
                self._weights[key] = tuned
        return key

    def weights(self, recipe: Recipe | None) -> TunedWeights:
        """The weights that a recipe was made for.

        Raises:
            RecipeError: they are not known here.
        """
        key = "" if recipe is None else recipe.weights
        with self._lock:
            if key not in self._weights:
                arrays = None if self._run is None else self._run.read_arrays(_file(key))
                if arrays is None:
                    raise RecipeError(
                        f"tuned weights {key}",
                        "the recipe was made for them, and they are not in this run",
                        "Name the run that made the recipe, or tune again",
                    )
                self._weights[key] = TunedWeights.from_arrays(arrays)
            return self._weights[key]

    def simulator(self, recipe: Recipe | None) -> Simulator:
        """Runs the model with the weights that a recipe was made for; None: with its own.

        Raises:
            RecipeError: the weights are not known here.
        """
        if recipe is None or not recipe.weights:
            return self._own
        with self._lock:
            if recipe.weights not in self._simulators:
                graph: Graph = tuned_graph(self._own.graph, self.weights(recipe))
                self._simulators[recipe.weights] = Simulator(graph)
                while len(self._simulators) > MOST:
                    self._simulators.popitem(last=False)
            self._simulators.move_to_end(recipe.weights)
            return self._simulators[recipe.weights]

    def histograms(
        self, recipe: Recipe, make: Callable[[Simulator], Mapping[str, Histogram]]
    ) -> Mapping[str, Histogram]:
        """Histograms of the calibration data with a recipe's weights, made once by ``make``."""
        key = recipe.weights
        with self._lock:
            found = self._histograms.get(key)
        if found is None:
            # a pass over the data, not under the lock: who asks for weights must not wait for it
            found = make(self.simulator(recipe))
        with self._lock:
            self._histograms[key] = found
            self._histograms.move_to_end(key)
            while len(self._histograms) > MOST:
                self._histograms.popitem(last=False)
            return found


def _file(key: str) -> str:
    return f"weights-{key}"
