"""Putting a View on the page of whoever runs the cell: IPython's displays, looked up, not imported.

A figure and a table are two outputs: of one output a page shows one form, and would drop the table.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

from qviz.errors import MissingExtraError
from qviz.notebook_html import View, page

PLOTLY = "application/vnd.plotly.v1+json"
CURE = "Install it: pip install 'qviz[notebook]'"


def shell() -> Any | None:  # noqa: ANN401 - IPython's types are not there when it is not
    """The IPython that runs this code, None outside of one."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def draws(ip: Any | None) -> bool:  # noqa: ANN401
    """Whether the reader sees HTML: a notebook does, IPython in a terminal does not."""
    return ip is not None and "text/html" in ip.display_formatter.active_types


def bundle(view: View) -> dict[str, Any]:
    """The line and the tables of a view."""
    return {"text/html": page(view.text, view.notes, view.tables), "text/plain": view.text}


def figure_bundle(view: View) -> dict[str, Any]:
    """The figure of a view; in its place, if plotly is not installed, how to get it."""
    if view.figure is None:
        return {}
    try:
        figure = view.figure()
    except (MissingExtraError, ModuleNotFoundError):
        text = f"The figure needs plotly. {CURE}."
        return {"text/html": page(text), "text/plain": text}
    return {**plotly_bundle(figure), "text/plain": f"Figure: {view.text}"}


def plotly_bundle(figure: Any) -> dict[str, Any]:  # noqa: ANN401 - plotly has no types
    """A figure for Jupyter, VS Code and everybody else who knows plotly's own MIME type."""
    from plotly.graph_objects import Figure

    from qviz.figures import CONFIG

    light = Figure(figure.to_dict()).update_layout(template="plotly_white")
    return {PLOTLY: {**json.loads(light.to_json()), "config": dict(CONFIG)}}


def show(view: View) -> None:
    """Publish a view's figure and tables as outputs of the running cell."""
    ip = shell()
    if ip is None:
        print(view.text)
        return
    publish_figure(ip, view)
    ip.display_pub.publish(bundle(view))


def publish_figure(ip: Any, view: View) -> None:  # noqa: ANN401
    """Publish a view's figure, if it has one and somebody can see it."""
    if draws(ip) and (data := figure_bundle(view)):
        ip.display_pub.publish(data)


class Place:
    """An output that can be filled again later, from any thread; what was there goes.

    Args:
        ip: the shell that runs the cell.
        data: what is shown first, by MIME type.
    """

    def __init__(self, ip: Any, data: dict[str, Any]) -> None:  # noqa: ANN401
        self._publish = ip.display_pub.publish
        self._id = {"display_id": uuid.uuid4().hex}
        self._publish(data, transient=self._id)

    def fill(self, data: dict[str, Any]) -> None:
        """Show something else."""
        self._publish(data, transient=self._id, update=True)
