"""Pictures of winning accuracy back: the steps tried, what a fit gained per op, a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz.digits import number, percent
from qviz.errors import MissingExtraError
from qviz.tables_tune import Tried
from qviz.tune.step import Change

if TYPE_CHECKING:
    from qviz.tune.qat_options import Epoch

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

# Okabe and Ito's palette; symbols tell the same things apart.
_COLOURS = {"better": "#2B8CC4", "worse": "#D55E00", "noise": "#8A8A8A", "not measured": "#8A8A8A"}
_SYMBOLS = {
    "better": "circle",
    "worse": "x",
    "noise": "diamond-open",
    "not measured": "circle-open",
}
_TARGET = "#009E73"
_GREY = "#8A8A8A"
_HELD_OUT = "#E69F00"
#: Characters of a title or name that fit beside the picture on a narrow screen.
NAME = 22
#: Rows of a picture; more would be too small to see.
MOST = 40


def steps_figure(steps: Sequence[Tried], *, target: float | None, metric: str = "") -> go.Figure:
    """The drop from float before and after each step, newest below, with the target.

    The whisker is the 95 % interval of what the step itself changed. A point's ``customdata`` is
    the number of its step.

    Args:
        steps: those without a measurement are left out.
        target: largest drop allowed, relative; None draws none.
        metric: name of the metric, for the axis.
    """
    drawn = [one for one in steps if one.drop is not None][-MOST:]
    began = [one for one in drawn if one.drop_before is not None]
    names = {one.step: f"{one.step} {brief(one.title)}" for one in drawn}
    figure = go.Figure()
    figure.add_trace(_moves(began, names))
    figure.add_trace(
        go.Scatter(
            x=[100 * (one.drop_before or 0.0) for one in began],
            y=[names[one.step] for one in began],
            customdata=[one.step for one in began],
            mode="markers",
            marker={"color": _GREY, "symbol": "line-ns-open", "size": 12, "line": {"width": 2}},
            name="before",
            hovertemplate="before: drop %{x:.3f} %<extra></extra>",
        )
    )
    for verdict in _SYMBOLS:
        figure.add_trace(_after([one for one in drawn if one.verdict == verdict], names, verdict))
    if target is not None:
        figure.add_vline(x=100 * target, line={"color": _TARGET, "dash": "dashdot", "width": 2})
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines",
                line={"color": _TARGET, "dash": "dashdot", "width": 2},
                name=f"target {percent(target)}",
            )
        )
    named = f" of {metric}" if metric else ""
    figure.update_layout(
        xaxis={"title": f"drop{named} from float (relative, %)", "zeroline": True},
        yaxis=names_axis([names[one.step] for one in drawn]),
        legend=LEGEND,
        height=170 + 26 * max(len(drawn), 3),
        margin={"l": 10, "r": 20, "t": 20, "b": 90},
        hovermode="closest",
        uirevision="steps",
    )
    return figure


#: Below the picture, where it costs no width on a narrow screen.
LEGEND = {"orientation": "h", "yanchor": "bottom", "yref": "container", "y": 0.0, "x": 0}


def _moves(drawn: Sequence[Tried], names: dict[int, str]) -> go.Scatter:
    xs: list[float | None] = []
    ys: list[str | None] = []
    for one in drawn:
        xs += [100 * (one.drop_before or 0.0), 100 * (one.drop or 0.0), None]
        ys += [names[one.step], names[one.step], None]
    return go.Scatter(
        x=xs, y=ys, mode="lines", line={"color": _GREY, "width": 1}, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip


def _after(rows: Sequence[Tried], names: dict[int, str], verdict: str) -> go.Scatter:
    ends = [_ends(one) for one in rows]
    return go.Scatter(
        x=[100 * (one.drop or 0.0) for one in rows],
        y=[names[one.step] for one in rows],
        customdata=[one.step for one in rows],
        mode="markers",
        marker={"color": _COLOURS[verdict], "symbol": _SYMBOLS[verdict], "size": 11},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * high for _, high in ends],
            "arrayminus": [100 * low for low, _ in ends],
            "color": _COLOURS[verdict],
            "thickness": 1.5,
            "width": 4,
        },
        # measured, but with nothing before it
        name="the first" if verdict == "not measured" else verdict,
        hovertext=[_hover(one) for one in rows],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=bool(rows),
    )


def _ends(one: Tried) -> tuple[float, float]:
    """How far the interval of the gain reaches to both sides of the drop, in drops."""
    if one.gain is None or one.low is None or one.high is None or one.drop is None:
        return 0.0, 0.0
    # gains are relative to before, drops to float
    moved, gained = (one.drop_before or 0.0) - one.drop, one.gain
    rate = moved / gained if gained else 1.0 - (one.drop_before or 0.0)
    return abs(rate) * (one.high - gained), abs(rate) * (gained - one.low)


def _hover(one: Tried) -> str:
    lines = [f"<b>{one.step}. {one.title}</b>"]
    if one.drop_before is None:
        lines.append(f"drop {percent(one.drop)}")
    else:
        lines[0] += f": {one.verdict}"
        lines.append(f"drop {percent(one.drop_before)} → {percent(one.drop)}")
    if one.gain is not None and one.low is not None and one.high is not None:
        ends = f"{percent(one.low, signed=True)} to {percent(one.high, signed=True)}"
        lines.append(f"gain {percent(one.gain, signed=True)} (95 %: {ends})")
    lines.append(one.how or "as it is by default")
    return "<br>".join(lines)


def brief(name: str, most: int = NAME) -> str:
    """A text short enough for an axis; an op's end says more than its beginning."""
    if len(name) <= most:
        return name
    if " " in name:
        return f"{name[: most - 1].rstrip()}…"
    return f"…{name[1 - most :].lstrip('.:/')}"


