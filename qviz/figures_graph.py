"""The network as a picture: every op a point, laid out by depth, coloured by any number.

Depth is the longest path from the input. A deep network would be one long line, so the line is
broken into rows, read like text: left to right, then down. An op goes on in the lane of the op it
continues; a branch takes a lane of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from qviz.graph import Graph, Op
from qviz.node_data import GRADIENT, STATUS_COLOURS, OpNumber

#: Fewest columns of a row; a shallower network is one row.
COLUMNS = 32
#: Pixels between two lanes.
LANE = 34
_EDGE = "rgba(138, 138, 138, 0.55)"
_PLAIN = "rgba(138, 138, 138, 0.45)"
_SYMBOLS = {"int8": "circle", "float by choice": "diamond", "float": "square"}


@dataclass(frozen=True)
class Place:
    """Where an op is drawn.

    Attributes:
        depth: ops on the longest path to it.
        lane: 0 is the one the network begins in.
        x: column.
        y: lanes from the top, over all rows.
        row: of the broken line.
    """

    depth: int
    lane: int
    x: int
    y: int
    row: int


def layout(ops: Sequence[Op], columns: int | None = None) -> dict[str, Place]:
    """Places of all ops.

    Args:
        ops: in execution order.
        columns: of a row; None suits the depth.
    """
    depth = _depths(ops)
    lanes = _lanes(ops, depth)
    deepest = max(depth.values(), default=0) + 1
    wide = columns or max(COLUMNS, math.ceil(math.sqrt(6 * deepest)))
    if columns is None and deepest <= 1.25 * COLUMNS:
        wide = deepest
    rows = math.ceil(deepest / wide)
    height = [1] * rows
    for name, at in depth.items():
        height[at // wide] = max(height[at // wide], lanes[name] + 1)
    # half a lane more between rows, where skipping connections pass
    top = [sum(height[:row]) + row for row in range(rows)]
    return {
        name: Place(at, lanes[name], at % wide, top[at // wide] + lanes[name], at // wide)
        for name, at in depth.items()
    }


def _depths(ops: Sequence[Op]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for op in ops:
        depth[op.name] = 1 + max((depth[r] for r in _read(op, depth)), default=-1)
    return depth


def _read(op: Op, known: Mapping[str, object]) -> list[str]:
    """Ops that this one reads; a split's second result is named ``split[1]``."""
    names = (name if name in known else name.partition("[")[0] for name in op.reads)
    return list(dict.fromkeys(name for name in names if name in known))


def _lanes(ops: Sequence[Op], depth: Mapping[str, int]) -> dict[str, int]:
    """A lane for each op, so that no two share a place.

    The reader that goes furthest takes its source's lane on; another takes the first free one.
    """
    lane: dict[str, int] = {}
    taken: dict[int, set[int]] = {}
    continued: set[str] = set()
    for op in sorted(ops, key=lambda op: depth[op.name]):
        full = taken.setdefault(depth[op.name], set())
        sources = sorted(_read(op, lane), key=lambda name: (lane[name], -depth[name]))
        heir = next((s for s in sources if s not in continued and lane[s] not in full), None)
        chosen = lane[heir] if heir is not None else 0
        while chosen in full:
            chosen += 1
        continued.update(sources if heir is None else [heir])
        lane[op.name] = chosen
        full.add(chosen)
    return lane


def network_figure(
    graph: Graph, number: OpNumber, *, chosen: str | None = None, details: Mapping[str, str]
) -> go.Figure:
    """The network, coloured by one number; ``customdata`` of a point is its op.

    Args:
        graph: the network.
        number: see ``node_data.op_numbers``.
        chosen: an op to be ringed.
        details: lines under an op's name, by op.
    """
    ops = tuple(graph.ops.values())
    places = layout(ops)
    wide = max((p.x for p in places.values()), default=0) + 1
    deep = max((p.y for p in places.values()), default=0) + 1
    lines = [_edges(ops, places, wide), _blocks(ops, places, wide)]
    figure = go.Figure([*lines, *_points(ops, places, number, details)])
    if chosen in places:
        figure.add_trace(_ring(places[chosen], chosen))
    size = min(11.0, max(6.0, 760 / wide))
    figure.update_traces(marker_size=size, selector={"name": "ops"})
    for status in STATUS_COLOURS:
        figure.update_traces(marker_size=size, selector={"name": status})
    hidden = dict.fromkeys(("showgrid", "zeroline", "showticklabels", "showline"), False)
    figure.update_layout(
        xaxis={**hidden, "range": [-0.8, wide - 0.2]},
        yaxis={**hidden, "range": [deep - 0.2, -1.0]},
        height=min(1100, max(240, 90 + LANE * (deep + 1))),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "yanchor": "top", "y": -0.02},
        hovermode="closest",
        dragmode="zoom",
        showlegend=isinstance(next(iter(number.values.values()), 0.0), str),
    )
    return figure


def _ring(place: Place, name: str) -> go.Scatter:
    return go.Scatter(
        x=[place.x],
        y=[place.y],
        mode="markers",
        marker={"symbol": "circle-open", "size": 22, "color": "#D55E00", "line": {"width": 3}},
        name=f"chosen: {name}",
        hoverinfo="skip",
        showlegend=False,
    )


