"""qviz in a notebook: figures and tables, long verbs with a Cancel button, ranges by hand.

    import qviz
    from qviz import notebook

    session = qviz.open("sample:resnet")
    session.calibrate()                                  # a bare cell: figure and table
    recipe = session.recipe(calibrator="mse")
    job = notebook.start(session).sensitivity(recipe)    # runs in the background, can be cancelled
    job.result()                                         # waits for it
    picker = notebook.RangePicker(session, "conv1")      # select a range on the histogram
    recipe = picker.apply(recipe)

Importing this under IPython, which ``qviz.open`` does by itself, tells IPython how to display
qviz's values; ``%load_ext qviz.notebook`` does the same.
"""

from __future__ import annotations

from typing import Any

from qviz.calibration import Calibration
from qviz.notebook_html import View
from qviz.notebook_jobs import Verbs, Watch, start, watch
from qviz.notebook_picker import RangePicker
from qviz.notebook_ranges import found, ranges_view
from qviz.notebook_show import bundle, draws, publish_figure, shell
from qviz.notebook_view import VIEWS, view
from qviz.session import Session

__all__ = ["RangePicker", "Verbs", "View", "Watch", "enable", "ranges", "start", "view", "watch"]


def enable(ip: Any | None = None) -> None:  # noqa: ANN401 - IPython need not be installed
    """Teach IPython to display qviz's values; without an IPython nothing happens.

    It also takes plotly's upload button off every figure of this notebook.

    Args:
        ip: the shell, by default the running one.
    """
    ip = ip or shell()
    if ip is None:
        return
    formatter = ip.display_formatter.mimebundle_formatter
    for module, name in VIEWS:
        formatter.for_type_by_name(module, name, _bundle)
    formatter.for_type(tuple, _tuple_bundle)
    _shorten_tuples(ip)
    if draws(ip):
        _keep_private()


def disable(ip: Any | None = None) -> None:  # noqa: ANN401
    """Undo ``enable``: values are displayed by their ``repr`` again."""
    ip = ip or shell()
    if ip is None:
        return
    formatter = ip.display_formatter.mimebundle_formatter
    for name in [*(".".join(key) for key in VIEWS), tuple]:
        formatter.pop(name, None)
    text = ip.display_formatter.formatters["text/plain"]
    if before := getattr(text.lookup_by_type(tuple), "of_qviz", None):
        text.for_type(tuple, before)


def ranges(source: Session | Calibration, tensor: str) -> View:
    """The histogram of one tensor with every candidate range, and what each costs.

    Args:
        source: of the histograms; a session is calibrated if it is not yet.
        tensor: its name, or that of an operand that reads it (``conv1/input``) of a session.

    Raises:
        DataError: there is no such tensor, or it saw no data.
    """
    return ranges_view(*found(source, tensor))


def load_ipython_extension(ip: Any) -> None:  # noqa: ANN401
    """``%load_ext qviz.notebook``."""
    enable(ip)


def unload_ipython_extension(ip: Any) -> None:  # noqa: ANN401
    """``%unload_ext qviz.notebook``."""
    disable(ip)


def _bundle(value: object) -> dict[str, Any] | None:
    shown = view(value)
    if shown is None:
        return None
    ip = shell()
    if ip is not None:
        publish_figure(ip, shown)
    return bundle(shown)


def _tuple_bundle(rows: tuple[object, ...]) -> object:
    if type(rows) is tuple:
        return _bundle(rows)
    # a class of somebody else's: the entry for tuple must not hide its own method
    method = getattr(rows, "_repr_mimebundle_", None)
    return None if method is None else method()


def _shorten_tuples(ip: Any) -> None:  # noqa: ANN401
    """One line of text for rows of a table; the text of a tuple comes from a printer of its own."""
    text = ip.display_formatter.formatters["text/plain"]
    before = text.lookup_by_type(tuple)
    if getattr(before, "of_qviz", False):
        return

    def printer(rows: tuple[object, ...], page: Any, cycle: bool) -> None:  # noqa: ANN401
        shown = view(rows)
        if shown is None:
            before(rows, page, cycle)
        else:
            page.text(shown.text)

    printer.of_qviz = before  # type: ignore[attr-defined]
    text.for_type(tuple, printer)


def _keep_private() -> None:
    """plotly.js shows a button that uploads the figure unless it is told not to."""
    try:
        from plotly.io import renderers

        from qviz.figures import CONFIG
    except ImportError:
        return
    for name in (
        "plotly_mimetype",
        "jupyterlab",
        "vscode",
        "notebook",
        "notebook_connected",
        "colab",
    ):
        renderers[name].config = {**(renderers[name].config or {}), **CONFIG}


enable()
