"""AdaQuant: ops whose best values are known, samples held out, both modes, what is left alone."""

from __future__ import annotations

import functools
from dataclasses import replace

import networks
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as drawing
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tune_kit import SAMPLES, error, generator, of_module, subject

from qviz.affine import Grid, fake_quantize, range_params
from qviz.errors import TuneError
from qviz.graph import TensorInfo
from qviz.recipe import Recipe, TensorRange
from qviz.rewrite import aten
from qviz.tune import adaquant, equalization, reconstruction_cache
from qviz.tune.reconstruction_cut import _chosen, cut_of
from qviz.tune.reconstruction_ranges import LearnedRange
from qviz.tune.reconstruction_units import units_of
from qviz.tune.step import Change, Step, Subject
from qviz.weights import TunedWeights

LOW = Recipe(ranges=networks.recipe("residual").ranges, weight_bits=3, activation_bits=4)
TOKENS = Recipe(ranges=networks.recipe("tokens").ranges, weight_bits=3, activation_bits=4)


class Chain(nn.Module):
    """Two linears, the second with nothing behind it."""

    def __init__(self, first: Tensor, second: Tensor, relu: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(first.shape[1], first.shape[0], bias=False)
        self.second = nn.Linear(second.shape[1], second.shape[0], bias=False)
        self.relu = relu
        with torch.no_grad():
            self.first.weight.copy_(first)
            self.second.weight.copy_(second)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        out: Tensor = self.second(y.relu() if self.relu else y)
        return out


def layer(weight: list[list[float]]) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(weight[0]), len(weight), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weight))  # type: ignore[operator]
    return model


def at(given: Subject, bits: int, *skipped: str) -> Subject:
    """Weights at some bits, and operands left in float."""
    return replace(given, recipe=replace(given.recipe, weight_bits=bits).skip(*skipped))


@functools.cache
def tuned(name: str, mode: str = "sequential") -> tuple[Subject, Step]:
    given = subject(name, LOW if name == "residual" else TOKENS)
    return given, adaquant.apply(given, mode=mode, iterations=30)


def held_out(given: Subject) -> list[int]:
    """Numbers of the samples that are held out of a fit on all of them."""
    count = given.calibration.count
    order = torch.randperm(count, generator=torch.Generator().manual_seed(given.seed))
    return order[: round(0.2 * count)].tolist()


def row(step: Step, target: str) -> Change:
    (found,) = (c for c in step.changes if c.target == target)
    return found


def test_a_range_far_too_wide_comes_in() -> None:
    """Four bits over [-8, 8] for values in [-1, 1]: steps of 1.14, where 0.14 would do."""
    x = 2 * torch.rand(200, 1, generator=generator()) - 1
    recipe = Recipe(activation_bits=4, ranges=(TensorRange("input", -8.0, 8.0, "max"),))
    given = at(of_module(layer([[1.0]]), x, recipe), 8)
    step = adaquant.apply(given, lr_activation_range=0.1, iterations=100)
    found = step.recipe.range_of["input"]
    assert found.calibrator == "adaquant"
    assert 0.9 < found.hi < 2.0
    change = row(step, "0")
    assert change.before is not None
    assert change.after is not None
    assert change.after < 0.05 * change.before


def test_the_bias_takes_off_what_rounding_adds_and_an_op_without_one_gets_it() -> None:
    """Inputs of 1 and a weight of 0.3 rounded to 0 at 2 bits: the bias becomes 0.3."""
    x = torch.cat([torch.ones(64, 1), 0.01 * torch.randn(64, 1, generator=generator())], 1)
    given = at(of_module(layer([[0.3, 1.0]]), x), 2, "kind:activation")
    step = adaquant.apply(given, lr_weight=0.0, lr_weight_range=0.0, lr_bias=0.1, iterations=100)
    assert step.weights is not None
    assert list(step.weights.biases) == ["0"]
    (bias,) = (step.weights.values[name] for name in step.weights.biases.values())
    assert bias.tolist() == pytest.approx([0.3], abs=0.01)


def test_an_op_without_error_keeps_what_it_has() -> None:
    x = torch.randn(32, 2, generator=generator())
    given = at(of_module(layer([[1.0, -1.0]]), x), 2, "kind:activation")
    step = adaquant.apply(given, iterations=3)
    assert step.weights is None
    assert step.recipe == given.recipe
    assert row(step, "0").before == row(step, "0").after == 0.0
    assert step.notes == (
        "0 of 1 ops are better on 6 held-out samples; no fit saw these",
        "kept as they were, no fit was better on held-out samples: 0",
    )


