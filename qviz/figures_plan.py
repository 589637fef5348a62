"""The skip curve: what leaving ops in float does to the metric, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.digits import percent
from qviz.errors import MissingExtraError
from qviz.estimate import Measured
from qviz.search.skip import SearchResult
from qviz.tables_plan import Mark, Step

try:
    import plotly.graph_objects as go
except ImportError as error:
    raise MissingExtraError(
        "figures", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

# Okabe and Ito's palette; shapes and dashes tell the same things apart.
_MEASURED = "#2B8CC4"  # between its two blues: one is dim on black, the other on white
_PREDICTED = "#E69F00"
_TARGET = "#009E73"
_FLAG = "#D55E00"
_MACS = "#8A8A8A"
#: Names listed under the pointer; more do not fit beside the curve.
_NAMED = 6


def curve_figure(
    marks: Sequence[Mark],
    *,
    quantizable: int,
    target: float,
    predicted: Sequence[Step] = (),
    here: Step | None = None,
    metric: str = "",
) -> go.Figure:
    """Relative drop against the number of ops left in float: measured, predicted, target.

    Args:
        marks: measured points; the ``customdata`` of each is its ``key``.
        quantizable: ops that could be int8.
        target: largest drop allowed, relative.
        predicted: the curve along the ranking, worst first.
        here: the recipe being edited, predicted; drawn while it is not measured.
        metric: name of the metric, for the axis.
    """
    figure = go.Figure()
    known = [step for step in predicted if step.drop is not None]
    if predicted:
        figure.add_trace(_macs(predicted))
    if known:
        figure.add_trace(_predicted(known))
    ops = [mark.ops for mark in marks] + ([here.ops] if here else [])
    # far to the right everything is float and nothing happens
    right = min(quantizable, max([4, *(2 * n for n in ops), *_interesting(known, target)]))
    figure.add_trace(_target(target, quantizable))
    plain = [mark for mark in marks if not mark.current]
    flagged = [mark for mark in marks if mark.flag is not None]
    figure.add_trace(_measured(plain, "measured", _MEASURED, "circle", 8))
    if flagged:
        figure.add_trace(_rings(flagged))
    current = [mark for mark in marks if mark.current]
    if current:
        figure.add_trace(_measured(current, "this draft", _MEASURED, "diamond", 14))
    elif here is not None and here.drop is not None:
        figure.add_trace(_here(here))
    named = f" of {metric}" if metric else ""
    figure.update_layout(
        xaxis={
            "title": f"ops left in float (of {quantizable})",
            "range": [-0.04 * right, 1.04 * right],
            "tickformat": ",d",
        },
        yaxis={"title": f"drop{named} from float (relative, %)", "zeroline": True},
        yaxis2={
            "title": "MACs in float (%)",
            "overlaying": "y",
            "side": "right",
            "range": [0, 105],
            "tickmode": "array",
            "tickvals": [0, 25, 50, 75, 100],
            "showgrid": False,
            "fixedrange": True,
        },
        legend={
            "orientation": "h",
            "yanchor": "top",
            "y": -0.22,
            "x": -0.1,
            "entrywidth": 165,
            "entrywidthmode": "pixels",
            "font": {"size": 11},
        },
        hovermode="closest",
        height=430,
        margin={"l": 60, "r": 60, "t": 20, "b": 60},
        uirevision="curve",
    )
    return figure


def skip_curve_figure(result: SearchResult) -> go.Figure:
    """The curve of one search; its best point is drawn as the chosen one."""
    marks = [
        Mark(len(point.skipped), point, point.step, current=point is result.best, key=i)
        for i, point in enumerate(result.curve)
    ]
    # of several sets of one size, the one along the ranking: it was measured first
    first = {len(p.skipped): p for p in reversed(result.curve)}
    steps = [Step(n, p.predicted, p.float_macs) for n, p in sorted(first.items())]
    figure = curve_figure(
        marks, quantizable=result.quantizable, target=result.max_drop, predicted=steps
    )
    figure.for_each_trace(lambda trace: trace.update(name="found"), {"name": "this draft"})
    return figure


def _interesting(known: Sequence[Step], target: float) -> list[int]:
    """Where the prediction has come well below the target."""
    return [next((s.ops for s in known if s.drop is not None and s.drop < target / 4), 0)]


def interval_bars(points: Sequence[Measured]) -> dict[str, object]:
    """The 95 % intervals of measured drops in %, as plotly takes them."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (p.high - p.drop) for p in points],
        "arrayminus": [100 * (p.drop - p.low) for p in points],
        "thickness": 1,
        "width": 3,
    }


