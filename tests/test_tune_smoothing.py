"""Smoothing: factors by hand, folded into norm and linears, taken only where outputs gain."""

from __future__ import annotations

import functools
from dataclasses import replace

import networks
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tune_kit import cancel, error, generator, of_module, subject, values

from qviz.errors import Cancelled, TuneError
from qviz.recipe import Override
from qviz.rewrite import get_attr
from qviz.tune import smoothing
from qviz.tune.smoothing import STRENGTHS, factors
from qviz.tune.step import Step, Subject
from qviz.weights import tuned_graph


class Block(nn.Module):
    """A norm that three linears read, one channel far larger than the others."""

    def __init__(self, norm: nn.Module, *, residual: bool = False) -> None:
        super().__init__()
        self.norm, self.residual = norm, residual
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.last = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = torch.tanh(self.q(x)) * torch.tanh(self.k(x)) + torch.tanh(self.v(x))
        return self.last(y + x) if self.residual else y


def outlier(norm: nn.Module, *, residual: bool = False) -> Subject:
    model = networks.made(Block(norm, residual=residual))
    with torch.no_grad():
        # the other channels need fine steps, the weights that read the large one are small
        model.norm.weight.copy_(torch.tensor([60.0] + 7 * [1.0]))  # type: ignore[operator, union-attr]
        for layer in (model.q, model.k, model.v):
            layer.weight[:, 0] *= 0.02  # type: ignore[operator, index, union-attr]
    return of_module(model, torch.randn(32, 6, 8, generator=generator()))


@functools.cache
def block() -> Subject:
    return outlier(nn.LayerNorm(8))


def parameter(given: Subject, step: Step, name: str) -> Tensor:
    assert step.weights is not None
    return get_attr(tuned_graph(given.graph, step.weights).module, name)


def test_factors_by_hand() -> None:
    # 16^0.5 / 4^0.5 = 2, 16^0.75 / 16^0.25 = 8 / 2 = 4
    assert factors(torch.tensor([16.0]), torch.tensor([4.0]), 0.5).tolist() == [2.0]
    assert factors(torch.tensor([16.0]), torch.tensor([16.0]), 0.75).tolist() == [4.0]


def test_a_silent_channel_keeps_its_scale() -> None:
    assert factors(torch.tensor([0.0, 4.0]), torch.tensor([4.0, 0.0]), 0.5).tolist() == [1.0, 1.0]


@settings(max_examples=40, deadline=None)
@drawn(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.0, 1.0))
def test_strength_divides_what_one_side_loses(x: float, w: float, strength: float) -> None:
    one, other = torch.tensor([[x], [w]], dtype=torch.float64)
    s = factors(one, other, strength)
    # at 1 the activation becomes 1, at 0 the weight does; between, both are powers of x w
    torch.testing.assert_close(x / s, torch.tensor([(x * w) ** (1 - strength)]).double())
    torch.testing.assert_close(w * s, torch.tensor([(x * w) ** strength]).double())


def test_query_key_and_value_share_the_factors_of_their_norm() -> None:
    """An implementation of its own: SmoothQuant's smooth_ln_fcs."""
    given = block()
    step = smoothing.apply(given, strength=0.5, samples=32)
    own = {n: get_attr(given.graph.module, n) for n in given.graph.weights}
    x = values(given, None, recipe=False)["norm"]
    most = torch.cat([own[f"{n}.weight"] for n in "qkv"]).abs().amax(0)
    s = x.abs().amax((0, 1)).pow(0.5) / most.pow(0.5)
    norm = {n: get_attr(given.graph.module, f"norm.{n}") for n in ("weight", "bias")}
    for name, value in norm.items():
        torch.testing.assert_close(parameter(given, step, f"norm.{name}"), value / s)
    for name in "qkv":
        torch.testing.assert_close(
            parameter(given, step, f"{name}.weight"), own[f"{name}.weight"] * s
        )
    assert [c.target for c in step.changes] == ["norm -> q, k, v"]
    assert step.record == {"samples": 32}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm], ids=["LayerNorm", "RMSNorm"])