def changes_figure(changes: Sequence[Change], unit: str) -> go.Figure:
    """One number per op before and after a fit, largest gain first.

    Errors are drawn on a logarithmic axis; decibels are logarithms already, and more is better.

    Args:
        changes: all of one unit, with positive numbers.
        unit: of the numbers.
    """
    decibels = "dB" in unit

    def gain(one: Change) -> float:
        before, after = one.before or 1.0, one.after or 1.0
        return after - before if decibels else math.log(before / after)

    drawn = sorted(changes, key=gain, reverse=True)[:MOST]
    names = [one.target for one in drawn]
    figure = go.Figure()
    lines_x: list[float | None] = []
    lines_y: list[str | None] = []
    for one in drawn:
        lines_x += [one.before, one.after, None]
        lines_y += [one.target, one.target, None]
    figure.add_trace(
        go.Scatter(
            x=lines_x, y=lines_y, mode="lines", line={"color": _GREY, "width": 1},
            hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    for label, symbol, colour in (
        ("before", "circle-open", _GREY),
        ("after", "circle", _COLOURS["better"]),
    ):
        figure.add_trace(
            go.Scatter(
                x=[one.before if label == "before" else one.after for one in drawn],
                y=names,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2}},
                name=label,
                hovertext=[
                    f"<b>{one.target}</b>, {one.what}<br>{number(one.before)} → "
                    f"{number(one.after)} {unit}" + (f"<br>{one.note}" if one.note else "")
                    for one in drawn
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    figure.update_layout(
        xaxis={"title": unit}
        | (
            {} if decibels else {"type": "log", "exponentformat": "power", "dtick": _ticks(changes)}
        ),
        yaxis=names_axis(names),
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        height=110 + 22 * max(len(drawn), 4),
        margin={"l": 10, "r": 20, "t": 40, "b": 60},
        hovermode="closest",
        uirevision=unit,
    )
    return figure


def _ticks(changes: Sequence[Change]) -> object:
    """2 and 5 between the powers of ten only where there is room for them."""
    values = [v for one in changes for v in (one.before, one.after) if v]
    return "D2" if values and max(values) < 1e3 * min(values) else 1


def names_axis(names: Sequence[str]) -> dict[str, object]:
    """An axis of names, the first on top."""
    return {
        "autorange": "reversed",
        "automargin": True,
        "categoryorder": "array",
        "categoryarray": list(names),
        "tickmode": "array",
        "tickvals": list(names),
        "ticktext": [brief(name) for name in names],
        "fixedrange": True,
        "showgrid": False,
    }


def epochs_figure(epochs: Sequence[Epoch]) -> go.Figure:
    """The loss of every epoch: on what was trained on, and on what was held out.

    Args:
        epochs: number 0 is the recipe before training.
    """
    figure = go.Figure()
    for label, colour, dash, symbol, values in (
        ("training", _COLOURS["better"], "solid", "circle", [(e, e.loss) for e in epochs]),
        ("held out", _HELD_OUT, "dash", "square", [(e, e.held_out_loss) for e in epochs]),
    ):
        known = [(e, value) for e, value in values if value is not None]
        figure.add_trace(
            go.Scatter(
                x=[e.number for e, _ in known],
                y=[value for _, value in known],
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 8},
                name=label,
                hovertext=[
                    f"<b>epoch {e.number}</b>, {label}<br>loss {number(value)}<br>"
                    f"learning rate {number(e.lr)}, {e.steps:,} steps"
                    for e, value in known
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=bool(known),
            )
        )
    best = [e for e in epochs if e.best and e.held_out_loss is not None][-1:]
    figure.add_trace(
        go.Scatter(
            x=[e.number for e in best],
            y=[e.held_out_loss for e in best],
            mode="markers",
            marker={"color": _HELD_OUT, "symbol": "star-open", "size": 18, "line": {"width": 2}},
            name="best so far",
            hoverinfo="skip",
            showlegend=bool(best),
        )
    )
    figure.update_layout(
        xaxis={"title": "epoch (0: before training)", "tickformat": ",d", "rangemode": "tozero"},
        yaxis={"title": "mean loss", "exponentformat": "power"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        height=320,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        hovermode="closest",
        uirevision="epochs",
    )
    return figure
