"""What every exporter is given: the model, the decision, the data, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.export import ExportedProgram

from qviz.data import Data
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.metrics import Metric
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.simulate import Simulator


class Origin(Protocol):
    """Where a model came from."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def spec(self) -> str:
        """What was asked for."""

    @property
    def digest(self) -> str:
        """Of all its weights."""

    @property
    def model(self) -> nn.Module | ExportedProgram:
        """The model as its author made it."""


class Source(Protocol):
    """What can be exported; a ``Session`` is one."""

    graph: Graph
    calibration_data: Data
    evaluation_data: Data | None
    metric: Metric

    @property
    def model(self) -> Origin:
        """Where the model came from."""

    @property
    def simulator(self) -> Simulator:
        """Runs the graph under a recipe."""

    def simulator_of(self, recipe: Recipe | None) -> Simulator:
        """Runs the graph with the weights that a recipe was made for."""

    def evaluate(self, recipe: Recipe) -> Evaluation:
        """Measure a recipe on the evaluation data."""


@dataclass(frozen=True, eq=False)
class Request:
    """One export.

    Attributes:
        graph: the captured model.
        simulator: of the graph.
        recipe: the decision.
        folder: where to write.
        data: to compare with the simulation: the evaluation data, or else the calibration data.
        metric: what is measured.
        origin: model, data and metric as a manifest records them; plain values.
        progress: told how far it is.
        model: as its author made it, for formats that address its modules; None if unknown.
        float_scores: ``[n]``, what the float model scores on each sample of the evaluation data by
            this metric; None if that is not known, or says nothing (a comparison with itself).
    """

    graph: Graph
    simulator: Simulator
    recipe: Recipe
    folder: Path
    data: Data
    metric: Metric
    origin: Mapping[str, Any]
    progress: OnProgress | None = None
    model: nn.Module | ExportedProgram | None = None
    float_scores: Tensor | None = None


def make_request(
    source: Source, recipe: Recipe, folder: Path, progress: OnProgress | None = None
) -> Request:
    """The request for a source; measures the recipe if there is evaluation data."""
    measured = None if source.evaluation_data is None else source.evaluate(recipe)
    scores = None if measured is None else measured.reference.per_sample
    origin = {
        "model": {
            "name": source.model.name,
            "spec": source.model.spec,
            "digest": source.model.digest,
        },
        "data": {
            "calibration": _described(source.calibration_data),
            "evaluation": _described(source.evaluation_data),
        },
        "metric": {
            "name": source.metric.name,
            "float": None if measured is None else measured.reference.value,
            "simulated": None if measured is None else measured.value,
        },
    }
    simulator = source.simulator_of(recipe)
    return Request(
        graph=simulator.graph,
        simulator=simulator,
        recipe=recipe,
        folder=folder,
        data=source.evaluation_data or source.calibration_data,
        metric=source.metric,
        origin=origin,
        progress=progress,
        model=source.model.model,
        float_scores=None if source.metric.needs_reference else scores,
    )


def _described(data: Data | None) -> dict[str, Any] | None:
    if data is None:
        return None
    return {"name": data.name, "count": data.count, "digest": data.digest}
