"""Pictures of a sensitivity ranking: the bars, and the estimate against the measurement."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import groupby

import plotly.graph_objects as go

from qviz.metrics import METRICS
from qviz.sensitivity import Sensitivity, SensitivityRow

#: Rows drawn unless asked otherwise; the rest would be too small to see.
MOST = 40
#: Characters of a name that fit beside the bars on a narrow screen.
NAME = 24

# between the palette's two blues: a thin outline of it can be seen on white and on black
_BLUE = "#2A8BC8"
_GREY = "#8A8A8A"
_HOLLOW = "rgba(138, 138, 138, 0.12)"
_BAND = "rgba(138, 138, 138, 0.16)"


def ranking_figure(
    sensitivity: Sensitivity,
    *,
    most: int = MOST,
    log: bool = False,
    chosen: str | None = None,
    in_float: Container[str] = (),
) -> go.Figure:
    """What each op or operand costs, worst on top: measured with its interval, estimated hollow.

    Rows that the data cannot tell apart lie on one grey band. A point's ``customdata`` is its name.

    Args:
        sensitivity: measured and estimated rows may be mixed.
        most: rows drawn.
        log: a logarithmic axis; rows at or below zero are left out of it.
        chosen: name of a row to be set in bold.
        in_float: names that are left in float by now, to be marked.
    """
    rows = sensitivity.rows[:most]
    names = [row.name for row in rows]
    figure = go.Figure()
    rest = "estimated" if sensitivity.proxy else "not measured yet"
    for measured, label in ((True, "measured, 95 % interval"), (False, rest)):
        figure.add_trace(_bars([row for row in rows if row.exact == measured], label, log))
    verb = "caused by this alone" if sensitivity.mode == "only_this" else "won by leaving it float"
    figure.update_layout(
        xaxis={"title": f"{quantity(sensitivity)}, {verb}", "exponentformat": "power"}
        | ({"type": "log"} if log else {"rangemode": "tozero"}),
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "categoryorder": "array",
            "categoryarray": names,
            "tickmode": "array",
            "tickvals": names,
            "ticktext": [_tick(name, name == chosen, name in in_float) for name in names],
            "fixedrange": True,
            "showgrid": False,
        },
        barmode="overlay",
        bargap=0.3,
        shapes=[_band(first, last) for first, last in tied(rows)],
        height=110 + 22 * max(len(rows), 5),
        margin={"l": 10, "r": 20, "t": 40, "b": 60},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        uirevision=f"{sensitivity.mode} {sensitivity.operands} {log}",
    )
    return figure


def proxy_figure(sensitivity: Sensitivity) -> go.Figure:
    """The gradient estimate of each measured row against its measurement, both logarithmic.

    A point's ``customdata`` is its name. Rows at or below zero have no logarithm and are left out.
    """
    rows = [
        row
        for row in sensitivity.rows
        if row.exact and row.divergence > 0 and sensitivity.proxy.get(row.name, 0.0) > 0
    ]
    estimates = [sensitivity.proxy[row.name] for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=estimates,
            y=[row.divergence for row in rows],
            mode="markers",
            marker={"color": _BLUE, "size": 10, "line": {"color": "white", "width": 1}},
            error_y=_limits(rows),
            customdata=[row.name for row in rows],
            text=[row.type for row in rows],
            hovertemplate=(
                "<b>%{customdata}</b>, %{text}<br>estimated %{x:.3g}<br>measured %{y:.3g}"
                "<extra></extra>"
            ),
            name="one op or operand",
        )
    )
    values = [*estimates, *(row.divergence for row in rows)]
    # 2 and 5 between the powers of ten only where there is room for them
    ticks = "D2" if values and max(values) < 1e3 * min(values) else 1
    if values:
        ends = [min(values), max(values)]
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=ends,
                mode="lines",
                line={"color": _GREY, "dash": "dot"},
                name="estimate = measurement",
                hoverinfo="skip",
            )
        )
    figure.update_layout(
        xaxis={
            "title": f"estimated {quantity(sensitivity)}",
            "type": "log",
            "exponentformat": "power",
            "dtick": ticks,
        },
        yaxis={
            "title": f"measured {quantity(sensitivity)}",
            "type": "log",
            "exponentformat": "power",
            "dtick": ticks,
        },
        height=440,
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        hovermode="closest",
    )
    return figure


def quantity(sensitivity: Sensitivity) -> str:
    """What the ranking is by, with its unit: ``KL from float (nats)``."""
    metric = METRICS[sensitivity.divergence_name]
    return f"{metric.name.upper()} from float" + (f" ({metric.unit})" if metric.unit else "")


def brief(name: str) -> str:
    """A name short enough for an axis; its end says more than its beginning."""
    return name if len(name) <= NAME else f"…{name[1 - NAME :].lstrip('.:/')}"


def tied(rows: Sequence[SensitivityRow]) -> list[tuple[int, int]]:
    """First and last place of each run of rows that cannot be told apart, counted from 0."""
    places = [
        [place for place, _ in group]
        for _, group in groupby(enumerate(rows), key=lambda item: item[1].tie)
    ]
    return [(run[0], run[-1]) for run in places if len(run) > 1]


def _tick(name: str, chosen: bool, in_float: bool) -> str:
    text = f"<b>{brief(name)}</b>" if chosen else brief(name)
    return f"<i>float</i> · {text}" if in_float else text


def _bars(rows: Sequence[SensitivityRow], label: str, log: bool) -> go.Bar:
    measured = label.startswith("measured")
    drawn = [row for row in rows if row.divergence > 0] if log else rows
    return go.Bar(
        x=[row.divergence for row in drawn],
        y=[row.name for row in drawn],
        orientation="h",
        name=label,
        marker={
            "color": _BLUE if measured else _HOLLOW,
            "line": {"color": _BLUE, "width": 0 if measured else 1.5},
        },
        error_x=_limits(drawn) if measured else None,
        customdata=[row.name for row in drawn],
        hovertext=[_said(row, label) for row in drawn],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=bool(drawn),
    )


def _limits(rows: Sequence[SensitivityRow]) -> dict[str, object]:
    """Error bars from the rows' intervals."""
    limits = [row.divergence_interval for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "color": _GREY,
        "thickness": 2,
        "width": 3,
        "array": [i.high - r.divergence if i else 0.0 for r, i in zip(rows, limits, strict=True)],
        "arrayminus": [
            r.divergence - i.low if i else 0.0 for r, i in zip(rows, limits, strict=True)
        ],
    }


def _said(row: SensitivityRow, label: str) -> str:
    """A row under the pointer."""
    head = f"<b>{row.name}</b>, {row.type}<br>"
    if not row.exact:
        return head + (f"estimated {row.divergence:.3g}" if label == "estimated" else label)
    lines = f"{head}measured {row.divergence:.3g}"
    if row.divergence_interval:
        lines += f" ({row.divergence_interval.low:.3g} to {row.divergence_interval.high:.3g})"
    if row.change is not None:
        lines += f"<br>metric {100 * row.change:+.3f} % relative"
    if row.change_interval is not None:
        lines += f" ({100 * row.change_interval.low:+.3f} to "
        lines += f"{100 * row.change_interval.high:+.3f})"
    return f"{lines}<br>{row.samples:,} samples"


def _band(first: int, last: int) -> dict[str, object]:
    return {
        "type": "rect",
        "xref": "paper",
        "yref": "y",
        "x0": 0,
        "x1": 1,
        "y0": first - 0.45,
        "y1": last + 0.45,
        "fillcolor": _BAND,
        "line": {"width": 0},
        "layer": "below",
    }
