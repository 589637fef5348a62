"""What an error of an op counts: what moves the model's output, and padding nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, cast

import pytest
import torch
from torch import Tensor, nn
from tune_kit import SAMPLES, generator, of_module, subject, values

from qviz.progress import Reporter
from qviz.recipe import Recipe
from qviz.tune import adaquant, adaround, bias_correction, statistics, weight_range
from qviz.tune.importance import Importance, importance_of
from qviz.tune.reconstruction_cache import Cache, record
from qviz.tune.reconstruction_fit import Loss
from qviz.tune.reconstruction_state import AsItIs, Variables
from qviz.tune.reconstruction_units import units_of
from qviz.tune.reconstruction_walk import Walk
from qviz.tune.step import Step, Subject


class Method(Protocol):
    def apply(self, subject: Subject, *, mode: str) -> Step: ...


def found_in(given: Subject, size: int = 7) -> Mapping[str, list[Importance]]:
    program = given.original.differentiable
    steps = {unit.op: unit.steps[-1] for unit in units_of(given).found}
    batches = list(given.calibration.batches(size))
    found, note = importance_of(program, steps, batches, 0, Reporter("fit", 1, None))
    assert note == ""
    return found


class Masked(nn.Module):
    """Two linears on each of six rows; only the rows that are not all zero count in the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = (x.abs().sum(-1, keepdim=True) > 0).to(x.dtype)
        y: Tensor = (self.second(self.first(x).relu()) * mask).sum(1)
        return y


def padded() -> Tensor:
    """Rows 0 and 1 are there, of every other sample only row 0."""
    x = torch.randn(SAMPLES, 6, 8, generator=generator(5))
    x[:, 2:] = 0
    x[::2, 1] = 0
    return x


class Pairs(nn.Module):
    """A sample is two sequences, which the model below takes for samples of their own."""

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        self.one = one

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x.flatten(0, 1))
        return y.reshape(-1, 2 * y.shape[-1])


@pytest.mark.parametrize("pairs", [False, True])
def test_rows_that_reach_no_output_are_known_by_their_gradient(pairs: bool) -> None:
    torch.manual_seed(1)
    x = padded()
    given = of_module(Pairs(Masked()), x.unflatten(0, (-1, 2))) if pairs else of_module(Masked(), x)
    there = (x.abs().sum(-1) > 0).reshape(given.calibration.count, -1)
    found = found_in(given)
    assert [name.rpartition(".")[2] for name in found] == ["first", "second"]
    for parts in found.values():
        assert torch.equal(torch.cat([p.rows for p in parts]) > 0, there)


def test_a_fit_is_on_rows_that_reach_the_output() -> None:
    """The others are all alike: a fit of them would be perfect, and would be of nothing."""
    torch.manual_seed(1)
    given = of_module(Masked(), padded())
    unit = units_of(given).found[0]
    batches = list(given.calibration.batches(7))
    walk = Walk(given.original.program, {}, batches)
    counts = found_in(given)["first"]
    cache = record(unit, given.simulator, walk, walk, held_out=1, seed=0, importance=counts)
    (read,) = cache.inputs.values()
    assert bool((read != 0).any(-1).all())


