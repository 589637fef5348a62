"""A plotly figure on the page, drawn in place.

Streamlit's own plotly element makes a new node for every changed figure, which blinks and loses
the zoom. This one calls ``Plotly.react`` on the node that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    import plotly.graph_objects as go

SOURCE = "/qviz-assets/plotly.min.js"

_component = st.components.v2.component(
    "qviz_chart",
    html="<div class='qviz-chart' style='width:100%'></div>",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def chart(
    figure: go.Figure, *, key: str, alt: str, on_click: Callable[[Any], None] | None = None
) -> None:
    """Draw a figure.

    Args:
        figure: what to draw; its ``customdata`` is what a click hands over.
        key: of the node; the same key is redrawn in place.
        alt: the picture in words.
        on_click: called with the ``customdata`` of the point that was clicked.
    """

    def clicked() -> None:
        value = getattr(st.session_state.get(key), "click", None)
        if on_click is not None and value is not None:
            on_click(value)

    _component(
        key=key,
        data={
            "figure": figure.to_json(),
            "alt": alt,
            "src": SOURCE,
            "clickable": on_click is not None,
        },
        on_click_change=clicked,
        height="content",
    )
