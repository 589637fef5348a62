"""A plotly figure on the page, drawn in place, with limits that can be dragged if wanted.

Streamlit's own plotly element makes a new node for every changed figure, which blinks and loses
the zoom. This one calls ``Plotly.react`` on the node that is there.

Three scripts make one component: ``chart.js`` draws, ``ranges_drag.js`` moves the limits and says
what they cost, ``ranges_cost.js`` computes that while a limit moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    import plotly.graph_objects as go

SOURCE = "/qviz-assets/plotly.min.js"
SCRIPTS = ("ranges_cost.js", "ranges_drag.js", "chart.js")


@dataclass(frozen=True)
class Limits:
    """A range drawn on a chart as lines that can be dragged along the x axis.

    Attributes:
        lo: lower limit, in units of the axis.
        hi: upper limit.
        mirrored: the range is [-hi, hi]; moving one limit moves the other.
        left: whether the lower limit is drawn.
        cost: what the range costs, computed by the server: shown while nothing is dragged.
        density: what ``ranges_cost.js`` computes the same from, for any range.
        best: candidate with the least error, as ``{"name", "sqnr_db"}``, to compare with.
    """

    lo: float
    hi: float
    mirrored: bool
    left: bool
    cost: Mapping[str, float | None]
    density: Mapping[str, object]
    best: Mapping[str, object] | None = None


_folder = Path(__file__).parent
_component = st.components.v2.component(
    "qviz_chart",
    html="<div class='qviz-chart' style='width:100%'></div>",
    css=(_folder / "chart.css").read_text(encoding="utf-8"),
    js="\n".join((_folder / name).read_text(encoding="utf-8") for name in SCRIPTS),
    isolate_styles=False,
)


def chart(
    figure: go.Figure,
    *,
    key: str,
    alt: str,
    on_click: Callable[[Any], None] | None = None,
    limits: Limits | None = None,
    on_range: Callable[[float, float], None] | None = None,
) -> None:
    """Draw a figure.

    Zoom and the choices in the legend survive a redraw, until the figure's ``uirevision`` (of the
    layout or of one axis) changes; without one they always do. A figure without a height of its
    own is 400 pixels high.

    Args:
        figure: what to draw; its ``customdata`` is what a click hands over.
        key: of the node; the same key is redrawn in place.
        alt: the picture in words.
        on_click: called with the ``customdata`` of the point that was clicked.
        limits: a range that can be dragged on the x axis.
        on_range: called with lower and upper end when a limit was let go or a box selected.
    """

    def clicked() -> None:
        value = getattr(st.session_state.get(key), "click", None)
        if on_click is not None and value is not None:
            on_click(value)

    def moved() -> None:
        value = getattr(st.session_state.get(key), "range", None)
        if on_range is not None and value is not None:
            lo, hi = sorted(float(end) for end in value)
            on_range(lo, hi)

    _component(
        key=key,
        data={
            "figure": figure.to_json(),
            "alt": alt,
            "src": SOURCE,
            "clickable": on_click is not None,
            "limits": None if limits is None else asdict(limits),
        },
        on_click_change=clicked,
        on_range_change=moved,
        height="content",
    )