def test_outliers_gain_and_the_float_function_stays(norm: type[nn.Module]) -> None:
    given = outlier(norm(8))
    step = smoothing.apply(given)
    last = given.graph.outputs[0]
    before, after = (values(given, w, recipe=False)[last] for w in (None, step.weights))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert error(given, step) < 0.5 * error(given, Step(given.recipe, None, ()))


def test_the_range_of_the_norm_is_made_anew() -> None:
    given = block()
    step = smoothing.apply(given)
    top = float(values(given, step.weights, recipe=False)["norm"].abs().max())
    assert (step.recipe.range_of["norm"].lo, step.recipe.range_of["norm"].hi) == (-top, top)
    assert top < given.recipe.range_of["norm"].hi


def test_the_strength_searched_is_the_best_of_the_grid() -> None:
    given = block()
    found = {a: smoothing.apply(given, strength=a).changes[0].after for a in STRENGTHS}
    (chosen,) = smoothing.apply(given).changes
    strength = float(chosen.note.split(",")[0].removeprefix("strength "))
    assert chosen.after == found[strength]
    # chosen on the other half of the rows, so it may miss the best by a little
    least = min(v for v in found.values() if v is not None)
    assert chosen.after is not None
    assert least <= chosen.after <= 1.2 * least


def test_every_norm_taken_has_less_error_on_rows_it_was_not_chosen_on() -> None:
    step = smoothing.apply(subject("tokens", replace(networks.recipe("tokens"), weight_bits=6)))
    assert step.changes
    for change in step.changes:
        assert change.before is not None
        assert change.after is not None
        assert change.after < change.before


def test_a_value_projection_is_smoothed_only_if_its_rows_have_scales() -> None:
    given = subject("tokens")
    coarse = replace(given, recipe=replace(given.recipe, per_channel=False))
    assert "attn.proj" in smoothing.sites(given)
    assert "attn.proj" not in smoothing.sites(coarse)
    assert "attn.qkv" in smoothing.sites(coarse)


def test_sites_are_the_readers_of_a_norm_that_is_asked_for() -> None:
    given = block()
    assert smoothing.sites(given) == ("q", "k", "v")
    assert smoothing.sites(replace(given, ops=("k",))) == ("q", "k", "v")
    assert smoothing.sites(replace(given, ops=("norm",))) == ("q", "k", "v")
    assert smoothing.sites(replace(given, ops=("last",))) == ()


def test_a_norm_whose_output_is_added_to_a_residual_is_left_alone() -> None:
    given = outlier(nn.LayerNorm(8), residual=True)
    with pytest.raises(TuneError) as caught:
        smoothing.apply(given)
    assert str(caught.value) == (
        "smoothing: no int8 linear reads a norm, or a value projection, that could be scaled "
        "(norm: left alone, its output is added to a value that must keep its scale). Leave it "
        "out; it needs a LayerNorm or RMSNorm that only linears read."
    )


def test_a_float_input_needs_no_smoothing() -> None:
    given = block()
    floating = given.recipe.override(Override("kind:activation", int8=False))
    assert smoothing.sites(replace(given, recipe=floating)) == ()


def test_even_channels_are_left_as_they_are() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    given = of_module(
        nn.Sequential(nn.LayerNorm(4), layer), torch.randn(64, 4, generator=generator())
    )
    with pytest.raises(TuneError) as caught:
        smoothing.apply(given)
    assert str(caught.value) == (
        "smoothing: no strength lowers the error behind a norm (1 tried). Leave it out; it helps "
        "where a few channels are much larger than the others."
    )


def test_it_can_be_cancelled_and_leaves_nothing() -> None:
    given = block()
    before = get_attr(given.graph.module, "norm.weight").clone()
    with pytest.raises(Cancelled):
        smoothing.apply(replace(given, progress=cancel))
    assert torch.equal(get_attr(given.graph.module, "norm.weight"), before)
