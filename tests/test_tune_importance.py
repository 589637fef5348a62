"""Rows that reach no output, like padding: how they are known, and that no method weighs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from tune_kit import SAMPLES, generator, of_module, subject

from qviz.progress import Reporter
from qviz.recipe import Recipe
from qviz.tune import bias_correction, statistics, weight_range
from qviz.tune.live_rows import Live, live_rows
from qviz.tune.reconstruction_cache import record
from qviz.tune.reconstruction_units import units_of
from qviz.tune.reconstruction_walk import Walk
from qviz.tune.step import Step, Subject


def found_in(given: Subject) -> Mapping[str, list[Live]]:
    program = given.original.differentiable
    steps = {unit.op: unit.steps[-1] for unit in units_of(given).found}
    batches = list(given.calibration.batches(7))
    return live_rows(program, steps, batches, 0, Reporter("fit", 1, None))


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
        assert torch.equal(torch.cat([p.rows for p in parts]), there)


def test_a_fit_is_on_rows_that_reach_the_output() -> None:
    """The others are all alike: a fit of them would be perfect, and would be of nothing."""
    torch.manual_seed(1)
    given = of_module(Masked(), padded())
    unit = units_of(given).found[0]
    batches = list(given.calibration.batches(7))
    walk = Walk(given.original.program, {}, batches)
    live = found_in(given)["first"]
    cache = record(unit, given.simulator, walk, walk, held_out=1, seed=0, live=live)
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
        live = found[unit.op]
        assert torch.equal(torch.cat([p.rows for p in live]).reshape(rows.shape), rows)
        seen = torch.cat([p.columns for p in live if p.columns is not None])
        assert torch.equal(seen.reshape(columns.shape), columns)
        walk = Walk(given.original.program, {}, batches)
        cache = record(unit, given.simulator, walk, walk, held_out=1, seed=0, live=live)
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


def test_a_model_without_rows_is_not_differentiated() -> None:
    assert found_in(subject("residual")) == {}
