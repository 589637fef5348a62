"""Simulation: what a recipe computes is fake quantization of the operands it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, batch, inputs, made, network, recipe
from torch import Tensor, nn

from qviz import simulate
from qviz.affine import fake_quantize, quantize, weight_params
from qviz.capture import capture
from qviz.errors import NotFiniteError, RecipeError
from qviz.matmul import integer_matmul
from qviz.recipe import Recipe, TensorRange
from qviz.simulate import Simulator, first_difference


def simulated(model: nn.Module, chosen: Recipe, *args: Tensor) -> Tensor:
    sim = Simulator(capture(model, batch(*args)))
    return outputs(sim, chosen, *args)


def outputs(sim: Simulator, chosen: Recipe, *args: Tensor) -> Tensor:
    result: Tensor = sim.program.run(sim.program.inputs(batch(*args)), sim.edits(chosen))[0]
    return result


def on_grid(x: Tensor, amax: float, bits: int = 8) -> Tensor:
    """torch's own symmetric fake quantization of an activation."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return torch.fake_quantize_per_tensor_affine(x, amax / high, 0, low, high)


def weight_on_grid(w: Tensor, bits: int = 8, axis: int | None = 0) -> Tensor:
    """torch's own narrow symmetric fake quantization of a weight."""
    high = 2 ** (bits - 1) - 1
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(w, float(w.abs().max()) / high, 0, -high, high)
    scale = w.abs().amax([d for d in range(w.dim()) if d != axis]) / high
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(w, scale, zero, axis, -high, high)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FIXED = Recipe(ranges=(TensorRange("x", -1.5, 2.0, "fixed"),))


