"""AdaRound: neighbours of the weights, the best of all roundings, and what stays as it is."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import networks
import pytest
import torch
from torch import Tensor, nn
from tune_kit import cancel, error, generator, of_module, subject

from qviz.errors import Cancelled, TuneError
from qviz.recipe import Recipe, TensorRange
from qviz.tune import adaround
from qviz.tune.step import Step, Subject

FOUR_BITS = Recipe(ranges=networks.recipe("residual").ranges, weight_bits=4)


def layer(weight: list[list[float]]) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(weight[0]), len(weight), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weight))  # type: ignore[operator]
    return model


def weights_only(model: nn.Module, inputs: Tensor, bits: int) -> Subject:
    """The model's weights at some bits, its input in float."""
    given = of_module(model, inputs)
    return replace(given, recipe=replace(given.recipe, weight_bits=bits).skip("kind:activation"))


@functools.cache
def tuned(mode: str = "sequential") -> tuple[Subject, Step]:
    """The residual network with 4-bit weights, rounded."""
    given = subject("residual", FOUR_BITS)
    return given, adaround.apply(given, mode=mode, iterations=40)


def codes(given: Subject, step: Step, operand: str) -> tuple[Tensor, Tensor]:
    """A tuned weight and the model's own, in steps of the tuned grid."""
    assert step.weights is not None
    own = given.graph.operands[operand]
    ((bits, limit),) = step.weights.limits[operand].items()
    after, before = (
        step.weights.values[own.tensor],
        given.simulator.program.parameter(own.tensor),
    )
    scale = (limit / (2 ** (bits - 1) - 1)).reshape([-1] + [1] * (after.dim() - 1))
    return after / scale, before / scale


def test_two_equal_inputs_want_one_weight_down_and_one_up() -> None:
    """0.35 and 0.45 of a step round to 0 and 0, which loses 0.8; 0 and 1 lose only 0.2."""
    x = torch.randn(64, 1, generator=generator())
    other = 0.01 * torch.randn(64, 1, generator=generator(1))
    given = weights_only(layer([[0.35, 0.45, 7.0]]), torch.cat([x, x, other], 1), 4)
    step = adaround.apply(given, iterations=300)
    assert step.weights is not None
    found = step.weights.values["0.weight"].flatten().tolist()
    assert found == pytest.approx([0.0, 1.0, 7.0], abs=1e-5)
    (change,) = step.changes
    assert change.before is not None
    assert change.after is not None
    assert change.before / change.after == pytest.approx(16, rel=0.05)


def test_no_other_rounding_of_a_small_layer_is_better() -> None:
    """All 64 roundings of six weights, on inputs that depend on each other."""
    mixing = torch.randn(6, 6, generator=generator(15))
    inputs = torch.randn(200, 6, generator=generator(16)) @ mixing
    weight = torch.randn(1, 6, generator=generator(17))
    given = weights_only(layer(weight.tolist()), inputs, 3)
    step = adaround.apply(given, iterations=300, holdout=0.5)
    after, own = codes(given, step, "0/weight")
    moments = inputs.T @ inputs

    def loss(chosen: Tensor) -> float:
        off = chosen.clamp(-3, 3) - own
        return float(off @ moments @ off.T)

    every = [own.floor() + torch.tensor([up]) for up in itertools.product((0.0, 1.0), repeat=6)]
    assert loss(after) == pytest.approx(min(map(loss, every)), rel=1e-4)
    assert loss(after) < 0.2 * loss(own.round())


def test_every_weight_is_rounded_down_or_up() -> None:
    given, step = tuned()
    assert step.weights is not None
    for operand in step.weights.limits:
        after, own = codes(given, step, operand)
        assert torch.allclose(after, after.round(), atol=1e-4)
        assert bool(((after - own.clamp(-7, 7)).abs() < 1 + 1e-4).all())


