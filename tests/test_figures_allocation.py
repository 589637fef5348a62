"""Pictures and tables of bit allocation, read from their own data."""

from __future__ import annotations

from dataclasses import replace

import plotly.graph_objects as go
import pytest
from allocation_kit import W2, W4, losses

from qviz.figures_allocation import bits_figure, drop_figure, frontier_figure, predicted_figure
from qviz.search.allocation import allocate
from qviz.search.allocation_problem import Problem
from qviz.search.frontier import frontier
from qviz.search.widths import Frontier, FrontierPoint, Limit, Width
from qviz.tables_allocation import bits_table, frontier_table, losses_table

LOSSES = losses(
    {"conv1": {W4: 0.3, W2: 2.0}, "conv2": {W4: 0.1, W2: 0.9}, "fc": {W4: 0.2}},
    {"conv1": 100, "conv2": 800, "fc": 100},
    base=0.01,
    ends=["conv1", "fc"],
)
PROBLEM = Problem.of(LOSSES, keep=())
PREDICTED = frontier(PROBLEM, limits=[Limit("size", 0.1), Limit("size", 0.15), Limit("size", 0.25)])


def point(found: FrontierPoint, divergence: float, drop: float) -> FrontierPoint:
    return replace(found, divergence=divergence, value=0.9, drop=drop, low=drop - 0.01, high=drop)


MEASURED = replace(
    PREDICTED,
    points=tuple(point(p, 2 * p.allocation.loss, 0.02 * i) for i, p in enumerate(PREDICTED.points)),
    metric="top1",
    samples=100,
    spearman=0.98765,
)


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [one for one in figure.data if one.name == name]
    return found


def names(figure: go.Figure) -> list[str]:
    return [one.name for one in figure.data]


def test_the_frontier_has_both_ways_to_allocate_on_the_same_axes() -> None:
    figure = frontier_figure(PREDICTED)
    assert names(figure) == ["integer programme, predicted", "greedy, predicted"]
    line = trace(figure, "integer programme, predicted")
    assert line.x == pytest.approx([10.0, 15.0, 25.0])
    assert line.line.shape == "hv"
    assert line.y == pytest.approx([p.allocation.loss for p in PREDICTED.points])
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.xaxis.title.text == "limit on the size of the weights (% of float32)"


def test_an_allocation_under_no_limit_stands_at_its_cost() -> None:
    given = PROBLEM.base()
    found = replace(PREDICTED, points=(FrontierPoint(given),))
    assert list(trace(frontier_figure(found), "integer programme, predicted").x) == [25.0]


def test_measured_points_are_marks_and_the_chosen_one_is_ringed() -> None:
    chosen = MEASURED.points[1]
    figure = frontier_figure(MEASURED, chosen=chosen.allocation)
    marks = trace(figure, "integer programme, measured")
    assert list(marks.customdata) == [0, 1, 2]
    assert marks.y == pytest.approx([p.divergence for p in MEASURED.points])
    assert "greedy, measured" not in names(figure)
    ring = trace(figure, "chosen")
    assert (ring.x[0], ring.y[0]) == (15.0, chosen.divergence)


def test_the_drop_has_its_interval_and_the_target_its_line() -> None:
    figure = drop_figure(MEASURED, target=0.01)
    line = trace(figure, "integer programme")
    assert line.y == pytest.approx([0.0, 2.0, 4.0])
    assert line.error_y.arrayminus == pytest.approx([1.0, 1.0, 1.0])
    assert figure.layout.annotations[0].text == "target 1.00 %"
    assert figure.layout.yaxis.title.text == "drop of top1 from float (relative, %)"


def test_nothing_measured_is_no_drop() -> None:
    assert names(drop_figure(PREDICTED)) == []


def test_prediction_stands_against_measurement_with_its_correlation() -> None:
    figure = predicted_figure(MEASURED)
    dots = trace(figure, "one allocation")
    assert dots.y == pytest.approx([2 * x for x in dots.x])
    assert figure.layout.title.text == "3 allocations, Spearman 0.988"
    assert names(predicted_figure(PREDICTED)) == ["one allocation"]


def test_bits_are_bars_by_layer_with_activations_as_marks() -> None:
    chosen = allocate(PROBLEM, Limit("size", 0.15))
    figure = bits_figure(chosen, LOSSES)
    bars, marks = figure.data
    assert list(bars.x) == ["conv1", "conv2", "fc"]
    assert list(bars.y) == [w.weights for _, w in chosen.widths]
    assert list(marks.y) == [w.activations for _, w in chosen.widths]
    assert bars.hovertext[1] == "<b>conv2</b><br>W4A4, 800 weights<br>adds 0.100 kl alone"
    assert bars.hovertext[0].endswith("first or last")


def test_a_width_whose_loss_is_unknown_can_be_drawn() -> None:
    chosen = allocate(PROBLEM, Limit("size", 0.15))
    other = replace(chosen, widths=tuple((n, Width(3, 3)) for n, _ in chosen.widths))
    assert bits_figure(other, LOSSES).data[0].hovertext[1] == "<b>conv2</b><br>W3A3, 800 weights"
    assert bits_table(other, LOSSES)["added_loss"].isna().all()


@pytest.mark.parametrize(("kind", "unit"), [("bops", "bit operations"), ("bytes", "MB")])
def test_the_cost_axis_names_what_is_limited(kind: str, unit: str) -> None:
    found: Frontier = replace(PREDICTED, kind=kind)  # type: ignore[arg-type]
    assert unit in frontier_figure(found).layout.xaxis.title.text


def test_the_frontier_as_a_table() -> None:
    table = frontier_table(MEASURED)
    assert table["found_by"].tolist().count("integer programme") == 3
    first = table.iloc[0]
    best = MEASURED.points[0].allocation
    assert first["size_percent"] == first["limited_percent"] == 100 * best.costs.size
    assert first["predicted_loss"] == best.loss
    assert first["widths"] == best.summary
    assert table[table["found_by"] == "greedy"]["divergence"].isna().all()
    assert table["seconds"].isna().all()


def test_bits_and_losses_as_tables() -> None:
    chosen = allocate(PROBLEM, Limit("size", 0.15))
    bits = bits_table(chosen, LOSSES)
    assert bits["layer"].tolist() == ["conv1", "conv2", "fc"]
    assert bits["bytes"].tolist()[1] == 400
    assert bits["first_or_last"].tolist() == [True, False, True]
    found = losses_table(LOSSES)
    assert found["width"].tolist() == ["W4A4", "W2A2", "W4A4", "W2A2", "W4A4"]
    assert found["added_loss"].tolist() == pytest.approx([0.3, 2.0, 0.1, 0.9, 0.2])
