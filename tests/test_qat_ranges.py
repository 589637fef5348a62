"""Gradients of learned ranges: by hand, by finite differences, and against torch's own op."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qviz.affine import Grid, QuantParams, affine_params, range_params, symmetric_params
from qviz.errors import TuneError
from qviz.recipe import TensorRange
from qviz.tune.qat_ranges import LearnedLimit, LearnedStep, LimitRange, StepRange, WeightStep

SIGNED = Grid(8)
NAN = "training made it NaN or infinite. Lower the learning rate, or train with ranges=fixed."


def limited(x: Tensor, high: Tensor, low: Tensor | None, params: QuantParams) -> Tensor:
    y: Tensor = LearnedLimit.apply(x, high, low, params)  # type: ignore[no-untyped-call]
    return y


def stepped(
    x: Tensor, step: Tensor, low: Tensor | None, params: QuantParams, factor: float
) -> Tensor:
    y: Tensor = LearnedStep.apply(x, step, low, params, factor)  # type: ignore[no-untyped-call]
    return y


def leaf(*values: float) -> Tensor:
    made = torch.tensor(values if len(values) > 1 else values[0])
    return made.requires_grad_()


def grads(y: Tensor, weights: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((y * weights).sum(), of))


def test_pact_hands_the_gradient_of_clipped_values_to_the_limit() -> None:
    x, high = leaf(-2.0, -0.5, 0.3, 1.0, 1.5), leaf(1.0)
    y = limited(x, high, None, symmetric_params(1.0, SIGNED))
    to_x, to_high = grads(y, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), x, high)
    assert to_x.tolist() == [0.0, 2.0, 4.0, 0.0, 0.0]
    assert float(to_high) == 8 + 16 - 1  # the mirrored end moves the other way


def test_pact_on_unsigned_codes_has_no_limit_below() -> None:
    x, high = leaf(0.0, 0.3, 1.5), leaf(1.0)
    y = limited(x, high, None, symmetric_params(1.0, Grid(4, unsigned=True)))
    to_x, to_high = grads(y, torch.tensor([1.0, 2.0, 4.0]), x, high)
    assert to_x.tolist() == [1.0, 2.0, 0.0]
    assert float(to_high) == 4


def test_pact_with_a_zero_point_learns_both_limits() -> None:
    x, high, low = leaf(-2.0, -0.5, 0.3, 1.5), leaf(1.0), leaf(-1.0)
    y = limited(x, high, low, affine_params(-1.0, 1.0, Grid(8, symmetric=False)))
    to_x, to_high, to_low = grads(y, torch.tensor([1.0, 2.0, 4.0, 8.0]), x, high, low)
    assert to_x.tolist() == [0.0, 2.0, 4.0, 0.0]
    assert (float(to_high), float(to_low)) == (8.0, 1.0)


def test_lsq_moves_a_value_inside_by_its_rounding_error_and_one_outside_by_its_code() -> None:
    x, step = leaf(0.6, 1.4, -9.0, 9.0), leaf(1.0)
    grid = Grid(3)  # codes -4 to 3
    y = stepped(x, step, None, symmetric_params(3.0, grid), 0.5)
    assert y.tolist() == [1.0, 1.0, -4.0, 3.0]
    to_x, to_step = grads(y, torch.tensor([1.0, 10.0, 100.0, 1000.0]), x, step)
    assert to_x.tolist() == [1.0, 10.0, 0.0, 0.0]
    assert float(to_step) == pytest.approx(0.5 * (0.4 - 0.4 * 10 - 400 + 3000), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.floats(0.05, 3.0), st.integers(0, 2**31))
def test_lsq_gradients_are_those_of_torch(bits: int, amax: float, seed: int) -> None:
    """Golden: torch._fake_quantize_learnable_per_tensor_affine."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, generator=generator).requires_grad_()
    weights = torch.randn(64, generator=generator)
    params = symmetric_params(amax, Grid(bits))
    step = params.scale.clone().requires_grad_()
    own = grads(stepped(x, step, None, params, 0.25), weights, x, step)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(
        x, step.reshape(1), torch.zeros(1), params.quant_min, params.quant_max, 0.25
    )
    golden = grads(theirs, weights, x, step)
    assert torch.equal(own[0], golden[0])
    torch.testing.assert_close(own[1], golden[1], rtol=1e-4, atol=1e-4)


