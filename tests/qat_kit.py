"""What the tests of quantization-aware training share: a tiny task and its subject."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from networks import data, inputs, network, recipe
from torch import Tensor

from qviz.data import Data, as_data
from qviz.graph import Graph
from qviz.observe import observe
from qviz.recipe import Recipe
from qviz.simulate import Simulator
from qviz.tune.qat import QATModel, QATOptions
from qviz.tune.step import Step, Subject
from qviz.weights import tuned_graph

#: A few steps that change something visible, at 4 bits.
FEW = QATOptions(schedule_epochs=20, initial_lr=0.1, batch_size=8, weight_decay=0.0)


@functools.cache
def simulator(name: str = "residual") -> Simulator:
    return Simulator(network(name)[1])


def four_bits(name: str = "residual", profile: str = "cuda") -> Recipe:
    return replace(recipe(name, profile), weight_bits=4, activation_bits=4)


@functools.cache
def labelled(count: int = 40, seed: int = 1) -> Data:
    """Samples of the residual network with the float model's classes as labels."""
    (x,) = inputs("residual", count, seed)
    with torch.no_grad():
        labels = network("residual")[0](x).argmax(1)
    return as_data((x, labels), "training data")


def subject(training: Data | None = None, chosen: Recipe | None = None, **given: Any) -> Subject:
    sim = simulator()
    calibration = data("residual", 16)
    return Subject(
        simulator=sim,
        recipe=chosen or four_bits(),
        calibration=calibration,
        original=sim,
        observed=lambda: observe(sim.program, calibration),
        training=training,
        **given,
    )


def simulated(graph: Graph, step: Step, *args: Tensor) -> list[Tensor]:
    """Outputs of a step's recipe with its weights, by the simulator."""
    from networks import batch

    sim = Simulator(graph if step.weights is None else tuned_graph(graph, step.weights))
    outputs: list[Tensor] = sim.program.run(
        sim.program.inputs(batch(*args)), sim.edits(step.recipe)
    )
    return outputs


def trained(model: QATModel, *args: Tensor, steps: int = 3, rate: float = 1e-3) -> list[float]:
    """Losses of a plain loop towards the outputs turned around."""
    with torch.no_grad():
        wanted = -model(*args)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        loss = (model(*args) - wanted).square().mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses
