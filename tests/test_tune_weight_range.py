"""Weight range search: by hand, against trying every range, and what it may not change."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import networks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from tune_kit import cancel, error, generator, subject, values

from qviz.affine import Grid, QuantParams, fake_quantize, symmetric_params, weight_params
from qviz.errors import Cancelled, TuneError
from qviz.recipe import Recipe
from qviz.tune import weight_range
from qviz.tune.step import Step
from qviz.tune.weight_range import search, weight_error
from qviz.weights import TunedWeights

RANGES = networks.recipe("residual").ranges
THREE = Recipe(ranges=RANGES, weight_bits=3)


def searched(value: Tensor, bits: int, axis: int | None = 0) -> tuple[Tensor, float, float]:
    now = weight_params(value, bits, axis)
    return search(partial(weight_error, value), now, bits, now)


def test_the_range_by_hand() -> None:
    """Codes -1, 0, 1: all four become amax, least squares from 1 and three times 0.6 is 0.7."""
    amax, before, after = searched(torch.tensor([[1.0, 0.6, 0.6, 0.6]]), 2)
    assert amax.tolist() == pytest.approx([0.7], abs=0.005)
    assert before == pytest.approx(3 * 0.4**2)
    assert after == pytest.approx(0.3**2 + 3 * 0.1**2, rel=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_range_of_a_fine_grid_is_much_better(bits: int) -> None:
    value = torch.randn(6, 40, generator=generator())
    amax, _, _ = searched(value, bits)
    for row, limit in zip(value, amax, strict=True):
        ends = row.abs().max() * torch.linspace(0.1, 1.0, 400)
        errors = [float((naive(row, float(e), bits) - row).square().sum()) for e in ends]
        own = float((naive(row, float(limit), bits) - row).square().sum())
        assert own <= 1.1 * min(errors)


def naive(row: Tensor, amax: float, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    return torch.fake_quantize_per_tensor_affine(row, amax / top, 0, -top, top)


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]), st.sampled_from([0, 1, None]))
@settings(max_examples=20, deadline=None)
def test_no_channels_error_grows(seed: int, bits: int, axis: int | None) -> None:
    value = torch.randn(3, 5, 2, generator=generator(seed)) ** 3
    amax, _, _ = searched(value, bits, axis)
    own = symmetric_params(amax, Grid(bits, narrow=True), axis)
    before = weight_error(value, weight_params(value, bits, axis))
    assert bool((weight_error(value, own) <= before * (1 + 1e-6)).all())


def test_weights_on_their_grid_keep_their_limit() -> None:
    grid = symmetric_params(torch.tensor([0.5]), Grid(4, narrow=True), 0)
    value = fake_quantize(torch.randn(1, 30, generator=generator()), grid)
    amax, before, after = search(partial(weight_error, value), grid, 4, weight_params(value, 4, 0))
    assert amax.tolist() == pytest.approx([0.5])
    assert before == after == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("op", ["conv1", "conv3", "fc"])
def test_the_error_of_the_outputs_is_that_of_the_op_alone(op: str) -> None:
    """Measured again by running the float model with that one weight rounded."""
    own = subject("residual", THREE, batch_size=100)
    step = weight_range.apply(own)
    change = next(c for c in step.changes if c.target == f"{op}/weight")
    recipe = replace(THREE, int8=False).only(f"{op}/weight")
    plain = values(own, None, recipe=False)[op]
    zero = torch.zeros_like(own.simulator.program.parameter(f"{op}.weight"))
    bias = values(own, TunedWeights({f"{op}.weight": zero}), recipe=False)[op]
    for weights, found in ((None, change.before), (step.weights, change.after)):
        made = values(replace(own, recipe=recipe), weights, recipe=True)[op]
        wanted = (made - plain).double().square().sum() / (plain - bias).double().square().sum()
        assert found == pytest.approx(float(wanted), rel=1e-3)


def test_ranges_for_the_outputs_serve_the_outputs_better() -> None:
    own = subject("residual", THREE)
    errors = {e: error(own, weight_range.apply(own, error=e)) for e in ("outputs", "weights")}
    assert errors["outputs"] < errors["weights"]
    assert errors["outputs"] < error(own, Step(THREE, None, ()))


@pytest.mark.parametrize("kind", ["outputs", "weights"])
def test_only_limits_at_the_recipes_width_are_changed(kind: str) -> None:
    own = subject("residual", THREE)
    step = weight_range.apply(own, error=kind)
    assert step.recipe == THREE
    assert step.weights is not None
    assert step.weights.values == {}
    assert {b for limits in step.weights.limits.values() for b in limits} == {3}
    after = own.after(step)
    operand = after.graph.operands["conv1/weight"]
    params: QuantParams = after.simulator.weight(operand, 3, True)[0]
    torch.testing.assert_close(params.scale * 3, step.weights.limits["conv1/weight"][3])


def test_one_scale_per_tensor_gets_one_limit() -> None:
    step = weight_range.apply(subject("residual", replace(THREE, per_channel=False)))
    assert step.weights is not None
    assert {limits[3].dim() for limits in step.weights.limits.values()} == {0}


def test_searching_again_changes_nothing() -> None:
    own = subject("residual", THREE)
    again = weight_range.apply(own.after(weight_range.apply(own, error="weights")), error="weights")
    left = [c for c in again.changes if c.before and c.after and c.after < 0.97 * c.before]
    assert left == []


def test_sites_come_with_the_worst_first() -> None:
    own = subject("residual", THREE)
    losses = {}
    for operand in own.graph.operands.values():
        if operand.kind == "weight":
            value = own.simulator.program.parameter(operand.tensor)
            made = own.simulator.weight(operand, 3, True)[1]
            losses[operand.op] = float((made - value).square().sum() / value.square().sum())
    assert weight_range.sites(own) == tuple(sorted(losses, key=lambda op: -losses[op]))


def test_only_the_ops_asked_for_are_searched() -> None:
    step = weight_range.apply(subject("residual", THREE, ops=("conv2",)))
    assert [c.target for c in step.changes] == ["conv2/weight"]


def test_float_weights_are_refused() -> None:
    with pytest.raises(TuneError) as caught:
        weight_range.apply(subject("residual", replace(THREE, int8=False)))
    assert str(caught.value) == (
        "weight range search: no weight is int8. Make a conv or linear int8."
    )


def test_the_user_can_stop_it() -> None:
    with pytest.raises(Cancelled):
        weight_range.apply(subject("residual", progress=cancel))
