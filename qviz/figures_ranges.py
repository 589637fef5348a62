"""Figures of the Ranges page: the histogram to work on, small ones to compare, channels as strips.

As everywhere: values in, plotly figures out; the page's theme supplies what is not a calibrator's
colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from qviz.calibrators import Candidate
from qviz.figures import colour_of, histogram_figure
from qviz.histogram import Histogram

#: A custom range is called this, in legend and table.
CUSTOM = "custom"

_GREY = "#8A8A8A"
_BAND = "rgba(138, 138, 138, 0.35)"


def range_figure(
    histogram: Histogram,
    candidates: Sequence[Candidate],
    *,
    selected: str | None,
    revision: str,
    log: bool = True,
) -> go.Figure:
    """The histogram of one tensor with room to drag a limit beyond its values.

    Args:
        histogram: of the tensor.
        candidates: ranges to draw.
        selected: calibrator of the one in use, drawn thick.
        revision: zoom is kept while this stays the same.
        log: whether counts are drawn on a logarithmic scale.
    """
    figure = histogram_figure(histogram, candidates, selected=selected, log=log)
    left = histogram.min < 0
    lowest = min([histogram.min, *(c.range.lo for c in candidates)]) if left else 0.0
    highest = max([histogram.max, 0.0, *(c.range.hi for c in candidates)])
    if histogram.finite and highest > lowest:
        room = 0.08 * (highest - lowest)
        span = [lowest - room if left else -0.01 * highest, highest + room]
        figure.update_xaxes(range=span)
    for trace in figure.data[1:]:
        trace.uid = trace.name  # whose place in the legend is kept
        trace.name = CUSTOM if trace.name == "fixed" else trace.name
    figure.update_layout(
        uirevision="ranges",
        legend={"uirevision": "ranges"},
        dragmode="zoom",
        selectdirection="h",
        newselection={"line": {"color": colour_of("fixed")}},
        height=430,
        margin={"l": 60, "r": 10, "t": 30, "b": 60},
    )
    figure.update_xaxes(uirevision=revision)
    figure.update_yaxes(uirevision=f"{revision} {log}")
    return figure


def small_figure(histogram: Histogram, candidate: Candidate | None) -> go.Figure:
    """A histogram to be set beside others, with the range in use."""
    figure = histogram_figure(
        histogram,
        () if candidate is None else (candidate,),
        selected=None if candidate is None else candidate.calibrator,
    )
    for trace in figure.data[1:]:
        trace.name = CUSTOM if trace.name == "fixed" else trace.name
    figure.update_layout(
        height=230,
        showlegend=False,
        margin={"l": 45, "r": 5, "t": 5, "b": 40},
        xaxis={"title": {"text": "value", "standoff": 5}},
        yaxis={"title": {"text": "count"}, "dtick": 2},
    )
    return figure


def channel_figure(
    low: torch.Tensor, high: torch.Tensor, candidate: Candidate | None, *, revision: str = ""
) -> go.Figure:
    """Smallest and largest value of every channel as a strip, with the range of the tensor.

    Args:
        low: smallest value of every channel, [C].
        high: largest value of every channel, [C].
        candidate: the one range all channels share, if there is one.
        revision: zoom is kept while this stays the same.
    """
    count = low.numel()
    x, bottom, top = np.arange(count), _finite(low), _finite(high)
    figure = go.Figure(
        go.Bar(
            x=x,
            y=top - bottom,
            base=bottom,
            width=1.0,
            marker={"color": _BAND, "line": {"color": _GREY, "width": 1 if count <= 128 else 0}},
            customdata=np.stack([x, bottom, top], axis=1),
            name="channel",
            hovertemplate=(
                "channel %{customdata[0]}<br>%{customdata[1]:.5g} to %{customdata[2]:.5g}"
                "<extra></extra>"
            ),
        )
    )
    if candidate is not None:
        limits = [candidate.range.lo, candidate.range.hi]
        for limit in limits if bottom.min(initial=0) < 0 else limits[1:]:
            _limit(figure, count, limit, candidate.calibrator)
    figure.update_layout(
        uirevision=revision or None,
        showlegend=False,
        bargap=0,
        height=260,
        xaxis={"title": "channel", "range": [-0.5, count - 0.5]},
        yaxis={"title": "smallest to largest value"},
        margin={"l": 60, "r": 10, "t": 10, "b": 45},
    )
    return figure


def weight_figure(amax: torch.Tensor, *, revision: str = "") -> go.Figure:
    """The largest magnitude of every channel of a weight beside that of the whole weight.

    Args:
        amax: largest magnitude of every channel, [C].
        revision: zoom is kept while this stays the same.
    """
    heights = _finite(amax)
    share = heights / max(float(heights.max(initial=0.0)), 1e-45)
    figure = go.Figure(
        go.Bar(
            x=np.arange(heights.size),
            y=heights,
            width=1.0,
            marker={"color": _BAND, "line": {"color": _GREY, "width": 1}},
            customdata=100 * share,
            name="channel",
            hovertemplate=(
                "channel %{x}: amax %{y:.5g}<br>%{customdata:.3g} % of the widest<extra></extra>"
            ),
        )
    )
    _limit(figure, heights.size, float(heights.max(initial=0.0)), "max")
    figure.update_layout(
        uirevision=revision or None,
        showlegend=False,
        bargap=0,
        height=260,
        xaxis={"title": "output channel", "range": [-0.5, heights.size - 0.5]},
        yaxis={"title": "largest magnitude (amax)", "rangemode": "tozero"},
        margin={"l": 60, "r": 10, "t": 10, "b": 45},
    )
    return figure


def _limit(figure: go.Figure, count: int, limit: float, calibrator: str) -> None:
    """A horizontal line over all channels."""
    name = CUSTOM if calibrator == "fixed" else calibrator
    figure.add_trace(
        go.Scatter(
            x=[-0.5, count - 0.5],
            y=[limit, limit],
            mode="lines",
            line={"color": colour_of(calibrator), "width": 3, "dash": "dash"},
            name=name,
            hovertemplate=f"{name}: {limit:.5g} for all channels<extra></extra>",
        )
    )


def _finite(values: torch.Tensor) -> NDArray[np.float64]:
    """Limits as numbers that can be drawn; a channel that saw nothing has none."""
    doubles: NDArray[np.float64] = values.detach().double().numpy()
    return np.where(np.isfinite(doubles), doubles, 0.0)
