"""Subjects of tuning made by hand, and what a recipe computes under tuned weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import networks
import torch
from torch import Tensor, nn

from qviz.capture import capture
from qviz.collate import Batch
from qviz.data import Data, as_data
from qviz.errors import Cancelled
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.observe import observe
from qviz.progress import Progress, Reporter
from qviz.recipe import Recipe, TensorRange
from qviz.simulate import Simulator
from qviz.tune.importance import rows_that_count
from qviz.tune.lockstep import batches_that_fit, correctable, counted_in
from qviz.tune.step import Step, Subject
from qviz.weights import TunedWeights, tuned_graph

SAMPLES = 24


@functools.cache
def simulator(name: str) -> Simulator:
    return Simulator(networks.network(name)[1])


@functools.cache
def histograms(name: str) -> Mapping[str, Histogram]:
    return observe(simulator(name).program, networks.data(name, SAMPLES), workers=1)


def subject(name: str, recipe: Recipe | None = None, **more: Any) -> Subject:
    """One of the shared networks under its recipe, or another one."""
    own = simulator(name)
    return Subject(
        simulator=own,
        recipe=recipe or networks.recipe(name),
        calibration=networks.data(name, SAMPLES),
        original=own,
        observed=lambda: histograms(name),
        **{"batch_size": 7, **more},
    )


def of_module(model: nn.Module, inputs: Tensor, recipe: Recipe | None = None) -> Subject:
    """A model of one's own with its calibration inputs, everything int8 from min to max."""
    graph = capture(model.eval(), Batch((inputs[:2],), {}, None, 2))
    return of_graph(graph, as_data((inputs, None), "calibration data"), recipe)


def of_graph(graph: Graph, data: Data, recipe: Recipe | None = None) -> Subject:
    own = Simulator(graph)
    found = observe(own.program, data, workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in found.items())
    return Subject(own, recipe or Recipe(ranges=ranges), data, own, lambda: found)


def values(given: Subject, weights: TunedWeights | None, *, recipe: bool) -> dict[str, Tensor]:
    """Output of every op over all calibration samples, under the recipe or in float."""
    own = Simulator(tuned_graph(given.graph, weights)) if weights else given.simulator
    batch = next(given.calibration.batches(given.calibration.count))
    found: dict[str, Tensor] = {}

    def watch(slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        name = own.program.tensor_of_slot.get(slot)
        if name is not None and isinstance(value, Tensor):
            found[name] = value.clone()

    edits = own.edits(given.recipe) if recipe else None
    own.program.run(own.program.inputs(batch), edits, watch=watch)
    return found


def weighed(given: Subject, op: str, value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All rows of an op's output over the calibration samples, and what each counts, summing to 1.

    Both float64, ``[C, n]`` and ``[n]``.
    """
    batches, _ = batches_that_fit(given, 512, models=2)
    counts, _ = counted_in(given, correctable(given), batches, Reporter("", 1, None))
    if op not in counts:
        rows = value.double().movedim(axis, 0).flatten(1)
        return rows, torch.full((rows.shape[1],), 1 / rows.shape[1], dtype=torch.float64)
    info, sizes = given.graph.tensors[op], [batch.size for batch in batches]
    if info.batch_dim is None:  # sequence first, samples mixed
        parts = [p.flatten(0, 1) for p in value.unflatten(0, (-1, sum(sizes))).split(sizes, 1)]
    else:
        parts = list(value.split([n * info.batch_multiple for n in sizes], info.batch_dim))
    some, weights = rows_that_count(parts, info, counts[op])
    assert weights is not None
    every = torch.cat(list(weights)).double()
    return torch.cat(list(some)).double().T, every / every.sum()


def means(value: Tensor, axis: int, weights: Tensor | None = None) -> Tensor:
    """Mean of every channel, float64; weights of the rows sum to 1."""
    rows = value.double().movedim(axis, 0).flatten(1)
    return rows.mean(1) if weights is None else rows @ weights


def deviations(value: Tensor, axis: int, weights: Tensor | None = None) -> Tensor:
    """Standard deviation of every channel, float64; likewise."""
    rows = value.double().movedim(axis, 0).flatten(1)
    squares = (rows - means(value, axis, weights)[:, None]).square()
    return (squares.mean(1) if weights is None else squares @ weights).sqrt()


def error(given: Subject, step: Step) -> float:
    """Mean squared error of the model's output after a step, over the calibration samples."""
    last = given.graph.outputs[0]
    wanted = values(given, None, recipe=False)[last]
    after = given.after(step)
    made = values(after, None, recipe=True)[last]
    return float((made - wanted).double().square().mean())


def cancel(progress: Progress) -> None:
    """The user stops after the first unit."""
    raise Cancelled()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
