"""Cross-layer equalization: factors by hand, the float function kept, taken only where it gains."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import networks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tune_kit import cancel, error, generator, of_module, subject, values

from qviz.errors import Cancelled, TuneError
from qviz.rewrite import get_attr
from qviz.tune import equalization
from qviz.tune.equalization import factors
from qviz.tune.step import Step, Subject
from qviz.weights import TunedWeights, tuned_graph


def pair(first: list[list[float]], second: list[list[float]], inner: nn.Module) -> Subject:
    """Two linears with these weights, one scale each."""
    layers = [nn.Linear(len(w[0]), len(w)) for w in (first, second)]
    with torch.no_grad():
        for layer, weight in zip(layers, (first, second), strict=True):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.arange(len(weight)) + 1.0)
    model = nn.Sequential(layers[0], inner, layers[1])
    made = of_module(model, torch.randn(16, len(first[0]), generator=generator()))
    return replace(made, recipe=replace(made.recipe, per_channel=False))


@functools.cache
def uneven() -> Subject:
    """Rows of the first weight, and columns of the second, differ by up to a thousand."""
    rows = 10 ** torch.linspace(-1.5, 1.5, 8)
    first = torch.randn(8, 6, generator=generator(1)) * rows[:, None]
    second = torch.randn(4, 8, generator=generator(2)) / rows
    return pair(first.tolist(), second.tolist(), nn.ReLU())


def tuned(step: Step) -> TunedWeights:
    assert step.weights is not None
    return step.weights


def parameter(given: Subject, step: Step, name: str) -> Tensor:
    return get_attr(tuned_graph(given.graph, tuned(step)).module, name)


def test_factors_by_hand() -> None:
    # sqrt(4 * 1) / 1 = 2, sqrt(1 * 4) / 4 = 1/2, sqrt(9 * 9) / 9 = 1
    made, read = torch.tensor([4.0, 1.0, 9.0]), torch.tensor([1.0, 4.0, 9.0])
    assert factors(made, read).tolist() == [2.0, 0.5, 1.0]


def test_a_channel_that_nothing_makes_or_reads_keeps_its_scale() -> None:
    made, read = torch.tensor([0.0, 3.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    assert factors(made, read).tolist() == [1.0, 1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=6))
def test_afterwards_both_weights_have_the_same_range(ranges: list[tuple[float, float]]) -> None:
    made, read = torch.tensor(ranges, dtype=torch.float64).T
    s = factors(made, read)
    torch.testing.assert_close(made / s, read * s)
    torch.testing.assert_close(made / s, (made * read).sqrt())


def test_two_linears_by_hand() -> None:
    # r1 = 16 and 1, r2 = 1 and 4: s = 4 and 1/2
    given = pair([[16.0, -8.0], [1.0, 0.5]], [[1.0, 4.0], [-0.5, 2.0]], nn.ReLU())
    step = equalization.apply(given, least_gain=-100.0)
    assert parameter(given, step, "0.weight").tolist() == [[4.0, -2.0], [2.0, 1.0]]
    assert parameter(given, step, "0.bias").tolist() == [0.25, 4.0]
    assert parameter(given, step, "2.weight").tolist() == [[4.0, 2.0], [-2.0, 1.0]]
    assert "2.bias" not in tuned(step).values
    assert tuned(step).rescaled["0"].tolist() == [0.25, 2.0]
    assert [c.note for c in step.changes] == ["0 -> 2: factors 0.5 to 4"] * 2
    assert step.record == {"groups": 1, "sweeps": 2}


def test_the_range_between_is_made_anew_and_the_others_stay() -> None:
    given = uneven()
    step = equalization.apply(given)
    moved = values(given, step.weights, recipe=False)
    before, after = given.recipe.range_of, step.recipe.range_of
    assert after["input"] == before["input"]
    top = float(moved["1"].max())
    assert (after["1"].lo, after["1"].hi) == (-top, top)
    assert before["1"].hi != top


def test_uneven_channels_gain_much_with_one_scale_per_tensor() -> None:
    given = uneven()
    step = equalization.apply(given)
    before = error(given, Step(given.recipe, None, ()))
    assert error(given, step) < before / 10
    first, second = step.changes
    assert (first.target, second.target) == ("0/weight", "2/weight")
    assert first.before is not None
    assert first.after is not None
    assert first.after > first.before


def test_the_float_function_stays() -> None:
    given = uneven()
    step = equalization.apply(given)
    before, after = (values(given, w, recipe=False)["2"] for w in (None, step.weights))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("least_gain", [-100.0, 0.0])
def test_the_float_function_of_a_residual_network_stays(least_gain: float) -> None:
    given = subject("residual", replace(networks.recipe("residual"), per_channel=False))
    step = equalization.apply(given, least_gain=least_gain)
    before, after = (values(given, w, recipe=False)["fc"] for w in (None, step.weights))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert not torch.equal(
        get_attr(given.graph.module, "conv2.weight"), parameter(given, step, "conv2.weight")
    )


def test_a_chain_settles_where_neighbours_are_even() -> None:
    layers = [nn.Linear(4, 4) for _ in range(4)]
    model = networks.made(nn.Sequential(*[m for x in layers for m in (x, nn.ReLU())][:-1]))
    own = of_module(model, torch.randn(16, 4, generator=generator()))
    given = replace(own, recipe=replace(own.recipe, per_channel=False))
    step = equalization.apply(given, least_gain=-100.0)
    weights = [parameter(given, step, f"{i}.weight") for i in (0, 2, 4, 6)]
    for one, other in itertools.pairwise(weights):
        torch.testing.assert_close(one.abs().amax(1), other.abs().amax(0), rtol=2e-3, atol=0.0)
    assert 2 < int(step.record["sweeps"]) < 50


def test_with_a_scale_per_channel_nothing_is_gained_and_said_so() -> None:
    given = uneven()
    fine = replace(given, recipe=replace(given.recipe, per_channel=True))
    even = pair([[1.0, 2.0], [2.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]], nn.ReLU())
    assert equalization.sites(even) == ()
    with pytest.raises(TuneError) as caught:
        equalization.apply(even)
    assert str(caught.value) == (
        "cross-layer equalization: no group of channels gains 0.25 dB of weight SQNR (1 tried). "
        "Leave it out; it helps where one scale per weight tensor meets uneven channels."
    )
    # the rows of the first weight have scales of their own: only the second is left to gain
    assert len(equalization.apply(fine).changes) == 2


def test_without_a_pair_it_says_what_is_between() -> None:
    with pytest.raises(TuneError) as caught:
        equalization.apply(pair([[1.0, 2.0]], [[2.0], [1.0]], nn.SiLU()))
    assert str(caught.value) == (
        "cross-layer equalization: no two ops with int8 weights follow each other with only "
        "homogeneous ops between (0: left alone, its output goes through silu, which no factor "
        "passes). It needs ReLU or nothing between conv or linear ops; leave it out otherwise."
    )


def test_only_the_ops_asked_for_are_scaled() -> None:
    given = subject(
        "residual", replace(networks.recipe("residual"), per_channel=False), ops=("conv2",)
    )
    step = equalization.apply(given, least_gain=-100.0, shared=False)
    assert {c.target for c in step.changes} == {"conv2/weight", "conv3/weight"}


def test_channels_of_an_add_are_left_alone_if_asked() -> None:
    given = subject("residual", replace(networks.recipe("residual"), per_channel=False))
    every = equalization.apply(given, least_gain=-100.0)
    pairs = equalization.apply(given, least_gain=-100.0, shared=False)
    assert {c.target for c in every.changes} > {c.target for c in pairs.changes}


def test_a_range_set_by_hand_is_not_moved_away_from() -> None:
    given = uneven()
    held = replace(given, recipe=given.recipe.with_range("1", 0.0, 1.0))
    with pytest.raises(TuneError, match="no two ops with int8 weights follow each other"):
        equalization.apply(held)


def test_ops_whose_weights_are_float_are_no_sites() -> None:
    given = uneven()
    floating = replace(given, recipe=given.recipe.skip("0", "2"))
    assert equalization.sites(given) == ("0", "2")
    assert equalization.sites(floating) == ()


def test_it_can_be_cancelled_and_leaves_nothing() -> None:
    given = uneven()
    before = get_attr(given.graph.module, "0.weight").clone()
    with pytest.raises(Cancelled):
        equalization.apply(replace(given, progress=cancel))
    assert torch.equal(get_attr(given.graph.module, "0.weight"), before)


class Branches(nn.Module):
    """Two branches that share nothing: the first gains much by equalization, the second little."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.c, self.d = nn.Linear(8, 16), nn.Linear(16, 4)
        with torch.no_grad():
            for made, read, spread in ((self.a, self.b, 1.0), (self.c, self.d, 0.06)):
                factors = torch.logspace(-spread, spread, 16)
                made.weight.mul_(factors[:, None])
                read.weight.div_(factors)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b(self.a(x).relu()), self.d(self.c(x).relu())], 1)


def test_a_group_that_gains_too_little_stays_out_whatever_others_do() -> None:
    torch.manual_seed(4)
    given = of_module(Branches(), torch.randn(16, 8))
    given = replace(given, recipe=replace(given.recipe, per_channel=False))
    step = equalization.apply(given, least_gain=1.0)
    assert [change.target for change in step.changes] == ["a/weight", "b/weight"]
    with pytest.raises(TuneError):
        equalization.apply(replace(given, ops=("c", "d")), least_gain=1.0)