class One(nn.Module):
    """One layer, whose input is called x."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


# one op, by hand


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_linear_is_the_product_of_its_operands_on_their_grids(
    bits: int, per_channel: bool
) -> None:
    layer = nn.Linear(6, 5)
    made(layer)
    chosen = replace(FIXED, per_channel=per_channel, weight_bits=bits, activation_bits=bits)
    w = weight_on_grid(layer.weight.detach(), bits, 0 if per_channel else None)
    want = F.linear(on_grid(X, 2.0, bits), w, layer.bias)
    torch.testing.assert_close(simulated(One(layer), chosen, X), want.detach())


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), 0),
        (nn.Conv2d(3, 6, 3, groups=3), 0),
        (nn.ConvTranspose2d(3, 4, 3), 1),
    ],
    ids=["conv", "depthwise", "transposed"],
)
def test_a_convolution_is_that_of_its_operands_on_their_grids(layer: nn.Module, axis: int) -> None:
    made(layer)
    w = weight_on_grid(layer.get_parameter("weight").detach(), 8, axis)
    want = torch.func.functional_call(
        layer, {"weight": w, "bias": layer.get_parameter("bias").detach()}, on_grid(IMAGES, 2.0)
    )
    torch.testing.assert_close(simulated(One(layer), FIXED, IMAGES), want)


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.transpose(1, 2)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("model", "by_hand"),
    [(Product(), lambda x, y: x @ y.transpose(1, 2)), (Sum(), lambda x, y: x + y)],
    ids=["matmul", "add"],
)
def test_a_product_or_sum_of_activations_has_a_grid_for_each(
    model: nn.Module, by_hand: Callable[[Tensor, Tensor], Tensor]
) -> None:
    x, y = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    ranges = (TensorRange("x", -1.0, 1.0, "fixed"), TensorRange("y", -0.5, 3.0, "fixed"))
    want = by_hand(on_grid(x, 1.0), on_grid(y, 3.0))
    torch.testing.assert_close(simulated(model, Recipe(ranges=ranges), x, y), want)


def test_on_ort_cpu_activations_have_a_zero_point() -> None:
    layer = nn.Linear(6, 5)
    made(layer)
    scale = 3.5 / 255
    x = torch.fake_quantize_per_tensor_affine(X, scale, round(1.5 / scale), 0, 255)
    want = F.linear(x, weight_on_grid(layer.weight.detach()), layer.bias)
    found = simulated(One(layer), replace(FIXED, profile="ort-cpu"), X)
    torch.testing.assert_close(found, want.detach())


def test_a_pass_through_op_hands_its_range_on() -> None:
    model = made(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5)))
    (linear,) = (m for m in model.modules() if isinstance(m, nn.Linear))
    chosen = Recipe(ranges=(TensorRange("input", -2.0, 2.0, "fixed"),))
    pooled = F.max_pool2d(on_grid(IMAGES, 2.0), 2).flatten(1)
    want = F.linear(pooled, weight_on_grid(linear.weight.detach()), linear.bias)
    torch.testing.assert_close(simulated(model, chosen, IMAGES), want.detach())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    amax=st.floats(0.1, 10.0),
    profile=st.sampled_from(["cuda", "ort-cpu"]),
    bits=st.integers(2, 8),
)
def test_a_simulated_linear_is_the_integer_product(
    seed: int, amax: float, profile: str, bits: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 6, generator=generator)
    made(LINEAR, seed)
    chosen = Recipe(
        profile=profile, activation_bits=bits, ranges=(TensorRange("x", -amax, amax, "fixed"),)
    )
    sim = Simulator(capture(One(LINEAR), batch(x)))
    x_params = sim.activation_params("x", chosen, bits)
    w = LINEAR.weight.detach().t().contiguous()
    w_params = weight_params(w, 8, 1)
    want = integer_matmul(
        quantize(x, x_params), quantize(w, w_params), x_params, w_params, LINEAR.bias.detach()
    )
    torch.testing.assert_close(outputs(sim, chosen, x), want, rtol=1e-5, atol=1e-5)


LINEAR = nn.Linear(6, 5)


# whole networks


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("profile", ["cuda", "ort-cpu"])
def test_toggling_an_op_twice_gives_the_same_output(name: str, profile: str) -> None:
    sim = Simulator(network(name)[1])
    x = inputs(name, 4)
    base = recipe(name, profile)
    want = outputs(sim, base, *x)
    for op in sim.graph.quantizable:
        outputs(sim, base.skip(op.name), *x)
    assert torch.equal(outputs(sim, base, *x), want)
    assert torch.equal(outputs(Simulator(network(name)[1]), base, *x), want)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_with_everything_in_float_is_the_float_model(name: str) -> None:
    sim = Simulator(network(name)[1])
    x = inputs(name, 4)
    (want,) = sim.program.run(sim.program.inputs(batch(*x)))
    assert sim.edits(recipe(name).only()) == {}
    assert torch.equal(outputs(sim, recipe(name).only(), *x), want)


def test_every_quantizable_operand_changes_the_output_when_it_alone_is_int8() -> None:
    sim = Simulator(network("residual")[1])
    x = inputs("residual", 4)
    chosen = replace(recipe("residual", "ort-cpu"), weight_bits=3, activation_bits=3)
    float_output = outputs(sim, chosen.only(), *x)
    for name in sim.graph.operands:
        assert not torch.equal(outputs(sim, chosen.only(name), *x), float_output), name


# what is shared


def test_weights_are_quantized_once_per_width_and_granularity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_ones: list[tuple[int, ...]] = []

    def counted(x: Tensor, params: object) -> Tensor:
        made_ones.append(tuple(x.shape))
        return fake_quantize(x, params)  # type: ignore[arg-type]

    monkeypatch.setattr(simulate, "fake_quantize", counted)
    sim = Simulator(network("residual")[1])
    base = recipe("residual")
    for chosen in (base, base.skip("conv1"), base.with_range("x", -1, 1), base):
        sim.edits(chosen)
    assert len(made_ones) == 4
    sim.edits(replace(base, per_channel=False))
    sim.edits(replace(base, weight_bits=4))
    assert len(made_ones) == 12


def test_equal_ranges_share_one_quantizer_so_that_edits_can_be_compared() -> None:
    sim = Simulator(network("residual")[1])
    base = recipe("residual")
    first = {o: sim.program.step_of_op[o] for o in ("conv2", "conv3", "fc")}
    assert first_difference(sim.edits(base), sim.edits(base)) is None
    assert first_difference(sim.edits(base), sim.edits(base.skip("conv3"))) == first["conv3"]
    assert first_difference(sim.edits(base), sim.edits(base.skip("fc", "conv2"))) == first["conv2"]
    moved = base.with_range("relu:relu", 0.0, 9.0)  # conv2 and the add read it
    assert first_difference(sim.edits(base), sim.edits(moved)) == first["conv2"]


# what cannot be simulated


def test_a_recipe_of_another_model_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        Simulator(network("residual")[1]).edits(Recipe().skip("head"))
    assert str(caught.value).startswith("head: Residual has no such op or operand.")


def test_a_weight_that_is_not_finite_is_refused() -> None:
    layer = nn.Linear(6, 5)
    made(layer)
    with torch.no_grad():
        layer.weight[2, 3] = float("nan")
    sim = Simulator(capture(One(layer), batch(X)))
    with pytest.raises(NotFiniteError) as caught:
        sim.edits(FIXED)
    assert str(caught.value) == (
        "weight layer.weight: has NaN or infinite entries. "
        "Load the weights again, or leave layer in float."
    )
