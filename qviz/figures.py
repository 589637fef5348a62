"""Values in, plotly figures out. Nothing is computed here that a table could not show as well.

What holds for every figure: colours that colour-blind readers can tell apart, told apart by dash
as well; units in the axis titles; exact numbers under the pointer; no data leaves the reader's
machine (``CONFIG`` switches plotly's own upload button off).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qviz.calibrators import Candidate
from qviz.errors import MissingExtraError
from qviz.histogram import Histogram

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

#: For ``Figure.show`` and ``to_html``: plotly.js offers to upload the chart unless told not to.
CONFIG = {"showSendToCloud": False, "displaylogo": False}

#: A curve of more steps than this cannot be told from the coarser one on a screen.
MAX_STEPS = 1024
#: An empty bin has no logarithm; it is drawn here, below a bin that holds one value.
FLOOR = 0.5

_GREY = "#8A8A8A"
_FILL = "rgba(138, 138, 138, 0.25)"
# Okabe and Ito's palette, in the tones that are readable on white and on black.
_COLOURS = {
    "max": "#D55E00",
    "entropy": "#56B4E9",
    "percentile": "#E69F00",
    "mse": "#009E73",
    "sqnr": "#CC79A7",
    "fixed": "#0072B2",
}
# Ranges often coincide; what is drawn later leaves gaps for what lies under it.
_DASHES = {
    "percentile": ("dash", "dot", "dashdot", "longdash", "longdashdot"),
    "sqnr": ("dot",),
    "fixed": ("longdash",),
}


def colour_of(calibrator: str) -> str:
    """The colour of a calibrator, the same in every figure; specs of one family share it."""
    return _COLOURS.get(calibrator.partition(":")[0], _GREY)


def histogram_figure(
    histogram: Histogram,
    candidates: Sequence[Candidate] = (),
    *,
    selected: str | None = None,
    name: str = "",
    log: bool = True,
) -> go.Figure:
    """One tensor's values, with the candidate ranges as pairs of lines.

    Args:
        histogram: of one tensor.
        candidates: drawn in this order; a click on the legend hides one.
        selected: ``calibrator`` of the candidate to be drawn thick, if any.
        name: of the tensor, for the title.
        log: whether counts are drawn on a logarithmic scale.

    Returns:
        A figure with one trace for the histogram and one per candidate.
    """
    # few values in many bins are a comb that shows no shape
    edges, counts = drawn_bins(histogram, min(MAX_STEPS, max(64, 4 * math.isqrt(histogram.size))))
    most = float(max(counts.max(initial=1), 1))
    peak = math.log10(most)
    top = peak + 0.15 * (peak + 1)
    heights = np.logspace(math.log10(FLOOR), top, 13) if log else np.linspace(0, 1.15 * most, 13)
    figure = go.Figure()
    if counts.size:
        figure.add_trace(_step_trace(edges, counts, FLOOR if log else 0.0))
    else:
        figure.add_annotation(
            text="No finite value was seen.", showarrow=False, xref="paper", yref="paper"
        )
    shown: dict[str, int] = {}
    for candidate in candidates:
        family = candidate.calibrator.partition(":")[0]
        dashes = _DASHES.get(family, ("solid",))
        shown[family] = shown.get(family, -1) + 1
        figure.add_trace(
            _range_trace(
                candidate,
                color=colour_of(candidate.calibrator),
                dash=dashes[shown[family] % len(dashes)],
                heights=heights,
                thick=candidate.calibrator == selected,
                left=histogram.min < 0,
            )
        )
    figure.update_layout(
        title=f"{name}: {histogram.size:,} values" if name else None,
        xaxis={"title": "value (units of the tensor)", "zeroline": True},
        yaxis={
            "title": "values per bin (count, log scale)" if log else "values per bin (count)",
            "type": "log" if log else "linear",
            "range": [math.log10(FLOOR), top] if log else [0, 1.15 * most],
            "fixedrange": True,
            "exponentformat": "power" if log else "SI",
            "dtick": 1 if log else None,
        },
        # Below the picture, where it costs no width on a narrow screen.
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "itemclick": "toggle"},
        hovermode="closest",
        margin={"l": 70, "r": 20, "t": 50, "b": 60},
    )
    return figure


def drawn_bins(
    histogram: Histogram, most: int = MAX_STEPS
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The used part of a histogram in at most ``most`` bins.

    Neighbours are joined in powers of two on whole bins, so no count is split or lost.

    Returns:
        edges: float64 ``[n + 1]`` in units of the tensor, and counts: int64 ``[n]``. Both are
        empty if the histogram is.
    """
    counts = np.asarray(histogram.counts, dtype=np.int64)
    used = np.flatnonzero(counts)
    if not used.size:
        return np.empty(0), np.empty(0, dtype=np.int64)
    first, last = int(used[0]), int(used[-1]) + 1
    join = 1
    while math.ceil(last / join) - first // join > most:
        join *= 2
    first, last = first - first % join, last + -last % join
    zero = counts.size // 2
    edges = (np.arange(first, last + 1, join, dtype=np.float64) - zero) * (histogram.top / zero)
    joined: NDArray[np.int64] = counts[first:last].reshape(-1, join).sum(1)
    return edges, joined


def _step_trace(edges: NDArray[np.float64], counts: NDArray[np.int64], floor: float) -> go.Scatter:
    """A staircase: a tenth of the bytes of bars, and the same picture."""
    heights = np.maximum(counts, floor)
    exact = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return go.Scatter(
        x=np.concatenate([edges[:1], edges]),
        y=np.concatenate([[floor], heights, [floor]]),
        customdata=np.concatenate([exact[:1], exact, exact[-1:]]),
        line={"shape": "hv", "color": _GREY, "width": 1},
        fill="tozeroy",
        fillcolor=_FILL,
        name="values",
        mode="lines",
        showlegend=False,
        hovertemplate=(
            "%{customdata[0]:.5g} to %{customdata[1]:.5g}<br>%{customdata[2]:,} values"
            "<extra></extra>"
        ),
    )


def _range_trace(
    candidate: Candidate,
    *,
    color: str,
    dash: str,
    heights: NDArray[np.float64],
    thick: bool,
    left: bool,
) -> go.Scatter:
    """Two vertical lines as one trace: it has a legend entry and can be hovered all along.

    ``left`` says whether to draw the lower limit. A symmetric range of a tensor without negative
    values has one, but it would double the width of the picture to show nothing.
    """
    lo, hi = candidate.range.lo, candidate.range.hi
    limits = [lo, hi] if left or lo >= 0 else [hi]
    x = np.concatenate([np.r_[np.full(heights.size, limit), np.nan] for limit in limits])[:-1]
    y = np.concatenate([np.r_[heights, np.nan] for _ in limits])[:-1]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        connectgaps=False,
        name=candidate.calibrator,
        line={"color": color, "dash": dash, "width": 4 if thick else 2},
        hovertemplate=(
            f"<b>{candidate.calibrator}</b><br>"
            f"range {lo:.5g} to {hi:.5g}<br>"
            f"step {candidate.scale:.4g}<br>"
            f"clipped {candidate.clipped_fraction:.4%}<br>"
            f"SQNR {candidate.sqnr_db:.2f} dB<extra></extra>"
        ),
    )
