"""Pictures of bit allocation: the frontier, prediction against measurement, bits of each layer."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.digits import number, percent
from qviz.errors import MissingExtraError
from qviz.search.layer_losses import LayerLosses
from qviz.search.widths import Allocation, CostKind, Frontier, FrontierPoint, cost_of

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

# Okabe and Ito's palette; symbols and dashes tell the same things apart.
_OPTIMAL = "#2B8CC4"
_GREEDY = "#E69F00"
_GREY = "#8A8A8A"
_CHOSEN = "#D55E00"
_AXES = {
    "size": "limit on the size of the weights (% of float32)",
    "bytes": "limit on the size of all parameters (MB)",
    "bops": "limit on bit operations (% of those at 8 bits)",
    "latency": "limit on the time (ms)",
}
_SCALE = {"size": 100.0, "bytes": 1e-6, "bops": 100.0, "latency": 1e3}
_OUTLINE = {"color": "white", "width": 1}
_LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
_MARGIN = {"l": 70, "r": 20, "t": 50, "b": 60}


def frontier_figure(frontier: Frontier, *, chosen: Allocation | None = None) -> go.Figure:
    """Loss against limit: the integer programme and greed, predicted as steps, measured as marks.

    A limit that was not swept has the allocation of the next tighter one, hence the steps. The loss
    axis is logarithmic. A point's ``customdata`` is its index on its line.

    Args:
        frontier: measured or not.
        chosen: the allocation to be marked.
    """
    figure = go.Figure()
    lines = (
        ("integer programme", frontier.points, _OPTIMAL, "solid", "circle"),
        ("greedy", frontier.greedy, _GREEDY, "dash", "diamond"),
    )
    for name, points, colour, dash, symbol in lines:
        figure.add_trace(_predicted(f"{name}, predicted", points, frontier, colour, dash))
        if any(point.measured for point in points):
            figure.add_trace(_measured(f"{name}, measured", points, frontier, colour, symbol))
    marked = [p for p in frontier.points if chosen is not None and p.allocation == chosen]
    if marked:
        figure.add_trace(_mark(marked[0], frontier))
    figure.update_layout(
        xaxis={"title": _AXES[frontier.kind]},
        yaxis={
            "title": f"{frontier.loss} from float",
            "type": "log",
            "exponentformat": "power",
            "dtick": 1,
        },
        legend=_LEGEND,
        margin=_MARGIN,
        hovermode="closest",
        uirevision=f"frontier {frontier.kind}",
    )
    return figure


def drop_figure(frontier: Frontier, *, target: float | None = None) -> go.Figure:
    """The metric's relative drop against the limit, with 95 % intervals; measured points only.

    Args:
        frontier: measured.
        target: largest drop allowed, to be drawn as a line; None for none.
    """
    figure = go.Figure()
    for name, points, colour, symbol in (
        ("integer programme", frontier.points, _OPTIMAL, "circle"),
        ("greedy", frontier.greedy, _GREEDY, "diamond"),
    ):
        known = [p for p in points if p.drop is not None]
        if known:
            figure.add_trace(_drops(name, known, frontier, colour, symbol))
    figure.add_hline(y=0, line={"color": _GREY, "width": 1})
    if target is not None:
        figure.add_hline(
            y=100 * target,
            line={"color": "#009E73", "dash": "dashdot", "width": 2},
            annotation_text=f"target {percent(target)}",
        )
    named = f" of {frontier.metric}" if frontier.metric else ""
    figure.update_layout(
        xaxis={"title": _AXES[frontier.kind]},
        yaxis={"title": f"drop{named} from float (relative, %)"},
        legend=_LEGEND,
        margin=_MARGIN,
        hovermode="closest",
        uirevision=f"drop {frontier.kind}",
    )
    return figure


def predicted_figure(frontier: Frontier) -> go.Figure:
    """Predicted loss against measured divergence along the frontier, both logarithmic."""
    known = [p for p in frontier.points if p.divergence is not None and p.divergence > 0]
    known = [p for p in known if p.allocation.loss > 0]
    figure = go.Figure(
        go.Scatter(
            x=[p.allocation.loss for p in known],
            y=[p.divergence for p in known],
            mode="markers",
            marker={"color": _OPTIMAL, "size": 10, "line": _OUTLINE},
            customdata=[frontier.points.index(p) for p in known],
            hovertext=[_said(p) for p in known],
            hovertemplate="%{hovertext}<extra></extra>",
            name="one allocation",
        )
    )
    values = [v for p in known for v in (p.allocation.loss, p.divergence or 0.0)]
    if values:
        ends = [min(values), max(values)]
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=ends,
                mode="lines",
                line={"color": _GREY, "dash": "dot"},
                name="prediction = measurement",
                hoverinfo="skip",
            )
        )
    said = "" if frontier.spearman is None else f", Spearman {frontier.spearman:.3f}"
    axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    figure.update_layout(
        title=f"{len(known)} allocations{said}",
        xaxis={"title": f"predicted {frontier.loss} ({frontier.loss_samples} calibration)", **axis},
        yaxis={"title": f"measured divergence ({frontier.samples} evaluation)", **axis},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        margin=_MARGIN,
        hovermode="closest",
    )
    return figure


def bits_figure(allocation: Allocation, losses: LayerLosses) -> go.Figure:
    """Bits of each layer's weight and activations, in execution order.

    A bar's ``customdata`` is the name of its layer.
    """
    names = [layer for layer, _ in allocation.widths]
    rows = [losses.layer_of[name] for name in names]
    said = [
        f"<b>{layer.name}</b><br>{width}, {layer.elements:,} weights<br>adds "
        f"{number(losses.increase_of[layer.name, width])} {losses.loss} alone"
        + ("<br>first or last" if layer.end else "")
        if (layer.name, width) in losses.increase_of
        else f"<b>{layer.name}</b><br>{width}, {layer.elements:,} weights"
        for layer, (_, width) in zip(rows, allocation.widths, strict=True)
    ]
    figure = go.Figure(
        go.Bar(
            x=names,
            y=[
                width.weights if row.elements else None
                for row, (_, width) in zip(rows, allocation.widths, strict=True)
            ],
            customdata=names,
            hovertext=said,
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": _OPTIMAL},
            name="weight",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=names,
            y=[width.activations for _, width in allocation.widths],
            mode="markers",
            customdata=names,
            hovertext=said,
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": _GREEDY, "symbol": "diamond", "size": 9},
            name="activations",
        )
    )
    figure.update_layout(
        xaxis={"showticklabels": len(names) <= 40, "automargin": True, "tickangle": -60},
        yaxis={"title": "bits", "range": [0, 8.6], "dtick": 2, "fixedrange": True},
        legend=_LEGEND,
        margin=_MARGIN,
        bargap=0.2,
    )
    return figure


def _x(point: FrontierPoint, kind: CostKind) -> float:
    """The limit it was found under: only under the same one can two ways be compared."""
    limit = point.allocation.limit
    kept = limit is not None and limit.kind == kind
    value = limit.value if limit is not None and kept else cost_of(point.allocation.costs, kind)
    return value * _SCALE[kind]


def _said(point: FrontierPoint) -> str:
    """A point under the pointer."""
    costs, allocation = point.allocation.costs, point.allocation
    lines = [
        f"<b>{allocation.summary}</b>",
        f"{costs.size:.3%} of float32, bit operations {costs.relative_bops:.3%}",
        f"predicted loss {number(allocation.loss)}",
    ]
    if point.divergence is not None:
        lines.append(f"measured {number(point.divergence)}")
    if point.drop is not None and point.low is not None and point.high is not None:
        lines.append(f"drop {percent(point.drop)} ({percent(point.low)} to {percent(point.high)})")
    return "<br>".join(lines)


def _predicted(
    name: str, points: Sequence[FrontierPoint], frontier: Frontier, colour: str, dash: str
) -> go.Scatter:
    return go.Scatter(
        x=[_x(p, frontier.kind) for p in points],
        y=[p.allocation.loss if p.allocation.loss > 0 else None for p in points],
        mode="lines",
        line={"color": colour, "dash": dash, "width": 2, "shape": "hv"},
        customdata=list(range(len(points))),
        hovertext=[_said(p) for p in points],
        hovertemplate="%{hovertext}<extra></extra>",
        name=name,
    )


def _measured(
    name: str, points: Sequence[FrontierPoint], frontier: Frontier, colour: str, symbol: str
) -> go.Scatter:
    known = [(i, p) for i, p in enumerate(points) if p.divergence is not None]
    return go.Scatter(
        x=[_x(p, frontier.kind) for _, p in known],
        y=[p.divergence if p.divergence else None for _, p in known],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 10, "line": _OUTLINE},
        customdata=[i for i, _ in known],
        hovertext=[_said(p) for _, p in known],
        hovertemplate="%{hovertext}<extra></extra>",
        name=name,
    )


def _mark(point: FrontierPoint, frontier: Frontier) -> go.Scatter:
    return go.Scatter(
        x=[_x(point, frontier.kind)],
        y=[point.divergence if point.divergence is not None else point.allocation.loss],
        mode="markers",
        marker={"color": _CHOSEN, "symbol": "circle-open", "size": 18, "line": {"width": 3}},
        hoverinfo="skip",
        name="chosen",
    )


def _drops(
    name: str, known: Sequence[FrontierPoint], frontier: Frontier, colour: str, symbol: str
) -> go.Scatter:
    drops = [100 * (p.drop or 0.0) for p in known]
    return go.Scatter(
        x=[_x(p, frontier.kind) for p in known],
        y=drops,
        mode="markers+lines",
        line={"color": colour, "width": 1, "dash": "dot"},
        marker={"color": colour, "symbol": symbol, "size": 10},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [100 * (p.high or 0.0) - d for p, d in zip(known, drops, strict=True)],
            "arrayminus": [d - 100 * (p.low or 0.0) for p, d in zip(known, drops, strict=True)],
            "color": colour,
            "thickness": 1.5,
            "width": 3,
        },
        hovertext=[_said(p) for p in known],
        hovertemplate="%{hovertext}<extra></extra>",
        name=name,
    )