def test_lsq_per_channel_gradients_are_those_of_torch() -> None:
    """Golden: torch._fake_quantize_learnable_per_channel_affine."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 3, 3, 3, generator=generator).requires_grad_()
    weights = torch.randn(w.shape, generator=generator)
    params = symmetric_params(w.detach().abs().amax((1, 2, 3)) / 2, Grid(4, narrow=True), 0)
    step = params.scale.clone().requires_grad_()
    own = grads(stepped(w, step, None, params, 0.25), weights, w, step)
    theirs = torch._fake_quantize_learnable_per_channel_affine(
        w, step, torch.zeros(5), 0, params.quant_min, params.quant_max, 0.25
    )
    golden = grads(theirs, weights, w, step)
    assert torch.equal(own[0], golden[0])
    torch.testing.assert_close(own[1], golden[1], rtol=1e-4, atol=1e-4)


def test_lsq_with_a_zero_point_has_the_gradients_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, generator=generator).double()
    weights = torch.randn(200, generator=generator).double()
    grid = Grid(4, symmetric=False)
    params = affine_params(-1.0, 2.0, grid)  # a step of 0.2, zero point 5, exactly
    step, low = leaf(0.2), leaf(-1.0)
    y = stepped(x.float(), step, low, params, 1.0)
    own = grads(y, weights.float(), step, low)

    rounded = ((x + 1.0) / 0.2).round()
    outside = (rounded < 0) | (rounded > 15)

    def value(s: float, lo: float) -> float:
        residue = rounded - (x + 1.0) / 0.2
        at = torch.where(outside, rounded.clamp(0, 15), (x - lo) / s + residue)
        return float(((at * s + lo) * weights).sum())

    h = 1e-6
    by_step = (value(0.2 + h, -1.0) - value(0.2 - h, -1.0)) / (2 * h)
    by_low = (value(0.2, -1.0 + h) - value(0.2, -1.0 - h)) / (2 * h)
    assert float(own[0]) == pytest.approx(by_step, rel=1e-3)
    assert float(own[1]) == pytest.approx(by_low, rel=1e-3, abs=1e-3)


def test_pact_has_the_gradients_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    x, weights = (torch.randn(200, generator=generator) for _ in range(2))
    high = leaf(0.8)
    y = limited(x, high, None, symmetric_params(0.8, SIGNED))
    (own,) = grads(y, weights, high)

    def value(limit: float) -> float:
        return float((x.double().clamp(-limit, limit) * weights.double()).sum())

    assert float(own) == pytest.approx((value(0.8 + 1e-7) - value(0.8 - 1e-7)) / 2e-7, rel=1e-4)


@pytest.mark.parametrize("kind", [LimitRange, StepRange], ids=["pact", "lsq"])
@pytest.mark.parametrize(
    ("lo", "hi", "grid"),
    [
        (-1.0, 3.0, Grid(8)),
        (-3.0, 1.0, Grid(4)),
        (0.0, 6.0, Grid(4, unsigned=True)),
        (-1.0, 3.0, Grid(8, symmetric=False)),
        (0.0, 3.0, Grid(4, symmetric=False)),
    ],
    ids=["high decides", "low decides", "unsigned", "zero point", "zero point, nothing negative"],
)
def test_a_learned_range_begins_where_the_calibrated_one_is(
    kind: type[LimitRange | StepRange], lo: float, hi: float, grid: Grid
) -> None:
    found = kind(TensorRange("t", lo, hi, "max"), grid).range()
    assert found.lo == pytest.approx(lo, rel=1e-6)
    assert found.hi == pytest.approx(hi, rel=1e-6)
    assert (found.tensor, found.calibrator) == ("t", "pact" if kind is LimitRange else "lsq")


def test_the_gradient_of_a_step_is_scaled_by_elements_and_codes() -> None:
    module = StepRange(TensorRange("t", -7.0, 7.0, "max"), Grid(4))
    x = torch.full((2, 5), 0.4)  # 5 values per sample, rounded down by 0.4 steps each
    y = module.quantize(x, range_params(-7.0, 7.0, Grid(4)))
    (own,) = grads(y, torch.ones(2, 5), module.step)
    assert float(own) == pytest.approx(10 * -0.4 / math.sqrt(5 * 7), rel=1e-5)


def test_operands_of_other_widths_share_one_learned_range() -> None:
    """At 8 bits the step is 1/127 of the range where at 4 bits it is 1/7."""
    module = StepRange(TensorRange("t", -7.0, 7.0, "max"), Grid(4))
    fine = range_params(-7.0, 7.0, SIGNED)
    x = torch.tensor([[100.0]])
    (own,) = grads(module.quantize(x, fine), torch.ones(1, 1), module.step)
    # clipped at 7 = 7 steps; N = 1, quant_max = 127
    assert float(own) == pytest.approx(7 / math.sqrt(127), rel=1e-5)


@pytest.mark.parametrize("kind", [LimitRange, StepRange], ids=["pact", "lsq"])
def test_a_range_thrown_below_zero_stays_a_thousandth_of_where_it_began(
    kind: type[LimitRange | StepRange],
) -> None:
    module = kind(TensorRange("t", -2.0, 2.0, "max"), SIGNED)
    with torch.no_grad():
        next(module.parameters()).fill_(-5.0)
    assert module.range().hi == pytest.approx(0.002)


@pytest.mark.parametrize("kind", [LimitRange, StepRange], ids=["pact", "lsq"])
def test_a_range_that_became_nan_is_named(kind: type[LimitRange | StepRange]) -> None:
    module = kind(TensorRange("conv1", -2.0, 2.0, "max"), SIGNED)
    with torch.no_grad():
        next(module.parameters()).fill_(math.nan)
    with pytest.raises(TuneError) as caught:
        module.range()
    assert str(caught.value) == f"range of tensor conv1: {NAN}"


def test_a_weight_step_that_became_nan_is_named() -> None:
    params: QuantParams = symmetric_params(torch.ones(3), Grid(4, narrow=True), 0)
    module = WeightStep("fc/weight", params, 4)
    with torch.no_grad():
        module.step[1] = math.inf
    with pytest.raises(TuneError) as caught:
        module.quantize(torch.ones(3, 2))
    assert str(caught.value) == f"range of fc/weight: {NAN}"