def test_a_fit_that_does_not_carry_over_to_held_out_samples_is_dropped() -> None:
    """Inputs are equal where fitted, opposite where held out: what helps one hurts the other."""
    x = torch.randn(50, 1, generator=generator())
    sign = torch.ones(50, 1)
    pair = torch.cat([x, x], 1)
    given = at(of_module(layer([[0.3, 0.45]]), pair), 2, "kind:activation")
    sign[held_out(given)] = -1.0
    pair[:, 1:] *= sign
    given = at(of_module(layer([[0.45, 0.45]]), pair), 2, "kind:activation")
    step = adaquant.apply(given, lr_bias=0.0, iterations=100)
    assert step.weights is None
    assert row(step, "0").note.startswith("kept: the best fit has ")


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_the_output_comes_closer_to_float(name: str, mode: str) -> None:
    given, step = tuned(name, mode)
    assert error(given, step) < 0.9 * error(given, Step(given.recipe, None, ()))


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_no_op_is_worse_on_the_samples_held_out(name: str) -> None:
    _, step = tuned(name)
    losses = [c for c in step.changes if c.unit == "held-out error / output power"]
    assert len(losses) == step.record["ops"]
    assert all(c.after is not None and c.before is not None and c.after <= c.before for c in losses)
    assert step.record["held_out_after"] < step.record["held_out_before"]  # type: ignore[operator]


def test_sequential_goes_on_from_what_the_tuned_network_computes() -> None:
    """Tuned a second time, each op starts at the loss that it ended with the first time."""
    given, step = tuned("residual")
    again = adaquant.apply(given.after(step), iterations=1)
    for op in ("conv1", "conv2", "conv3", "fc"):
        assert row(again, op).before == pytest.approx(row(step, op).after, rel=1e-3)


def test_sequential_undoes_errors_of_the_prefix_and_parallel_does_not() -> None:
    """The first op doubles its output by rounding; only who reads that can halve it again."""
    x = torch.randn(64, 2, generator=generator()) * torch.tensor([1.0, 0.01])
    model = Chain(torch.tensor([[0.55, 1.0]]), torch.tensor([[1.0]]))
    given = at(of_module(model, x), 2, "kind:activation", "second/weight")
    given = replace(given, ops=("second",), recipe=given.recipe.unskip("second/weight"))
    errors = {
        mode: error(given, adaquant.apply(given, mode=mode, lr_weight_range=0.05, iterations=100))
        for mode in ("parallel", "sequential")
    }
    assert errors["sequential"] < 0.1 * errors["parallel"]


def test_in_parallel_mode_an_op_does_not_depend_on_which_others_are_tuned() -> None:
    given, step = tuned("residual", "parallel")
    alone = adaquant.apply(replace(given, ops=("fc",)), mode="parallel", iterations=30)
    assert step.weights is not None
    assert alone.weights is not None
    assert torch.equal(step.weights.values["fc.weight"], alone.weights.values["fc.weight"])


@pytest.mark.parametrize("relu", [True, False])
def test_what_a_relu_cuts_off_does_not_count(relu: bool) -> None:
    """All outputs of the first op are negative: behind the ReLU there is nothing to fit."""
    x = torch.rand(32, 2, generator=generator())
    model = Chain(torch.tensor([[-0.3, -0.45]]), torch.tensor([[1.0]]), relu)
    given = at(of_module(model, x), 2, "kind:activation")
    step = adaquant.apply(given, mode="parallel", iterations=1)
    assert (row(step, "first").before == 0.0) == relu


def test_ops_of_two_activations_have_only_their_ranges_fitted() -> None:
    given, step = tuned("tokens")
    unit = next(u for u in units_of(given).found if given.graph.ops[u.op].type == "matmul")
    assert row(step, unit.op).what == "range"
    assert step.weights is not None
    assert not any(unit.op in name for name in step.weights.values)


def test_a_range_that_a_person_set_stays() -> None:
    recipe = LOW.with_range("relu:relu", 0.0, 1.5)
    step = adaquant.apply(subject("residual", recipe), iterations=2)
    assert step.recipe.range_of["relu:relu"] == recipe.range_of["relu:relu"]


def test_a_range_is_learned_once_and_only_if_all_of_its_readers_may_change() -> None:
    """The first ReLU is read by conv2 and by the residual add."""
    learned = {u.op: u.learned for u in units_of(subject("residual", LOW)).found}
    assert learned["conv2"] == {"relu:relu": 1}
    assert learned["add"] == {}
    some = units_of(subject("residual", LOW, ops=("conv2", "conv3")))
    assert [dict(u.learned) for u in some.found] == [{}, {"relu:relu.1": 0}]


