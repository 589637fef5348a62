"""Accuracy against latency: the recipes measured so far, and those worth having."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.bench_plan import LatencyMark, Prices
from qviz.digits import number, percent
from qviz.errors import MissingExtraError
from qviz.figures_plan import interval_bars

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

# Okabe and Ito's palette, as in the other figures of the plan; shapes tell the same things apart.
_MEASURED = "#2B8CC4"
_ESTIMATED = "#E69F00"
_TARGET = "#009E73"
_FRONT = "#CC79A7"
_FLOAT = "#8A8A8A"


def latency_figure(
    marks: Sequence[LatencyMark],
    prices: Prices,
    *,
    target: float,
    here: tuple[float, float] | None = None,
    metric: str = "",
) -> go.Figure:
    """Relative drop against latency; the Pareto front as a line, the draft as a diamond.

    Args:
        marks: measured recipes; the ``customdata`` of each is its ``key``.
        prices: where the latencies come from; their label is in the axis title.
        target: largest drop allowed, relative.
        here: latency in microseconds and estimated drop of the draft, while it is not measured.
        metric: its name, for the axis.
    """
    figure = go.Figure()
    figure.add_hline(y=100 * target, line={"color": _TARGET, "dash": "dashdot", "width": 2})
    front = sorted((m for m in marks if m.front), key=lambda m: (m.us, -m.drop))
    if len(front) > 1:
        figure.add_trace(_line(front))
    figure.add_trace(_points([m for m in marks if not m.current], "measured", "circle", 8))
    current = [m for m in marks if m.current]
    if current:
        figure.add_trace(_points(current, "this draft", "diamond", 14))
    elif here is not None:
        figure.add_trace(_here(*here))
    figure.add_trace(_float(prices))
    named = f" of {metric}" if metric else ""
    how = "estimate" if prices.estimated else "measured"
    figure.update_layout(
        xaxis={
            "title": f"latency at batch {prices.batch} (ms, {how})<br><sup>{prices.label}</sup>",
            "rangemode": "tozero",
        },
        yaxis={"title": f"drop{named} from float (relative, %)", "zeroline": True},
        legend={"orientation": "h", "yanchor": "top", "y": -0.3, "font": {"size": 11}},
        hovermode="closest",
        height=380,
        margin={"l": 60, "r": 20, "t": 20, "b": 70},
        uirevision=prices.label,
    )
    return figure


def _line(front: Sequence[LatencyMark]) -> go.Scatter:
    return go.Scatter(
        x=[mark.us / 1e3 for mark in front],
        y=[100 * mark.drop for mark in front],
        mode="lines",
        # between two points nothing better is known than the one that is at least as quick
        line={"color": _FRONT, "width": 2, "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )


def _points(marks: Sequence[LatencyMark], name: str, symbol: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=[mark.us / 1e3 for mark in marks],
        y=[100 * mark.drop for mark in marks],
        customdata=[mark.key for mark in marks],
        error_y=interval_bars(marks),
        mode="markers",
        marker={
            "color": _MEASURED,
            "symbol": symbol,
            "size": size,
            "line": {"color": _FRONT, "width": [2 if mark.front else 0 for mark in marks]},
        },
        name=name,
        hovertext=[_hover(mark) for mark in marks],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _here(us: float, drop: float) -> go.Scatter:
    return go.Scatter(
        x=[us / 1e3],
        y=[100 * drop],
        mode="markers",
        marker={
            "color": _ESTIMATED,
            "symbol": "diamond-open",
            "size": 14,
            "line": {"width": 2},
        },
        name="this draft, drop estimated",
        hovertext=[f"<b>this draft</b><br>drop {percent(drop)}, estimated<br>{number(us)} µs"],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _float(prices: Prices) -> go.Scatter:
    return go.Scatter(
        x=[prices.float_us / 1e3],
        y=[0.0],
        mode="markers",
        marker={"color": _FLOAT, "symbol": "x", "size": 10},
        name=f"the float model ({prices.float_type})",
        hovertext=[f"<b>the float model, {prices.float_type}</b><br>{number(prices.float_us)} µs"],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _hover(mark: LatencyMark) -> str:
    lines = [
        f"<b>{mark.ops} in float</b> ({mark.label})"
        if mark.label
        else f"<b>{mark.ops} in float</b>",
        f"drop {percent(mark.drop)} (95 %: {percent(mark.low)} to {percent(mark.high)}), measured",
        f"{number(mark.us)} µs, added up",
    ]
    return "<br>".join([*lines, "on the Pareto front"] if mark.front else lines)