def _edges(ops: Sequence[Op], places: Mapping[str, Place], wide: int) -> go.Scatter:
    x: list[float] = []
    y: list[float] = []
    for op in ops:
        for source in _read(op, places):
            for line in _path(places[source], places[op.name], wide):
                x += [point[0] for point in line] + [math.nan]
                y += [point[1] for point in line] + [math.nan]
    return go.Scatter(
        x=np.array(x),  # plotly takes an array as it is, and looks at every item of a list
        y=np.array(y),
        mode="lines",
        line={"color": _EDGE, "width": 1.2},
        hoverinfo="skip",
        showlegend=False,
        name="reads",
    )


def _path(a: Place, b: Place, wide: int) -> list[list[tuple[float, float]]]:
    """Lines from one op to another; one that skips ops passes above the lower of their lanes."""
    near = b.depth - a.depth == 1
    if a.row == b.row:
        if near:
            return [[(a.x, a.y), (b.x, b.y)]]
        over = max(a.y, b.y) - 0.45
        return [[(a.x, a.y), (a.x + 0.5, over), (b.x - 0.5, over), (b.x, b.y)]]
    # to the end of its row, and in again at the beginning of the other
    rise = 0.0 if near else 0.45
    out = [(a.x, a.y), (a.x + 0.5, a.y - rise), (wide - 0.4, a.y - rise)]
    back = [(-0.6, b.y - rise), (b.x - 0.5, b.y - rise), (b.x, b.y)]
    return [[p for p in out if p[0] <= wide - 0.4], [p for p in back if p[0] >= -0.6]]


def _blocks(ops: Sequence[Op], places: Mapping[str, Place], wide: int) -> go.Scatter:
    """Names of the blocks, below the op that each begins with, where there is room."""
    apart = max(4, wide // 7)
    found: list[tuple[Place, str]] = []
    before = ""
    for op in ops:
        parts = op.module.split(".")
        block = ".".join(parts[: 2 if len(parts) > 1 and parts[1].isdigit() else 1])
        place = places[op.name]
        if not block or block == before or place.lane:
            continue
        before = block
        last = found[-1][0] if found else None
        if last is None or last.row != place.row or place.x - last.x >= apart:
            found.append((place, block))
    return go.Scatter(
        x=[place.x for place, _ in found],
        y=[place.y + 0.42 for place, _ in found],
        text=[block for _, block in found],
        mode="text",
        # at the ends of a row half a name would lie outside
        textposition=[
            "middle right" if p.x == 0 else "middle left" if p.x == wide - 1 else "middle center"
            for p, _ in found
        ],
        textfont={"size": 10},
        hoverinfo="skip",
        showlegend=False,
        name="blocks",
    )


def _points(
    ops: Sequence[Op], places: Mapping[str, Place], number: OpNumber, details: Mapping[str, str]
) -> list[go.Scatter]:
    with_value = [op for op in ops if op.name in number.values]
    without = [op for op in ops if op.name not in number.values]
    plain = _scatter(without, places, details, "no value")
    plain.marker = {"color": _PLAIN, "size": 5}
    plain.showlegend = False
    made = [plain]
    words = {v for v in number.values.values() if isinstance(v, str)}
    for status in (s for s in STATUS_COLOURS if s in words):
        one = _scatter(
            [op for op in with_value if number.values[op.name] == status], places, details, status
        )
        one.marker = {"color": STATUS_COLOURS[status], "symbol": _SYMBOLS[status]}
        made.append(one)
    if not words:
        one = _scatter(with_value, places, details, "ops")
        one.marker = _scale(number, [float(number.values[op.name]) for op in with_value])
        made.append(one)
    return made


def _scatter(
    ops: Sequence[Op], places: Mapping[str, Place], details: Mapping[str, str], name: str
) -> go.Scatter:
    return go.Scatter(
        x=np.array([places[op.name].x for op in ops]),
        y=np.array([places[op.name].y for op in ops]),
        customdata=[op.name for op in ops],
        text=[details.get(op.name, op.type) for op in ops],
        mode="markers",
        name=name,
        hovertemplate="<b>%{customdata}</b><br>%{text}<extra></extra>",
    )


def _scale(number: OpNumber, values: Sequence[float]) -> dict[str, Any]:
    """Colours of the markers, and the bar that explains them."""
    logs = number.log and min(values, default=0.0) > 0
    shown = np.log10(values) if logs else np.array(values)
    colours = GRADIENT[::-1] if number.low_is_bad else GRADIENT
    bar: dict[str, Any] = {
        "title": {"text": number.unit or number.key, "side": "right"},
        "thickness": 12,
        "len": 0.9,
        "outlinewidth": 0,
    }
    if logs:
        low, high = float(shown.min()), float(shown.max())
        # whole powers, and the ends where none is near
        powers = [float(p) for p in range(math.ceil(low), math.floor(high) + 1)]
        ends = [e for e in dict.fromkeys((low, high)) if all(abs(e - p) > 0.3 for p in powers)]
        ticks = sorted({*powers, *ends})
        bar |= {"tickvals": ticks, "ticktext": [_short(10**tick) for tick in ticks]}
    last = len(colours) - 1
    return {
        "color": shown,
        "colorscale": [[i / last, colour] for i, colour in enumerate(colours)],
        "colorbar": bar,
        "showscale": bool(values),
        "line": {"color": "#8A8A8A", "width": 1},
    }


def _short(value: float) -> str:
    """``10000`` as ``10 k``, ``0.0012345`` as ``0.00123``."""
    for step, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= step * 0.9995:
            return f"{value / step:.3g}{prefix}"
    return f"{value:.3g}"