class Attention(nn.Module):
    """One head; what is masked is no key, and its row does not count in the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mask = (x.abs().sum(-1, keepdim=True) > 0).to(x.dtype)
        far = (mask - 1).mT * 1e9
        scores = torch.matmul(self.q(x), self.k(x).mT) + far
        y: Tensor = (torch.matmul(scores.softmax(-1), self.v(x)) * mask).sum(1)
        return y


@pytest.mark.parametrize("pairs", [False, True])
def test_the_products_of_an_attention_are_fitted_on_rows_and_columns_that_count(
    pairs: bool,
) -> None:
    torch.manual_seed(1)
    x = padded()
    there = x.abs().sum(-1) > 0
    weighed = there & (there.sum(1, keepdim=True) > 1)  # one key alone gets everything
    model: nn.Module = Attention()
    if pairs:
        model, x = Pairs(model), x.unflatten(0, (-1, 2))
    given = of_module(model, x)
    batches = list(given.calibration.batches(7))
    units = [u for u in units_of(given).found if given.graph.ops[u.op].type == "matmul"]
    found = found_in(given)
    for unit, rows, columns in zip(
        units, (weighed, there), (weighed, there[:, :1].expand(-1, 8)), strict=True
    ):
        counts = found[unit.op]
        seen = torch.cat([p.rows for p in counts]), torch.cat([p.columns for p in counts])
        assert torch.equal(seen[0].reshape(rows.shape) > 0, rows)
        assert torch.equal(seen[1].reshape(columns.shape) > 0, columns)
        walk = Walk(given.original.program, {}, batches)
        cache = record(unit, given.simulator, walk, walk, held_out=1, seed=0, importance=counts)
        torch.testing.assert_close(cache.call(cache.inputs, None, None), cache.target)


WEIGHING: dict[str, Callable[[Subject], Step]] = {
    "bias correction": bias_correction.apply,
    "statistics tuning": lambda given: statistics.apply(given, where="all"),
    "weight range search": weight_range.apply,
}


@pytest.mark.parametrize("method", WEIGHING)
def test_padding_changes_nothing_of_what_is_tuned(method: str) -> None:
    torch.manual_seed(1)
    model = Masked()
    ranges = of_module(model, padded()).recipe.ranges
    recipe = Recipe(ranges=ranges, weight_bits=3, activation_bits=4)
    made = [
        WEIGHING[method](of_module(model, x, recipe)).weights for x in (padded(), padded()[:, :2])
    ]
    assert made[0] is not None
    assert made[1] is not None
    assert made[0].biases == made[1].biases
    for name, value in made[0].values.items():
        torch.testing.assert_close(value, made[1].values[name])
    assert made[0].limits.keys() == made[1].limits.keys()
    for name, limits in made[0].limits.items():
        torch.testing.assert_close(limits, made[1].limits[name])


class Weighed(nn.Module):
    """One number: the channels of every row by their factors, the rows by theirs."""

    rows, channels = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 3.0])

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.fc(x) * self.rows[:, None] * self.channels).sum((1, 2))
        return y[:, None]


def test_a_squared_error_counts_as_the_squared_gradient_of_the_output() -> None:
    """By hand: rows as 1 to 4 to 0, channels as 1 to 9, whatever the direction of the sample."""
    given = of_module(Weighed(), torch.randn(SAMPLES, 3, 4, generator=generator(1)))
    for part in found_in(given)["fc"]:
        first = part.rows[:, :1]
        torch.testing.assert_close(part.rows, first * torch.tensor([1.0, 4.0, 0.0]))
        torch.testing.assert_close(part.columns, torch.tensor([0.2, 1.8]))
        weights = part.weights(torch.empty(len(first), 3, 2))
        torch.testing.assert_close(weights[:, 1], 4 * first * torch.tensor([0.2, 1.8]))


class Keeping:
    """The variables of an op that has none."""

    def weight(self, *, final: bool) -> None:
        return None

    def bias(self) -> None:
        return None


def test_the_loss_is_the_weighed_error_over_the_weighed_power() -> None:
    """2 + 3 * 18 of 8 + 3 * 18 by hand: the first row is off by 1, of the other all is lost."""
    target, made = torch.tensor([[2.0, 2.0], [3.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    weights = torch.tensor([[1.0], [3.0]]).expand(2, 2)
    rows = torch.arange(2)
    for scale in (1.0, 1e-6):  # only what weights are beside each other counts
        cache = Cache({}, target, scale * weights, rows, rows, 1.0, lambda *given: made)
        loss = Loss(cache, {})(cast(Variables, Keeping()), rows, final=True)
        assert float(loss) == pytest.approx(56 / 62)


class Uneven(nn.Module):
    """Channels with 1, 2 and 1000 as their root mean squares."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor([1.0, 2.0, 1000.0]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


def test_enormous_channels_are_not_the_size_of_an_output_with_rows() -> None:
    """The median channel is; of one row per sample it is the root mean square of all."""
    for shape, size in (((SAMPLES, 4, 1), 2.0), ((SAMPLES, 1), (1_000_005 / 3) ** 0.5)):
        given = of_module(Uneven(), torch.randn(shape, generator=generator(1)))
        (unit,) = units_of(given).found
        walk = Walk(given.original.program, {}, list(given.calibration.batches(7)))
        counts = found_in(given).get("fc")
        cache = record(unit, given.simulator, walk, walk, held_out=1, seed=0, importance=counts)
        before = AsItIs(unit, cache, given.simulator, given.recipe)
        assert before.size == pytest.approx(size)


