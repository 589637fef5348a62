"""The landing page's parts: what this is, the samples, and a picture of what is to come.

It must be up at once: nothing here may import torch or plotly's figures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import streamlit as st

from qviz.samples import Sample, samples
from qviz.shipped import shipped
from qviz.ui import jobs_view, visit
from qviz.ui.chart import chart
from qviz.ui.launch import Start
from qviz.ui.workspace import Workspace

if TYPE_CHECKING:
    import plotly.graph_objects as go

SENTENCE = (
    "See where the values of every layer lie, choose what runs in INT8 and what stays float, and "
    "take home a checkpoint whose accuracy you have seen."
)
_GO = "start_go"


def go_if_asked() -> None:
    """After a click on a sample: to its ranges, in the script run that follows the click."""
    if st.session_state.pop(_GO, False):
        st.switch_page(shipped("pages") / "ranges.py", query_params={"w": st.session_state["w"]})


def open_sample(name: str) -> None:
    """Open a sample and go to its ranges; for callbacks."""
    st.session_state.pop("start_error", None)
    visit.open_model(Start(model=f"sample:{name}"))
    st.session_state[_GO] = True


def landing(*, brief: bool) -> None:
    """The sentence, the samples and the picture; only the samples if ``brief``."""
    first, *others = samples()
    if brief:
        with st.container(horizontal=True):
            for sample in (first, *others):
                _button(
                    sample, f"Sample: {sample.title}", shortcut="E" if sample == first else None
                )
        return
    text, picture = st.columns([3, 2], vertical_alignment="center")
    with text:
        st.markdown(f"##### {SENTENCE}")
        _button(first, f"Try the sample {first.title}", primary=True, shortcut="E")
        st.caption(_about(first))
    with picture:
        chart(
            cast("go.Figure", _preview()),
            key="start_preview",
            alt="Illustration: a histogram with a long tail, and two ranges on it. One covers all "
            "values in coarse steps, the other clips the tail and has finer steps",
        )
    for column, sample in zip(st.columns(max(1, len(others))), others, strict=False):
        with column, st.container(border=True):
            _button(sample, sample.title)
            st.caption(_about(sample))


def _button(
    sample: Sample, label: str, *, primary: bool = False, shortcut: str | None = None
) -> None:
    st.button(
        label,
        key=f"start_sample_{sample.name}",
        type="primary" if primary else "secondary",
        shortcut=shortcut,
        on_click=open_sample,
        args=(sample.name,),
    )


def opening(workspace: Workspace | None) -> bool:
    """Progress of a model that is being opened; whether there is one."""
    if workspace is None or not workspace.opening.snapshot().active:
        return False
    jobs_view.progress(workspace.opening, key="start_opening")
    return True


def _about(sample: Sample) -> str:
    if sample.float_accuracy is None:
        return sample.description
    return f"{sample.description} Top-1 accuracy in float: {100 * sample.float_accuracy:.1f} %."


@dataclass(frozen=True)
class _Plain:
    """A figure that is JSON already: plotly's own classes take half a second to import."""

    figure: dict[str, object]

    def to_json(self) -> str:
        return json.dumps(self.figure)


def _preview() -> _Plain:
    """A small picture of the app's main one; it also makes the browser load plotly.js early."""
    x = [i / 20 for i in range(-60, 141)]
    # two slopes and a ripple; of the tail only single values, as in a real network
    y = [
        (30000 * math.exp(-v * v / 0.5) + 700 * math.exp(-1.2 * abs(v)) * (v > 0))
        * (1 + 0.3 * math.sin(1.7 * i) * math.sin(0.37 * i))
        for i, v in enumerate(x)
    ]
    y = [max(v, 0.5) if x[i] < 4.6 or i % 7 == 0 else 0.5 for i, v in enumerate(y)]
    lines = (("max", 7.0, "#D55E00", "solid"), ("mse", 3.4, "#009E73", "dash"))
    traces: list[dict[str, object]] = [
        {
            "x": x,
            "y": y,
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "color": "#8A8A8A", "width": 1},
            "fill": "tozeroy",
            "fillcolor": "rgba(138, 138, 138, 0.25)",
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    traces += [
        {
            "x": [at, at],
            "y": [0.5, 60000],
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "line": {"color": colour, "dash": dash, "width": 2},
            "hoverinfo": "skip",
        }
        for name, at, colour, dash in lines
    ]
    bare = {"fixedrange": True, "showticklabels": False, "showgrid": False, "zeroline": False}
    layout = {
        "height": 170,
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        "xaxis": bare,
        "yaxis": {**bare, "type": "log"},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1},
        "hovermode": False,
        "dragmode": False,
    }
    return _Plain({"data": traces, "layout": layout})