def test_the_same_seed_gives_the_same_and_the_model_is_untouched() -> None:
    given = subject("residual", LOW, ops=("conv2",))
    before = {n: p.clone() for n, p in given.graph.module.named_parameters()}
    steps = [adaquant.apply(given, iterations=10) for _ in range(2)]
    assert steps[0].weights is not None
    assert steps[1].weights is not None
    assert steps[0].weights.key == steps[1].weights.key
    assert steps[0].recipe == steps[1].recipe
    assert all(torch.equal(p, before[n]) for n, p in given.graph.module.named_parameters())


def test_the_tuned_range_of_a_weight_is_the_grid_it_was_fitted_on() -> None:
    given, step = tuned("residual")
    assert step.weights is not None
    after = given.after(step).simulator
    for name, limits in step.weights.limits.items():
        params, _ = after.weight(after.graph.operands[name], 3, True)
        assert torch.allclose(params.scale * 3, limits[3])


def test_work_is_counted_forward_and_backward() -> None:
    """8 MACs per sample, of 10: 2 walks, 2 looks at 2 held out before, then at each of 2 checks.

    A check that is better looks at as many fitted samples too; a step is a product forward and two
    backward.
    """
    x = torch.randn(10, 2, generator=generator())
    given = at(of_module(layer([[0.3, 0.4]] * 4), x), 2)
    step = adaquant.apply(given, iterations=1, batch_size=5)
    walks, start, looks, steps = 2 * 10, 2 * 2, 2 * 2, 3 * 5
    least = 8 * (walks + start + looks + steps)
    assert step.record["macs"] in (least + 8 * 2, least + 2 * 8 * 2)
    assert (step.record["fitted"], step.record["held_out"]) == (8, 2)


def test_memory_for_a_fit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction_cache, "CACHE", 1)
    monkeypatch.setattr(reconstruction_cache, "FEWEST", 6)
    kept: list[int] = []
    real = reconstruction_cache.Cache

    def cache(*args: object) -> reconstruction_cache.Cache:
        made = real(*args)  # type: ignore[arg-type]
        kept.append(len(made.target))
        return made

    monkeypatch.setattr(reconstruction_cache, "Cache", cache)
    adaquant.apply(subject("residual", LOW, ops=("fc",)), iterations=1)
    assert kept[0] < 12


def test_outputs_that_were_rescaled_on_purpose_are_compared_rescaled() -> None:
    """The first op four times as large and the second a quarter: the same function."""
    x = torch.randn(32, 2, generator=generator())
    given = of_module(Chain(torch.tensor([[0.3, 0.4]]), torch.tensor([[1.0]]), relu=True), x)
    weights = TunedWeights(
        {"first.weight": torch.tensor([[1.2, 1.6]]), "second.weight": torch.tensor([[0.25]])},
        rescaled={"first": torch.tensor([4.0])},
    )
    moved = given.after(Step(given.recipe.skip("kind:activation"), weights, ()))
    step = adaquant.apply(moved, mode="parallel", iterations=1)
    assert all(c.before is not None and c.before < 1e-4 for c in step.changes)


def test_a_fit_that_overflows_keeps_its_op_and_is_named() -> None:
    second = torch.tensor([[1e30, 4e29]])
    model = Chain(torch.tensor([[0.3, 0.4], [0.2, -0.1]]), second)
    given = at(of_module(model, torch.randn(32, 2, generator=generator())), 2, "kind:activation")
    step = adaquant.apply(given, mode="parallel", iterations=5)
    assert "kept as they were, the fit became NaN or infinite: second" in step.notes
    assert row(step, "second").note == "kept: the fit became NaN or infinite"
    assert step.weights is not None
    assert "second.weight" not in step.weights.values
    assert step.record["diverged"] == 1


def test_rates_that_blow_up_everywhere_are_an_error() -> None:
    given = at(of_module(layer([[0.3, 0.4]]), torch.full((32, 2), 1e25)), 2, "kind:activation")
    with pytest.raises(TuneError) as caught:
        adaquant.apply(given, iterations=1)
    assert str(caught.value) == (
        "AdaQuant: every fit became NaN or infinite. Use smaller learning rates."
    )


