"""Estimates: divergences add up, the drop follows them, and the check of both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.estimate import Anchor, Effects, additivity, effects, estimate, not_monotone
from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.ranking import Sensitivity, SensitivityRow
from qviz.recipe import Recipe, TensorRange

#: All int8: a divergence of 1.0 cost a drop of 10 %.
ANCHOR = Anchor(0.1, Interval(0.05, 0.2), 1.0)
OPS = {"a": 0.5, "b": 0.3, "c": 0.1}


class Chain(nn.Module):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.c(self.b(self.a(x)))
        return y


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Chain(), Batch((torch.zeros(2, 4),), {}, None, 2))


@pytest.fixture(scope="module")
def recipe(graph: Graph) -> Recipe:
    return Recipe(ranges=tuple(TensorRange(name, -1.0, 1.0, "max") for name in graph.observed))


def row(name: str, divergence: float, *, exact: bool = True) -> SensitivityRow:
    return SensitivityRow(name, "linear", divergence, None, None, None, None, 9, exact, 0, 0)


def ranking(*rows: SensitivityRow, **proxy: float) -> Sensitivity:
    return Sensitivity(rows, "only_this", "both", "top1", "kl", proxy)


def evaluation(change: float, metric: str) -> Evaluation:
    scores = Scores(metric, 1.0, 10)
    low, high = change - 0.01, change + 0.03
    return Evaluation(
        METRICS[metric], scores, scores, change, Interval(low, high), 0.5, "kl", (), None
    )


def test_the_divergence_left_is_the_sum_over_the_ops_still_int8(
    graph: Graph, recipe: Recipe
) -> None:
    found = estimate(Effects(OPS, frozenset("ac")), graph, recipe.skip("a"))
    assert found is not None
    assert found.divergence == pytest.approx(0.4)
    assert (found.ops, found.measured) == (2, 1)
    assert (found.drop, found.interval) == (None, None)


def test_the_drop_is_in_proportion_to_the_divergence(graph: Graph, recipe: Recipe) -> None:
    found = estimate(Effects(OPS), graph, recipe.skip("a"), ANCHOR)
    assert found is not None
    assert found.drop == pytest.approx(0.04)
    assert found.interval == Interval(pytest.approx(0.02), pytest.approx(0.08))  # type: ignore[arg-type]


def test_nothing_int8_loses_nothing(graph: Graph, recipe: Recipe) -> None:
    found = estimate(Effects({}), graph, recipe.skip("a", "b", "c"), ANCHOR)
    assert found is not None
    assert (found.divergence, found.drop, found.ops) == (0.0, 0.0, 0)


def test_an_int8_op_of_which_nothing_is_known_leaves_the_whole_unknown(
    graph: Graph, recipe: Recipe
) -> None:
    known = Effects({"a": 0.5, "b": 0.3})
    assert estimate(known, graph, recipe, ANCHOR) is None
    assert estimate(known, graph, recipe.skip("c"), ANCHOR) is not None


def test_operands_share_out_what_their_op_was_measured_to_cause(
    graph: Graph, recipe: Recipe
) -> None:
    known = Effects({**OPS, "a/input": 0.1, "a/weight": 0.3})
    found = estimate(known, graph, recipe.skip("a/input", "b", "c"))
    assert found is not None
    assert found.divergence == pytest.approx(0.5 * 0.3 / 0.4)


def test_operands_stand_in_for_an_op_that_is_not_ranked(graph: Graph, recipe: Recipe) -> None:
    known = Effects({"a/input": 0.1, "a/weight": 0.3})
    found = estimate(known, graph, recipe.skip("b", "c"))
    assert found is not None
    assert found.divergence == pytest.approx(0.4)


def test_half_an_op_is_unknown_if_nothing_tells_its_operands_apart(
    graph: Graph, recipe: Recipe
) -> None:
    assert estimate(Effects(OPS), graph, recipe.skip("a/input")) is None


def test_an_op_that_seems_to_help_counts_as_nothing(graph: Graph, recipe: Recipe) -> None:
    found = estimate(Effects({**OPS, "a": -0.2}), graph, recipe)
    assert found is not None
    assert found.divergence == pytest.approx(0.4)


def test_measured_rows_win_over_estimates_whatever_the_order() -> None:
    estimated = ranking(row("a", 0.7, exact=False), row("b", 0.2, exact=False), a=0.7, b=0.2)
    measured = ranking(row("a", 0.5))
    for order in ([estimated, measured], [measured, estimated]):
        known = effects(order)
        assert known.of == {"a": 0.5, "b": 0.2}
        assert known.measured == {"a"}


def test_only_what_ops_do_alone_with_both_operands_is_added_up() -> None:
    reverse = Sensitivity((row("a", 0.5),), "all_but_this", "both", "top1", "kl")
    weights = Sensitivity((row("a", 0.5),), "only_this", "weights", "top1", "kl")
    assert effects([reverse, weights]).of == {}


def test_a_row_neither_measured_nor_estimated_is_unknown() -> None:
    assert effects([ranking(row("a", 0.0, exact=False))]).of == {}


@pytest.mark.parametrize(("metric", "change"), [("top1", -0.05), ("kl", 0.05)])
def test_a_drop_is_positive_when_worse_whichever_way_the_metric_points(
    metric: str, change: float
) -> None:
    anchor = Anchor.of(evaluation(change, metric))
    assert anchor.drop == pytest.approx(0.05)
    assert anchor.drop in anchor.interval


def test_all_int8_that_scores_better_by_chance_predicts_no_gain() -> None:
    lucky = Anchor(-0.002, Interval(-0.01, 0.006), 1.0)
    assert lucky.drop_at(0.5) == (0.0, Interval(0.0, 0.003))


@pytest.mark.parametrize(
    "anchor", [Anchor(float("nan"), Interval(0, 0), 1.0), Anchor(0.1, Interval(0, 0.2), 0.0)]
)
def test_without_a_drop_or_a_divergence_there_is_no_rate(anchor: Anchor) -> None:
    assert anchor.drop_at(0.5) is None


def test_errors_that_reinforce_each_other_are_said() -> None:
    assert additivity(0.5, 0.24, 0.5) == (
        "The errors reinforce each other: the divergence measured is 2.1 times the sum of what the "
        "ops cause alone."
    )


def test_errors_that_cancel_are_said() -> None:
    assert additivity(0.1, 0.24, 0.1) == (
        "The errors partly cancel: the divergence measured is 0.42 times the sum of what the ops "
        "cause alone."
    )


@pytest.mark.parametrize("measured", [0.12, 0.24, 0.48])
def test_a_prediction_right_to_a_factor_of_two_is_not_flagged(measured: float) -> None:
    assert additivity(measured, 0.24, 0.5) is None


def test_far_below_all_int8_neither_number_matters() -> None:
    assert additivity(0.004, 0.0001, 0.5) is None


@dataclass(frozen=True)
class Measured:
    skipped: tuple[str, ...]
    drop: float
    low: float
    high: float


def test_more_in_float_and_worse_beyond_its_interval_is_not_monotone() -> None:
    start = Measured((), 0.05, 0.04, 0.06)
    good = Measured(("a",), 0.01, 0.00, 0.02)
    worse = Measured(("a", "b"), 0.03, 0.025, 0.035)
    assert not_monotone([start, good, worse]) == ((good, worse),)


def test_worse_within_the_interval_or_with_other_ops_is_no_violation() -> None:
    good = Measured(("a",), 0.01, 0.00, 0.02)
    noisy = Measured(("a", "b"), 0.015, 0.005, 0.025)
    other = Measured(("b", "c"), 0.05, 0.04, 0.06)
    assert not_monotone([good, noisy, other]) == ()
