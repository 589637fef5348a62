"""What helps which op: every remedy tried on one op alone, with its interval."""

from __future__ import annotations

from qviz.digits import percent
from qviz.errors import MissingExtraError
from qviz.figures_tune import LEGEND, brief, names_axis
from qviz.tune.remedy import Remedies, Remedy

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

_GREY = "#8A8A8A"
#: A rise of the divergence beyond this, in %, lies outside the picture until it is zoomed out.
LEFT = -150.0
_VERDICTS = {
    "helps": ("#2B8CC4", "circle"),
    "noise": (_GREY, "diamond-open"),
    "mixed": ("#E69F00", "square"),
    "worse": ("#D55E00", "x"),
    "yardstick": ("#009E73", "line-ns-open"),
}


def remedies_figure(found: Remedies) -> go.Figure:
    """How far each remedy makes the divergence fall, site by site, with its interval.

    A point's ``customdata`` is its place in ``found.rows``. The yardstick of a site is what leaving
    it in float does.
    """
    named = [(i, row, f"{row.site} · {row.title}") for i, row in enumerate(found.rows)]
    figure = go.Figure()
    for verdict, (colour, symbol) in _VERDICTS.items():
        rows = [item for item in named if item[1].verdict == verdict]
        limits = [row.fall_interval for _, row, _ in rows]
        xs = [100 * row.fall for _, row, _ in rows]
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=[name for _, _, name in rows],
                customdata=[i for i, _, _ in rows],
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": symbol,
                    "size": 11,
                    "line": {"width": 2, "color": colour},
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [
                        100 * i.high - f if i else 0.0 for i, f in zip(limits, xs, strict=True)
                    ],
                    "arrayminus": [
                        f - 100 * i.low if i else 0.0 for i, f in zip(limits, xs, strict=True)
                    ],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 3,
                },
                name="left in float" if verdict == "yardstick" else verdict,
                hovertext=[_remedy(row) for _, row, _ in rows],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=bool(rows),
            )
        )
    names = [name for _, _, name in named]
    falls = [100 * row.fall for row in found.rows]
    figure.add_vline(x=0, line={"color": _GREY, "width": 1})
    figure.update_layout(
        xaxis={
            "title": f"{found.before.divergence_name} from float falls by (%)",
            # one that makes it ten times worse would press all others together
            "range": [max(LEFT, min([-10.0, *falls])) * 1.05, 105],
        },
        yaxis=names_axis(names)
        | {"ticktext": [_short(row.title) for _, row, _ in named]}
        | {"tickfont": {"size": 11}},
        annotations=[
            {"text": f"<b>{brief(site, 36)}</b>", "x": 0, "xref": "paper", "xanchor": "left",
             "y": first, "yref": "y", "yanchor": "bottom", "yshift": 9, "showarrow": False,
             "font": {"size": 11}}
            for site, first in _first_of(found).items()
        ],
        legend=LEGEND,
        height=190 + 24 * max(len(names), 4),
        margin={"l": 10, "r": 20, "t": 30, "b": 90},
        hovermode="closest",
        uirevision="remedies",
    )  # fmt: skip
    return figure


def _short(title: str, most: int = 28) -> str:
    """A title for an axis: what follows its colon tells it from the others."""
    head, colon, tail = title.partition(": ")
    return f"{brief(head, max(8, most - len(tail)))}: {tail}" if colon else brief(title, most)


def _first_of(found: Remedies) -> dict[str, int]:
    """Place of the first row of each site."""
    first: dict[str, int] = {}
    for i, row in enumerate(found.rows):
        first.setdefault(row.site, i)
    return first


def _remedy(row: Remedy) -> str:
    fall = f"divergence falls by {percent(row.fall)}"
    if row.fall_interval is not None:
        fall += f" (95 %: {percent(row.fall_interval.low)} to {percent(row.fall_interval.high)})"
    return (
        f"<b>{row.site}</b>: {row.title}<br>{row.verdict}<br>{fall}<br>"
        f"another rounding alone: {percent(row.luck)}<br>metric {percent(row.gain, signed=True)} "
        f"({percent(row.interval.low, signed=True)} to {percent(row.interval.high, signed=True)})"
    )