def test_mixed_samples_of_a_product_are_held_out_by_the_batch() -> None:
    """The output projection of torch's attention reads rows of all tokens and samples."""
    given = subject("seq first", Recipe(ranges=networks.recipe("seq first").ranges, weight_bits=3))
    assert "attn:linear.1" in adaquant.sites(given)
    step = adaquant.apply(replace(given, ops=("attn:linear.1",)), iterations=10)
    change = row(step, "attn:linear.1")
    assert change.before is not None
    assert change.after is not None
    assert change.after < change.before


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_learned_range_quantizes_as_the_recipe_will(symmetric: bool) -> None:
    x = torch.randn(50, generator=generator())
    grid = Grid(4, symmetric=symmetric)
    learned = LearnedRange(TensorRange("t", -1.5, 2.0, "max"), grid)
    with torch.no_grad():
        for p in learned.parameters:
            p += 0.1
    found = learned.range("adaquant")
    assert torch.equal(learned(x), fake_quantize(x, range_params(found.lo, found.hi, grid)))


@drawing(
    size=st.integers(17, 24),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    grouped=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_window_has_the_outputs_of_the_whole(
    size: int, stride: int, padding: int, dilation: int, grouped: bool
) -> None:
    groups = 2 if grouped else 1
    weight = torch.randn(4, 4 // groups, 3, 3, generator=generator())
    x = torch.randn(3, 4, 2 * size, size, generator=generator(1))
    rest = [[stride] * 2, [padding] * 2, [dilation] * 2, groups]
    whole = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    made = TensorInfo(
        "y", "y", tuple(whole.shape[1:]), "float32", 0, 1, 1, "y", (), nonnegative=False
    )
    reads = replace(made, name="x", shape=tuple(x.shape[1:]))
    cut = cut_of("conv2d", [x, weight, None, *rest], weight, [reads], made)
    (part,), (output,) = cut.take([x], [whole], generator(2), None)
    found = aten.conv2d.default(*cut.arguments([cut.native(0, part), weight, None, *rest]))
    assert torch.allclose(found, output, atol=1e-4)
    assert output[0, 0].numel() <= 256


@pytest.mark.parametrize("merged", [False, True])
def test_rows_and_columns_of_a_product_have_the_outputs_of_the_whole(merged: bool) -> None:
    """Both for heads on an axis of their own and for heads on the batch axis, as ``bmm`` has."""
    left = torch.randn(3, 2, 300, 5, generator=generator(1))
    right = torch.randn(3, 2, 5, 400, generator=generator(2))
    multiple = 2 if merged else 1

    def info(value: Tensor) -> TensorInfo:
        shape = tuple(value.shape[1:])
        return TensorInfo("y", "y", shape, "float32", 0, multiple, None, "y", (), nonnegative=False)

    whole = left @ right
    args = [v.flatten(0, 1) if merged else v for v in (left, right)]
    cut = cut_of("matmul", args, None, [info(left), info(right)], info(whole))
    parts, (output,) = cut.take([left, right], [whole], generator(3), None)
    assert output.shape == (3, 2, 256, 256)
    made = torch.matmul(*(cut.native(i, part) for i, part in enumerate(parts)))
    torch.testing.assert_close(cut.common(made), output)


class Meeting(nn.Module):
    """Two convs whose sum one reads: equalization scales all three."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 3, 8))
        with torch.no_grad():
            for small in (self.a, self.b):
                small.weight.mul_(0.05)
            self.c.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c((self.a(x) + self.b(x)).relu())
        return y


def test_an_add_of_scaled_channels_is_left_alone() -> None:
    """What it gave in the float model is no target for it any more."""
    torch.manual_seed(0)
    before = of_module(Meeting(), torch.randn(SAMPLES, 3, 6, 6))
    assert "add" in [u.op for u in units_of(before).found]
    given = before.after(equalization.apply(before, least_gain=-100.0))
    assert set(given.graph.rescaled) == {"a", "b"}
    assert [u.op for u in units_of(given).found] == ["a", "b", "c"]
    step = adaquant.apply(given, iterations=2)
    assert "left alone, its channels were scaled: add" in step.notes


def test_rows_are_drawn_among_the_live_ones_and_again_where_there_are_fewer() -> None:
    live = torch.tensor([[True, False, True, True], [False, True, False, False], [False] * 4])
    found, each = _chosen(3, 4, 256, generator(3), live)
    assert found.shape == (3, 4)
    assert set(found[0].tolist()) == {0, 2, 3}
    assert set(found[1].tolist()) == {1}
    assert set(found[2].tolist()) == {0, 1, 2, 3}
    assert each.tolist() == [0.75, 0.25, 1.0]  # what comes again counts less
    everything = torch.ones(3, 4, dtype=torch.bool)
    known, other = (_chosen(3, 4, 2, generator(3), given) for given in (everything, None))
    assert torch.equal(known[0], other[0])
    assert known[1].tolist() == other[1].tolist() == [2.0] * 3
