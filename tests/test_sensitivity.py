"""Sensitivity: what one op or operand does to the metric, exact and by proxy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import Data, as_data
from qviz.errors import Cancelled, RecipeError
from qviz.evaluate import Outputs, outputs
from qviz.metrics import METRICS, Metric, metric
from qviz.observe import observe
from qviz.proxy import proxy
from qviz.recipe import Override, Recipe, TensorRange
from qviz.sensitivity import (
    Measured,
    Mode,
    Operands,
    Sensitivity,
    measure,
    spearman,
    targets_of,
    variant,
)
from qviz.simulate import Simulator


class Net(nn.Module):
    """A convolution, a residual block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv(x) + x)
        y: Tensor = self.fc(x.flatten(1))
        return y


@dataclass(frozen=True)
class Case:
    """A small model with data, ranges by max and its float outputs."""

    simulator: Simulator
    data: Data
    recipe: Recipe
    reference: Outputs


def case(model: nn.Module, x: Tensor, y: Tensor) -> Case:
    data = as_data((x, y), "data")
    simulator = Simulator(capture(model, next(iter(data.head(2).batches(2)))))
    ranges = tuple(
        TensorRange(name, -h.amax, h.amax, "max")
        for name, h in observe(simulator.program, data).items()
    )
    recipe = Recipe(ranges=ranges, activation_bits=4, weight_bits=4)
    return Case(simulator, data, recipe, outputs(simulator.program, data, batch_size=8))


@pytest.fixture(scope="module")
def net() -> Case:
    torch.manual_seed(0)
    x = torch.randn(40, 1, 6, 6)
    return case(Net(), x, torch.randint(0, 3, (40,)))


def ranked(
    this: Case,
    *,
    mode: Mode = "only_this",
    operands: Operands = "both",
    what: str | Metric = "top1",
    budget: int = 1 << 30,
    known: tuple[Measured, ...] = (),
    kept: list[Measured] | None = None,
    estimates: Mapping[str, float] | None = None,
) -> Sensitivity:
    return measure(
        this.simulator,
        this.data,
        this.recipe,
        this.reference,
        metric(what),
        mode=mode,
        operands=operands,
        batch_size=8,
        budget=budget,
        proxy=estimates,
        known=known,
        save=None if kept is None else kept.append,
    )


def by_hand(this: Case, recipe: Recipe) -> Tensor:
    """KL per sample of a full simulated run."""
    made = outputs(
        this.simulator.program, this.data, this.simulator.edits(recipe), batch_size=8
    ).values
    kl = METRICS["kl"].per_sample
    assert kl is not None
    return kl(made, None, this.reference.values)


def test_only_this_equals_a_full_run_with_nothing_else_quantized(net: Case) -> None:
    kept: list[Measured] = []
    ranked(net, kept=kept)
    assert {p.key for p in kept} == {"stem", "conv", "add", "fc"}
    for part in kept:
        operands = targets_of(net.recipe, net.simulator.graph, operands="both", granularity="op")[
            part.key
        ]
        full = by_hand(net, variant(net.recipe, operands, "only_this"))
        assert torch.equal(part.divergence, full)


def test_all_but_this_is_what_leaving_it_in_float_wins(net: Case) -> None:
    everything = by_hand(net, net.recipe).mean()
    rows = {r.name: r for r in ranked(net, mode="all_but_this").rows}
    without = by_hand(net, net.recipe.skip("conv/input", "conv/weight")).mean()
    assert rows["conv"].divergence == pytest.approx(float(everything - without))


def test_a_small_memory_budget_changes_nothing(net: Case) -> None:
    kept: list[Measured] = []
    small = ranked(net, budget=1 << 14, kept=kept)
    assert len({p.start for p in kept}) > 1
    whole = ranked(net)
    assert [r.name for r in small.rows] == [r.name for r in whole.rows]
    assert [r.divergence for r in small.rows] == pytest.approx([r.divergence for r in whole.rows])


def test_parts_known_from_an_earlier_run_are_not_measured_again(net: Case) -> None:
    first: list[Measured] = []
    whole = ranked(net, kept=first)
    again: list[Measured] = []
    resumed = ranked(net, known=tuple(first[:3]), kept=again)
    assert len(again) == len(first) - 3
    assert resumed.rows == whole.rows


def test_weights_and_activations_are_measured_apart(net: Case) -> None:
    both = {r.name: r.divergence for r in ranked(net).rows}
    weights = {r.name: r.divergence for r in ranked(net, operands="weights").rows}
    activations = {r.name: r.divergence for r in ranked(net, operands="activations").rows}
    assert weights.keys() == {"stem", "conv", "fc"}
    assert activations.keys() == both.keys()
    assert all(weights[name] != both[name] for name in weights)