class Normed(nn.Module):
    """A layer norm takes the size of every row away."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.fc(x))
        return y


def separated() -> Tensor:
    """One of eight rows is nearly the same everywhere, and a thousand times as large as others."""
    x = torch.randn(64, 8, 16, generator=generator(2))
    x[:, 0] = 1000 * (1 + 0.1 * x[:, 0])
    return x


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("method", [adaquant, adaround])
def test_enormous_rows_do_not_take_the_fit_for_themselves(method: Method, mode: str) -> None:
    """The norm behind makes all rows alike; the squared error is of the enormous ones alone."""
    torch.manual_seed(3)
    model = Normed()
    ranges = of_module(model, separated()).recipe.ranges
    recipe = Recipe(ranges=ranges, weight_bits=3).skip("fc/input")
    given = of_module(model, separated(), recipe)
    step = method.apply(given, mode=mode)
    wanted = values(given, None, recipe=False)["norm"]
    before = values(given, None, recipe=True)["norm"]
    after = values(replace(given, recipe=step.recipe), step.weights, recipe=True)["norm"]
    assert (after - wanted).square().mean() < 0.9 * (before - wanted).square().mean()


def test_a_row_counts_the_same_however_many_rows_its_sample_has() -> None:
    """Samples with one row and with two: the entries of each weigh as much as its rows together."""
    torch.manual_seed(1)
    given = of_module(Masked(), padded())
    unit = units_of(given).found[1]
    walk = Walk(given.original.program, {}, list(given.calibration.batches(SAMPLES)))
    whole = [
        Importance((p.rows > 0).float(), torch.ones(4)) for p in found_in(given, SAMPLES)[unit.op]
    ]
    cache = record(unit, given.simulator, walk, walk, held_out=0, seed=0, importance=whole)
    assert cache.weights is not None
    sums = cache.weights.reshape(SAMPLES, -1, 4).mean(2).sum(1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 2.0]).repeat(SAMPLES // 2))


class Several(Masked):
    """The scored output first, then what is returned beside it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        mask = (x.abs().sum(-1, keepdim=True) > 0).to(x.dtype)
        hidden = self.first(x)
        return (self.second(hidden.relu()) * mask).sum(1), hidden, torch.fft.fft(x)


def test_only_the_output_that_is_scored_says_what_counts() -> None:
    given = of_module(Several(), padded())
    for part in found_in(given)["first"]:
        assert not bool(part.rows[:, 2:].any())


class Mixed(nn.Module):
    """The rows of all samples on one axis, sequence first, as nn.MultiheadAttention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Masked()

    def forward(self, x: Tensor) -> Tensor:
        batch, rows = x.shape[:2]
        mask = (x.abs().sum(-1, keepdim=True) > 0).to(x.dtype)
        y = self.one.first(x.transpose(0, 1).reshape(rows * batch, 8)).relu()
        y = self.one.second(y).reshape(rows, batch, 4).transpose(0, 1)
        made: Tensor = (y * mask).sum(1)
        return made


def test_rows_of_mixed_samples_are_told_apart_too() -> None:
    given = of_module(Mixed(), padded())
    there = padded().abs().sum(-1) > 0
    wanted = [part.T.flatten() for part in there.split(7)]
    found = found_in(given)
    assert len(found) == 2
    for parts in found.values():
        assert [p.rows.shape[0] for p in parts] == [1] * len(parts)
        assert all(torch.equal(p.rows[0] > 0, w) for p, w in zip(parts, wanted, strict=True))


class Scalar(nn.Module):
    """One number per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x).sum(1)
        return y


def test_samples_count_alike_where_the_output_is_one_number() -> None:
    given = of_module(Scalar(), torch.randn(SAMPLES, 3, 8, generator=generator(1)))
    for part in found_in(given)["fc"]:
        torch.testing.assert_close(part.rows, torch.ones_like(part.rows))


class Pooled(nn.Module):
    """The largest row of each channel, behind a batch norm of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.fc(x.flatten(0, 1))).relu().unflatten(0, (-1, x.shape[1]))
        y: Tensor = self.head(rows.amax(1))
        return y


def test_gamma_and_beta_are_compared_with_the_statistics_of_all_rows() -> None:
    """Of the rows that win the maximum alone, the mean is another."""
    torch.manual_seed(2)
    x = torch.randn(64, 32, 8, generator=generator(4))
    model = Pooled().train()
    with torch.no_grad():
        for _ in range(200):
            model(x)  # the running statistics become those of the data
    given = of_module(model, x)
    before, wanted = (values(given, None, recipe=on)["head"] for on in (True, False))
    step = statistics.apply(given, target="folded")
    after = values(given, step.weights, recipe=True)["head"]
    power = wanted.square().mean()
    assert (after - wanted).square().mean() < (before - wanted).square().mean() + 1e-3 * power


def test_a_model_that_cannot_be_differentiated_is_fitted_on_all_rows_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*given: object) -> None:
        raise RuntimeError("no gradient of this op\nmore about it")

    monkeypatch.setattr(torch.autograd, "backward", refused)
    torch.manual_seed(1)
    given = of_module(Masked(), padded())
    for method in (bias_correction, weight_range):
        assert method.apply(given).notes[0] == (
            "all rows count alike: the model cannot be differentiated (no gradient of this op)"
        )


def test_a_model_without_rows_is_not_differentiated() -> None:
    assert found_in(subject("residual")) == {}
