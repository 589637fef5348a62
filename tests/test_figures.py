"""What the pictures show, read from the figures' own data."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qviz import figures
from qviz.affine import Grid
from qviz.calibrators import candidates
from qviz.figures import drawn_bins, histogram_figure
from qviz.histogram import Histogram, collect


def bell(size: int = 20_000, *, scale: float = 1.0) -> Histogram:
    return collect(torch.randn(size, generator=torch.Generator().manual_seed(0)) * scale)


def names(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50),
    st.sampled_from([0.001, 1.0, 300.0]),
)
def test_drawing_fewer_bins_loses_no_value(values: list[float], scale: float) -> None:
    histogram = collect(torch.tensor(values) * scale)
    edges, counts = drawn_bins(histogram)
    assert counts.sum() == np.asarray(histogram.counts).sum()
    assert len(edges) == len(counts) + 1
    assert len(counts) <= figures.MAX_STEPS
    assert edges[0] <= histogram.min
    assert histogram.max <= edges[-1]


def test_bins_are_evenly_spaced_and_one_edge_is_zero() -> None:
    edges, _ = drawn_bins(bell())
    assert len(set(np.diff(edges))) == 1
    assert 0.0 in edges


def test_only_the_used_range_is_drawn() -> None:
    edges, counts = drawn_bins(collect(torch.linspace(0.5, 0.75, 1000)))
    assert counts[0] > 0
    assert counts[-1] > 0
    assert edges[0] > 0.49
    assert edges[-1] < 0.76


def test_empty_bins_are_drawn_at_the_floor_and_say_zero() -> None:
    trace = histogram_figure(collect(torch.tensor([-1.0, 1.0]))).data[0]
    empty = trace.customdata[:, 2] == 0
    assert empty.any()
    assert set(trace.y[:-1][empty[:-1]]) == {figures.FLOOR}
    assert trace.customdata[:, 2].max() == 1


def test_each_candidate_is_one_trace_that_the_legend_can_hide() -> None:
    histogram = bell()
    ranges = candidates(histogram, Grid())
    figure = histogram_figure(histogram, ranges)
    assert names(figure) == ["values", *(one.calibrator for one in ranges)]
    assert all(trace.type == "scatter" for trace in figure.data)
    assert not figure.layout.shapes


def test_lines_stand_at_the_limits_of_the_range() -> None:
    histogram = bell()
    ranges = candidates(histogram, Grid())
    for one, trace in zip(ranges, histogram_figure(histogram, ranges).data[1:], strict=True):
        drawn = trace.x[~np.isnan(trace.x)]
        assert {drawn.min(), drawn.max()} == {one.range.lo, one.range.hi}


def test_a_tensor_without_negative_values_gets_no_line_below_zero() -> None:
    histogram = collect(torch.rand(1000))
    for trace in histogram_figure(histogram, candidates(histogram, Grid())).data:
        assert np.nanmin(trace.x) >= 0


def test_no_two_candidates_look_the_same() -> None:
    histogram = bell()
    drawn = histogram_figure(histogram, candidates(histogram, Grid())).data[1:]
    assert len({(trace.line.color, trace.line.dash) for trace in drawn}) == len(drawn)


def test_a_calibrator_keeps_its_colour_whatever_else_is_shown() -> None:
    histogram = bell()
    ranges = candidates(histogram, Grid())
    alone = histogram_figure(histogram, [ranges[1]]).data[1]
    among = histogram_figure(histogram, ranges).data[2]
    assert alone.line.color == among.line.color


def test_the_chosen_candidate_is_thick() -> None:
    histogram = bell()
    figure = histogram_figure(histogram, candidates(histogram, Grid()), selected="mse")
    assert [trace.name for trace in figure.data if trace.line.width == 4] == ["mse"]


def test_hovering_a_candidate_gives_its_numbers() -> None:
    histogram = bell()
    (one,) = candidates(histogram, Grid(), ("max",))
    hover = histogram_figure(histogram, [one]).data[1].hovertemplate
    assert f"range {one.range.lo:.5g} to {one.range.hi:.5g}" in hover
    assert f"step {one.scale:.4g}" in hover
    assert "clipped 0.0000%" in hover
    assert f"SQNR {one.sqnr_db:.2f} dB" in hover


def test_axes_have_units() -> None:
    layout = histogram_figure(bell(), name="conv1").layout
    assert layout.title.text == "conv1: 20,000 values"
    assert layout.xaxis.title.text == "value (units of the tensor)"
    assert layout.yaxis.title.text == "values per bin (count, log scale)"


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_figure_is_small_whatever_the_values(scale: float) -> None:
    histogram = bell(scale=scale)
    figure = histogram_figure(histogram, candidates(histogram, Grid()))
    assert len(figure.to_json()) < 100_000


def test_a_tensor_that_saw_nothing_finite_says_so() -> None:
    figure = histogram_figure(collect(torch.tensor([float("nan")])))
    assert [note.text for note in figure.layout.annotations] == ["No finite value was seen."]


def test_figures_do_not_offer_to_upload_the_data() -> None:
    assert figures.CONFIG["showSendToCloud"] is False
