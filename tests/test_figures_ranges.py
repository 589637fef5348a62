"""Figures and the table of the Ranges page."""

from __future__ import annotations

import math

import pytest
import torch

from qviz.affine import Grid
from qviz.calibrators import Candidate, ClipRange, candidates
from qviz.figures import colour_of, histogram_figure
from qviz.figures_ranges import channel_figure, range_figure, small_figure, weight_figure
from qviz.histogram import Histogram, collect
from qviz.tables_ranges import ranges_table


def bell(n: int = 10_000) -> Histogram:
    return collect(torch.randn(n, generator=torch.Generator().manual_seed(0)))


def one(calibrator: str, amax: float, mse: float = 1.0, clipping: float = 0.25) -> Candidate:
    return Candidate(
        calibrator, ClipRange(-amax, amax), amax / 127, 0.01, mse, 20.0, clipping, mse - clipping
    )


def test_every_candidate_is_drawn_and_the_one_in_use_is_thick() -> None:
    rows = [one("max", 4.0), one("mse", 3.0), one("fixed", 2.0)]
    figure = range_figure(bell(), rows, selected="fixed", revision="conv/input")
    assert [trace.name for trace in figure.data] == ["values", "max", "mse", "custom"]
    assert [trace.line.width for trace in figure.data[1:]] == [2, 2, 4]


def test_there_is_room_to_drag_a_limit_beyond_the_values() -> None:
    h = bell()
    figure = range_figure(h, [one("fixed", 10.0)], selected=None, revision="a")
    low, high = figure.layout.xaxis.range
    assert low < -10 < 10 < high
    after_relu = collect(torch.linspace(0, 1, 100))
    figure = range_figure(after_relu, [one("max", 1.0)], selected=None, revision="a")
    low, high = figure.layout.xaxis.range
    assert -0.1 < low < 0
    assert high > 1


def test_zoom_belongs_to_the_operand_and_the_legend_to_the_page() -> None:
    first, second = (
        range_figure(bell(), [one("max", 1.0)], selected=None, revision=name) for name in "ab"
    )
    assert first.layout.xaxis.uirevision != second.layout.xaxis.uirevision
    assert first.layout.legend.uirevision == second.layout.legend.uirevision
    assert [trace.uid for trace in first.data[1:]] == ["max"]


def test_counts_are_drawn_on_a_scale_of_either_kind() -> None:
    log, linear = (histogram_figure(bell(), [one("max", 1.0)], log=log) for log in (True, False))
    assert (log.layout.yaxis.type, linear.layout.yaxis.type) == ("log", "linear")
    assert linear.layout.yaxis.title.text == "values per bin (count)"
    assert linear.layout.yaxis.range[0] == 0
    assert min(linear.data[0].y) == 0
    assert max(linear.data[1].y) == pytest.approx(linear.layout.yaxis.range[1])


def test_a_few_values_are_drawn_in_few_bins() -> None:
    assert len(histogram_figure(bell(100)).data[0].x) <= 70


def test_a_tensor_without_data_can_be_drawn() -> None:
    figure = range_figure(collect(torch.empty(0)), (), selected=None, revision="a")
    assert [note.text for note in figure.layout.annotations] == ["No finite value was seen."]


def test_channels_are_a_strip_with_the_range_all_share() -> None:
    low, high = torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 0.5])
    strip, lower, upper = channel_figure(low, high, one("mse", 2.5)).data
    assert list(strip.base) == [-1.0, -3.0]
    assert list(strip.base + strip.y) == [2.0, 0.5]
    assert (set(lower.y), set(upper.y)) == ({-2.5}, {2.5})
    assert upper.line.color == colour_of("mse")


def test_the_lower_limit_is_left_out_where_no_channel_is_negative() -> None:
    figure = channel_figure(torch.zeros(3), torch.ones(3), one("mse", 0.9))
    assert len(figure.data) == 2


def test_a_channel_that_saw_nothing_is_drawn_as_nothing() -> None:
    figure = channel_figure(torch.tensor([math.inf]), torch.tensor([-math.inf]), None)
    assert list(figure.data[0].y) == [0.0]


def test_channels_of_a_weight_are_compared_with_the_widest() -> None:
    bars, widest = weight_figure(torch.tensor([1.0, 4.0])).data
    assert list(bars.y) == [1.0, 4.0]
    assert list(bars.customdata) == [25.0, 100.0]
    assert set(widest.y) == {4.0}


def test_a_small_figure_has_the_range_and_no_legend() -> None:
    figure = small_figure(bell(), one("fixed", 2.0))
    assert [trace.name for trace in figure.data] == ["values", "custom"]
    assert figure.layout.showlegend is False
    assert len(small_figure(bell(), None).data) == 1


def test_the_table_marks_the_best_and_the_one_in_use_and_splits_the_error() -> None:
    rows = [one("max", 4.0, mse=2.0, clipping=0.0), one("mse", 3.0), one("fixed", 1.0, mse=8.0)]
    table = ranges_table(rows, "fixed")
    assert list(table["calibrator"]) == ["max", "mse", "custom"]
    assert list(table["note"]) == ["", "best", "in use"]
    assert list(table["clipping_share"]) == [0.0, 25.0, 3.125]
    assert list(table["rounding_share"]) == [100.0, 75.0, 96.875]
    assert list(ranges_table(rows[1:2], "mse")["note"]) == ["best, in use"]


def test_the_table_has_its_columns_even_when_empty() -> None:
    table = ranges_table([])
    assert table.empty
    assert table.dtypes["mse"] == "float64"


def test_the_best_of_the_table_has_the_highest_sqnr_as_well() -> None:
    h = bell()
    rows = candidates(h, Grid())
    table = ranges_table(rows)
    best = table[table["note"] == "best"]
    assert list(best.index) == [table["sqnr_db"].idxmax()]
