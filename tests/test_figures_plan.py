"""What the skip curve shows, read from the figure's own data."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from qviz.figures_plan import curve_figure, skip_curve_figure
from qviz.search.skip import SearchResult, SkipPoint
from qviz.tables_plan import Mark, Step

ALL = SkipPoint((), 0.068, 0.05, 0.08, 0.06, 0.0, 0.85, "add", 0.15, 0.13)
FEW = SkipPoint(("conv", "fc"), 0.009, 0.0, 0.02, 0.01, 0.023, 0.90, "add", 0.02, 0.02)
PREDICTED = (
    Step(0, 0.06, 0.0, ""),
    Step(1, 0.02, 0.02, "conv"),
    Step(2, 0.01, 0.023, "fc"),
    Step(3, 0.0, 1.0, "head"),
)


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [trace for trace in figure.data if trace.name == name]
    return found


def curve(*marks: Mark, here: Step | None = None) -> go.Figure:
    return curve_figure(
        marks, quantizable=3, target=0.01, predicted=PREDICTED, here=here, metric="top1"
    )


def test_measured_points_stand_at_their_ops_with_their_intervals() -> None:
    points = trace(curve(Mark(0, ALL), Mark(2, FEW)), "measured")
    assert list(points.x) == [0, 2]
    assert points.y == pytest.approx([6.8, 0.9])
    assert points.error_y.array == pytest.approx([1.2, 1.1])
    assert points.error_y.arrayminus == pytest.approx([1.8, 0.9])


def test_the_prediction_is_a_dashed_line_along_the_ranking() -> None:
    line = trace(curve(), "predicted, worst first")
    assert list(line.x) == [0, 1, 2, 3]
    assert line.y == pytest.approx([6.0, 2.0, 1.0, 0.0])
    assert line.line.dash == "dash"
    assert line.hovertext[1] == (
        "<b>1 in float, predicted</b><br>drop 2.00 %<br>2.00 % of MACs in float<br>then added: conv"
    )


def test_macs_in_float_have_an_axis_of_their_own() -> None:
    figure = curve()
    line = trace(figure, "MACs in float (right)")
    assert line.yaxis == "y2"
    assert line.y == pytest.approx([0.0, 2.0, 2.3, 100.0])
    assert figure.layout.yaxis2.title.text == "MACs in float (%)"


def test_the_target_is_a_line_that_names_itself() -> None:
    assert set(trace(curve(), "target 1.00 %").y) == {1.0}


def test_the_point_of_the_draft_is_told_apart_by_its_shape() -> None:
    figure = curve(Mark(0, ALL), Mark(2, FEW, "draft", current=True))
    assert list(trace(figure, "measured").x) == [0]
    draft = trace(figure, "this draft")
    assert (list(draft.x), draft.marker.symbol) == ([2], "diamond")


def test_until_it_is_measured_the_draft_stands_where_it_is_estimated() -> None:
    figure = curve(Mark(0, ALL), here=Step(2, 0.01, 0.023))
    draft = trace(figure, "this draft, estimated")
    assert (list(draft.x), list(draft.y)) == ([2], [1.0])
    assert draft.marker.symbol == "diamond-open"


def test_a_point_that_was_flagged_is_ringed_and_says_why() -> None:
    figure = curve(Mark(0, ALL, flag="The errors reinforce each other."), Mark(2, FEW))
    assert list(trace(figure, "not as predicted").x) == [0]
    assert trace(figure, "measured").hovertext[0] == (
        "<b>0 in float, measured</b> (search)<br>drop 6.80 % (95 %: 5.00 % to 8.00 %)<br>"
        "predicted 6.00 %<br>0 % of MACs in float<br><i>The errors reinforce each other.</i>"
    )


def test_many_names_are_counted_not_listed() -> None:
    names = tuple(f"op{i}" for i in range(8))
    point = SkipPoint(names, 0.0, 0.0, 0.0, None, 0.5, 0.9, "add")
    hover = trace(curve(Mark(8, point)), "measured").hovertext[0]
    assert hover.endswith("op4<br>op5<br>and 2 more")


def test_a_click_hands_over_which_point_it_was() -> None:
    figure = curve(Mark(0, ALL, key=4), Mark(2, FEW, key=9))
    assert list(trace(figure, "measured").customdata) == [4, 9]


def test_axes_have_units() -> None:
    layout = curve().layout
    assert layout.xaxis.title.text == "ops left in float (of 3)"
    assert layout.yaxis.title.text == "drop of top1 from float (relative, %)"


def test_a_search_shows_what_was_measured_predicted_and_wanted(found: SearchResult) -> None:
    figure = skip_curve_figure(found)
    assert list(trace(figure, "measured").x) == [0]
    assert trace(figure, "found").y == pytest.approx([0.5])
    line = trace(figure, "predicted, worst first")
    assert (list(line.x), list(line.y)) == ([0], [2.5])
    assert set(trace(figure, "target 1.00 %").y) == {1.0}
