"""Quantization-aware training on the GPU (README.md of this folder)."""

from __future__ import annotations

from dataclasses import replace

import gpu_kit  # before the helpers: it says where they lie
import pytest
import torch
from networks import inputs, recipe
from qat_kit import FEW, four_bits, labelled, simulated, simulator, subject, trained

from qviz.tune.qat import finish, prepare, train
from qviz.tune.qat_options import Ranges

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RANGES: tuple[Ranges, ...] = ("fixed", "pact", "lsq")


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("profile", ["cuda", "ort-cpu"])
@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_a_model_trained_there_gives_what_its_recipe_gives_here(
    name: str, profile: str, ranges: Ranges
) -> None:
    chosen = replace(recipe(name, profile), weight_bits=8, activation_bits=8)
    model = prepare(simulator(name), chosen, ranges).to(gpu_kit.DEVICE)
    x = [v.to(gpu_kit.DEVICE) for v in inputs(name, 6)]
    losses = trained(model, *x)
    assert losses[-1] < losses[0]
    step = finish(model)
    with torch.no_grad():
        there = model(*x).cpu()
    here = simulated(model.graph, step, *inputs(name, 6))[0]
    # sums are made in another order, so a value next to a tie may fall to the other side
    assert float((there - here).norm() / here.norm()) < 0.02


def test_the_built_in_trainer_trains_there() -> None:
    result = train(subject(labelled(), four_bits()), replace(FEW, device=gpu_kit.DEVICE))
    assert result.helped
    assert result.step.weights is not None
    assert all(v.device.type == "cpu" for v in result.step.weights.values.values())