def test_what_is_stored_has_the_codes_that_were_chosen() -> None:
    given, step = tuned()
    assert step.weights is not None
    after = given.after(step).simulator
    for name in step.weights.limits:
        operand = after.graph.operands[name]
        stored = after.program.parameter(operand.tensor)
        assert torch.allclose(after.weight(operand, 4, True)[1], stored, atol=1e-6)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_the_output_comes_closer_to_float(mode: str) -> None:
    given, step = tuned(mode)
    assert error(given, step) < 0.95 * error(given, Step(given.recipe, None, ()))


def test_biases_and_activation_ranges_stay() -> None:
    given, step = tuned()
    assert step.recipe == given.recipe
    assert step.weights is not None
    assert set(step.weights.values) == {f"{op}.weight" for op in ("conv1", "conv2", "conv3", "fc")}
    assert step.weights.biases == {}


def test_the_same_seed_gives_the_same_weights() -> None:
    given = subject("residual", FOUR_BITS, ops=("conv2",))
    steps = [adaround.apply(replace(given, seed=seed), iterations=20) for seed in (0, 0, 1)]
    keys = [step.weights.key for step in steps if step.weights]
    assert keys[0] == keys[1] != keys[2]


def test_only_the_ops_asked_for_are_changed_and_the_model_is_untouched() -> None:
    given = subject("residual", FOUR_BITS, ops=("conv2",))
    before = {n: p.clone() for n, p in given.graph.module.named_parameters()}
    assert adaround.sites(given) == ("conv2",)
    step = adaround.apply(given, iterations=20)
    assert step.weights is not None
    assert list(step.weights.values) == ["conv2.weight"]
    assert all(torch.equal(p, before[n]) for n, p in given.graph.module.named_parameters())


def test_a_model_without_int8_weights_is_refused() -> None:
    with pytest.raises(TuneError) as caught:
        adaround.apply(subject("residual", FOUR_BITS.skip("kind:weight")))
    assert str(caught.value) == (
        "AdaRound: no op that may be changed has anything to fit. "
        "Make ops int8 that have a weight of their own."
    )


def test_a_weight_that_several_ops_share_is_left_alone() -> None:
    with pytest.raises(TuneError) as caught:
        adaround.apply(subject("twins"))
    assert str(caught.value) == (
        "AdaRound: no op can be fitted; body:linear: its weight is shared by several ops. "
        "Make ops int8 that have a weight of their own."
    )


def test_one_sample_leaves_none_to_hold_out() -> None:
    given = replace(subject("residual", FOUR_BITS), calibration=networks.data("residual", 1))
    with pytest.raises(TuneError) as caught:
        adaround.apply(given)
    assert str(caught.value) == (
        "AdaRound: data is one sample, which leaves none to hold out. "
        "Give more calibration samples."
    )


def test_cancelling_passes_through() -> None:
    with pytest.raises(Cancelled):
        adaround.apply(subject("residual", FOUR_BITS, progress=cancel), iterations=1)


def test_a_fit_that_overflows_everywhere_is_an_error() -> None:
    x = 1e25 * torch.randn(16, 2, generator=generator())
    with pytest.raises(TuneError) as caught:
        adaround.apply(weights_only(layer([[0.4, 0.3]]), x, 4), iterations=1)
    assert str(caught.value) == (
        "AdaRound: every fit became NaN or infinite. Use smaller learning rates."
    )


def test_the_op_is_fitted_with_its_input_as_it_reads_it() -> None:
    """Half of the inputs are 10 and clipped to 1: the error of that is in the loss."""
    x = torch.tensor([1.0, 10.0]).repeat(32)[torch.randperm(64, generator=generator())]
    recipe = Recipe(weight_bits=2, ranges=(TensorRange("input", -1.0, 1.0, "fixed"),))
    step = adaround.apply(of_module(layer([[1.0]]), x[:, None], recipe), iterations=1)
    assert step.changes[0].before == pytest.approx(81 / 101, rel=0.5)