def _measured(marks: Sequence[Mark], name: str, colour: str, symbol: str, size: int) -> go.Scatter:
    points = [mark.point for mark in marks]
    return go.Scatter(
        x=[mark.ops for mark in marks],
        y=[100 * p.drop for p in points],
        customdata=[mark.key for mark in marks],
        error_y=interval_bars(points),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": size},
        name=name,
        hovertext=[_hover(mark) for mark in marks],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _rings(marks: Sequence[Mark]) -> go.Scatter:
    return go.Scatter(
        x=[mark.ops for mark in marks],
        y=[100 * mark.point.drop for mark in marks],
        mode="markers",
        marker={"color": _FLAG, "symbol": "square-open", "size": 19, "line": {"width": 2}},
        name="not as predicted",
        hoverinfo="skip",
    )


def _predicted(steps: Sequence[Step]) -> go.Scatter:
    return go.Scatter(
        x=[step.ops for step in steps],
        y=[100 * (step.drop or 0.0) for step in steps],
        mode="lines",
        line={"color": _PREDICTED, "dash": "dash", "width": 2},
        name="predicted, worst first",
        hovertext=[
            f"<b>{step.ops} in float, predicted</b><br>drop {percent(step.drop)}"
            f"<br>{percent(step.float_macs)} of MACs in float"
            + (f"<br>then added: {step.name}" if step.name else "")
            for step in steps
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _macs(steps: Sequence[Step]) -> go.Scatter:
    return go.Scatter(
        x=[step.ops for step in steps],
        y=[100 * step.float_macs for step in steps],
        yaxis="y2",
        mode="lines",
        line={"color": _MACS, "dash": "dot", "width": 1, "shape": "hv"},
        name="MACs in float (right)",
        hoverinfo="skip",
    )


def _target(target: float, quantizable: int) -> go.Scatter:
    return go.Scatter(
        x=[0, max(1, quantizable)],
        y=[100 * target] * 2,
        mode="lines",
        line={"color": _TARGET, "dash": "dashdot", "width": 2},
        name=f"target {percent(target)}",
        hovertemplate=f"target {percent(target)}<extra></extra>",
    )


def _here(step: Step) -> go.Scatter:
    return go.Scatter(
        x=[step.ops],
        y=[100 * (step.drop or 0.0)],
        mode="markers",
        marker={
            "color": _PREDICTED,
            "symbol": "diamond-open",
            "size": 14,
            "line": {"width": 2},
        },
        name="this draft, estimated",
        hovertext=[f"<b>this draft, estimated</b><br>drop {percent(step.drop)}"],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _hover(mark: Mark) -> str:
    point = mark.point
    lines = [
        f"<b>{mark.ops} in float, measured</b> ({mark.label})",
        f"drop {percent(point.drop)} (95 %: {percent(point.low)} to {percent(point.high)})",
        f"predicted {percent(point.predicted)}",
        f"{percent(point.float_macs)} of MACs in float",
    ]
    lines += list(point.skipped[:_NAMED])
    if len(point.skipped) > _NAMED:
        lines.append(f"and {len(point.skipped) - _NAMED} more")
    if mark.flag is not None:
        lines.append(f"<i>{_wrapped(mark.flag)}</i>")
    return "<br>".join(lines)


def _wrapped(text: str, width: int = 48) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(text, width))
