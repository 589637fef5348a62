"""Search: the fewest skips that meet the target, found by greedy or by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.search.skip import Method, SearchResult, search
from qviz.sensitivity import Sensitivity, SensitivityRow

NAMES = ("a", "b", "c", "d")


class Chain(nn.Module):
    """Four linear layers of 4 x 4: 16 multiply-accumulates each."""

    def __init__(self) -> None:
        super().__init__()
        for name in NAMES:
            setattr(self, name, nn.Linear(4, 4, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in NAMES:
            x = getattr(self, name)(x)
        return x


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Chain(), Batch((torch.zeros(2, 4),), {}, None, 2))


def ranking(**drops: float) -> Sensitivity:
    """A ranking whose divergence and drop are the same number."""
    rows = tuple(
        SensitivityRow(name, "linear", d, None, -d, None, 1 - d, 10, True, i, i)
        for i, (name, d) in enumerate(sorted(drops.items(), key=lambda kv: -kv[1]))
    )
    return Sensitivity(rows, "only_this", "both", "top1", "kl")


def measured(drop: float) -> Evaluation:
    value = 1.0 - drop
    return Evaluation(
        metric=METRICS["top1"],
        scores=Scores("top1", value, 10),
        reference=Scores("top1", 1.0, 10),
        change=value - 1.0,
        interval=Interval(value - 1.01, value - 0.99),
        divergence=drop,
        divergence_name="kl",
        flips=(),
        p_value=None,
    )


def additive(graph: Graph, **drops: float) -> Callable[[Recipe], Evaluation]:
    """A model whose loss is the sum of the losses of the ops still int8."""
    return lambda recipe: measured(sum(d for n, d in drops.items() if n not in recipe.skipped))


DROPS = {"a": 0.004, "b": 0.06, "c": 0.02, "d": 0.001}


def found(graph: Graph, method: Method = "greedy", max_drop: float = 0.01) -> SearchResult:
    measure = additive(graph, **DROPS)
    return search(Recipe(), graph, ranking(**DROPS), measure, max_drop=max_drop, method=method)


@pytest.mark.parametrize("method", ["greedy", "bisect"])
def test_the_worst_ops_are_skipped_until_the_target_is_met(graph: Graph, method: Method) -> None:
    result = found(graph, method)
    assert set(result.best.skipped) == {"b", "c"}
    assert result.reached
    assert result.best.drop == pytest.approx(0.005)
    assert set(result.recipe.skipped) == {"b", "c"}


def test_the_curve_holds_every_measured_point_with_its_prediction(graph: Graph) -> None:
    points = {p.skipped: p for p in found(graph).curve}
    assert points[()].drop == pytest.approx(0.085)
    assert points[("b",)].drop == pytest.approx(0.025)
    assert points[("b",)].predicted == pytest.approx(0.025)
    assert points[("b",)].predicted_divergence == points[("b",)].divergence == pytest.approx(0.025)
    assert points[("b", "c")].float_macs == pytest.approx(0.5)


def test_the_prediction_takes_its_rate_from_all_int8(graph: Graph) -> None:
    # Alone the ops cause a divergence of 0.085, together twice that: half the rate.
    doubled = {name: 2 * drop for name, drop in DROPS.items()}
    result = search(Recipe(), graph, ranking(**DROPS), additive(graph, **doubled))
    first, second = result.curve[:2]
    assert first.drop == pytest.approx(0.17)
    assert first.predicted == pytest.approx(0.085)
    assert second.predicted == pytest.approx(0.025)


def test_a_ranking_that_knows_nothing_predicts_nothing(graph: Graph) -> None:
    unknown = ranking(**DROPS)
    unknown = replace(unknown, rows=tuple(replace(r, exact=False) for r in unknown.rows))
    result = search(Recipe(), graph, unknown, additive(graph, **DROPS))
    assert {point.predicted for point in result.curve} == {None}


def test_nothing_is_skipped_if_all_int8_is_within_the_target(graph: Graph) -> None:
    result = found(graph, max_drop=0.1)
    assert result.best.skipped == ()
    assert len(result.curve) == 1


@pytest.mark.parametrize("method", ["greedy", "bisect"])
def test_ops_are_ranked_only_where_something_must_be_left_in_float(
    graph: Graph, method: Method
) -> None:
    asked: list[int] = []

    def rank() -> Sensitivity:
        asked.append(1)
        return ranking(**DROPS)

    measure = additive(graph, **DROPS)
    met = search(Recipe(), graph, rank, measure, max_drop=0.1, method=method)
    assert (asked, met.reached, met.ranking, met.quantizable) == ([], True, (), 4)
    assert met.summary == "0 of 4 ops in float (0.0% of MACs): drop 8.50%, target 10.00%"
    missed = search(Recipe(), graph, rank, measure, method=method)
    assert asked == [1]
    assert asdict(missed) == asdict(found(graph, method))


def test_a_skip_that_turns_out_not_to_be_needed_is_given_back(graph: Graph) -> None:
    # Only c counts, but the ranking put b first.
    def measure(recipe: Recipe) -> Evaluation:
        return measured(0.0 if "c" in recipe.skipped else 0.05)

    result = search(Recipe(), graph, ranking(**DROPS), measure)
    assert result.best.skipped == ("c",)
    assert [p.step for p in result.curve] == ["add", "add", "add", "give back"]


@pytest.mark.parametrize("method", ["greedy", "bisect"])
def test_a_model_left_wholly_in_float_does_not_count(graph: Graph, method: Method) -> None:
    def measure(recipe: Recipe) -> Evaluation:
        return measured(0.0 if len(recipe.skipped) == 4 else 0.05)

    result = search(Recipe(), graph, ranking(**DROPS), measure, method=method)
    assert not result.reached
    assert len(result.best.skipped) < 4


@pytest.mark.parametrize("method", ["greedy", "bisect"])
def test_an_unreachable_target_gives_the_best_found_and_says_so(
    graph: Graph, method: Method
) -> None:
    def measure(recipe: Recipe) -> Evaluation:
        return measured(0.05 - 0.001 * len(recipe.skipped))

    result = search(Recipe(), graph, ranking(**DROPS), measure, method=method)
    assert not result.reached
    assert result.best.drop == pytest.approx(0.047)
    assert result.summary == (
        "3 of 4 ops in float (75.0% of MACs): drop 4.70%, target 1.00%. "
        "Target not reached: this is the best found"
    )


def test_the_recipes_own_skips_stay(graph: Graph) -> None:
    drops = {k: v for k, v in DROPS.items() if k != "d"}
    result = search(Recipe().skip("d"), graph, ranking(**drops), additive(graph, **drops))
    assert set(result.recipe.skipped) == {"b", "c", "d"}


def test_bisection_measures_few_points(graph: Graph) -> None:
    assert len(found(graph, "bisect").curve) <= 4


def test_sensitivity_spread_evenly_is_called_flat() -> None:
    even = ranking(**{f"op{i:02}": 0.01 for i in range(20)})
    steep = ranking(**{f"op{i:02}": 0.5**i for i in range(20)})
    assert even.flat
    assert not steep.flat


def test_shares_add_up_worst_first() -> None:
    assert ranking(a=0.5, b=0.3, c=0.2).shares == pytest.approx((0.5, 0.8, 1.0))


def test_points_are_told_as_they_are_measured(graph: Graph) -> None:
    seen: list[int] = []
    search(
        Recipe(),
        graph,
        ranking(**DROPS),
        additive(graph, **DROPS),
        on_point=lambda point: seen.append(len(point.skipped)),
    )
    assert seen == [0, 1, 2, 1]