def test_operands_can_be_measured_one_by_one(net: Case) -> None:
    groups = targets_of(net.recipe, net.simulator.graph, operands="both", granularity="operand")
    assert set(groups) == {
        "stem/input",
        "stem/weight",
        "conv/input",
        "conv/weight",
        "add/1",
        "fc/input",
        "fc/weight",
    }


def test_a_recipe_with_nothing_int8_message(net: Case) -> None:
    with pytest.raises(RecipeError) as caught:
        targets_of(net.recipe.only(), net.simulator.graph, operands="both", granularity="op")
    assert str(caught.value) == (
        "recipe: leaves nothing int8 to measure. Quantize at least one op."
    )


def test_rows_come_worst_first_with_intervals_around_them(net: Case) -> None:
    rows = ranked(net).rows
    assert [r.rank for r in rows] == [0, 1, 2, 3]
    assert all(a.divergence >= b.divergence for a, b in itertools.pairwise(rows))
    for row in rows:
        assert row.divergence_interval is not None
        assert row.divergence in row.divergence_interval
        assert row.exact
        assert row.samples == 40


def test_a_metric_of_the_whole_corpus_can_rank_too(net: Case) -> None:
    def correlation(values: Tensor, targets: Tensor) -> float:
        stacked = torch.stack([values[:, 0], targets.float()])
        return float(torch.corrcoef(stacked)[0, 1])

    kept: list[Measured] = []
    result = ranked(net, what=metric(correlation), kept=kept)
    assert all(p.outputs is not None for p in kept)
    assert all(r.change is not None for r in result.rows)


class Scalar(nn.Module):
    """Linear layers alone: the output moves by exactly the Jacobian times the change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def test_the_proxy_is_exact_for_a_linear_model_with_one_output() -> None:
    torch.manual_seed(0)
    linear = case(Scalar(), torch.randn(20, 8), torch.randn(20, 1))
    edits = {
        name: linear.simulator.edits(variant(linear.recipe, operands, "only_this"))
        for name, operands in targets_of(
            linear.recipe, linear.simulator.graph, operands="both", granularity="op"
        ).items()
    }
    estimates = proxy(linear.simulator, linear.data, edits)
    exact = {r.name: r.divergence for r in ranked(linear, what="mse").rows}
    assert estimates == pytest.approx(exact, rel=1e-4)


def test_the_proxy_finds_the_op_with_fewer_bits(net: Case) -> None:
    coarse = net.recipe.override(Override("conv", bits=2))
    edits = {
        name: net.simulator.edits(variant(coarse, operands, "only_this"))
        for name, operands in targets_of(
            coarse, net.simulator.graph, operands="both", granularity="op"
        ).items()
    }
    estimates = proxy(net.simulator, net.data, edits)
    assert max(estimates, key=lambda name: estimates[name]) == "conv"


def test_estimates_stand_in_until_a_row_is_measured(net: Case) -> None:
    seen: list[Sensitivity] = []
    estimates = {"stem": 1.0, "conv": 3.0, "add": 2.0, "fc": 0.5}
    measure(
        net.simulator,
        net.data,
        net.recipe,
        net.reference,
        METRICS["top1"],
        batch_size=8,
        proxy=estimates,
        on_rows=seen.append,
    )
    assert [[r.name for r in s.rows if r.exact] for s in seen[:2]] == [[], ["conv"]]
    assert all(r.exact for r in seen[-1].rows)


def test_estimates_are_shown_before_anything_is_measured(net: Case) -> None:
    def stop(progress: object) -> None:
        raise Cancelled("test", "stopped", "Go on")

    seen: list[Sensitivity] = []
    with pytest.raises(Cancelled):
        measure(
            net.simulator,
            net.data,
            net.recipe,
            net.reference,
            METRICS["top1"],
            batch_size=8,
            proxy={"stem": 1.0, "conv": 3.0, "add": 2.0, "fc": 0.5},
            on_rows=seen.append,
            progress=stop,
        )
    first = [(r.name, r.divergence, r.exact, r.samples) for r in seen[0].rows]
    assert first == [
        ("conv", 3.0, False, 0),
        ("add", 2.0, False, 0),
        ("stem", 1.0, False, 0),
        ("fc", 0.5, False, 0),
    ]


def test_without_estimates_nothing_is_shown_before_the_first_part(net: Case) -> None:
    seen: list[Sensitivity] = []
    measure(
        net.simulator,
        net.data,
        net.recipe,
        net.reference,
        METRICS["top1"],
        mode="all_but_this",
        batch_size=8,
        on_rows=seen.append,
    )
    assert [sum(r.exact for r in s.rows) for s in seen] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 1.0, 2.0], [1.0, 1.0, 5.0], 1.0),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], 0.8),
    ],
    ids=["same order", "reversed", "ties", "one swap"],
)
def test_spearman_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
