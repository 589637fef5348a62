"""A running job as widgets, or as a text bar where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from qviz.digits import duration
from qviz.jobs import Job, Snapshot
from qviz.notebook_html import Table, bar, html_table
from qviz.notebook_tune import partial_table
from qviz.progress import Progress
from qviz.search.skip import SkipPoint
from qviz.sensitivity import Sensitivity

#: Rows of a partial result that are shown while it grows.
ROWS = 12
WIDGET = "application/vnd.jupyter.widget-view+json"


class Live:
    """Bar, time left, Cancel and the rows so far.

    Args:
        widgets: the module ipywidgets.
        job: what they show.
    """

    def __init__(self, widgets: Any, job: Job) -> None:  # noqa: ANN401 - not always installed
        self._bar = widgets.FloatProgress(0.0, min=0.0, max=1.0)
        self._text = widgets.Label(job.title)
        self._button = widgets.Button(
            description="Cancel", tooltip="What has been found so far is kept"
        )
        self._button.on_click(lambda _: job.cancel())
        self._rows = widgets.HTML()
        head = widgets.HBox([self._bar, self._button, self._text])
        self._box = widgets.VBox([head, self._rows])

    def bundle(self) -> dict[str, Any]:
        """What shows the widgets."""
        return widget_bundle(self._box, self._text.value)

    def draw(self, shown: Snapshot) -> None:
        """Show a job as it is; called on any thread."""
        now = shown.progress
        self._bar.value = min(now.done / max(now.total, 1), 1.0) if now else 0.0
        self._text.value = f"{shown.title}: {said(shown)}"
        if shown.cancelling:
            self._button.description, self._button.disabled = "Cancelling …", True
        self._rows.value = partial_html(shown.partial)

    def close(self) -> None:
        """Take everything away, in the kernel and on the page."""
        close_widgets(self._box)


def widget_bundle(widget: Any, text: str) -> dict[str, Any]:  # noqa: ANN401
    """What shows a widget, and says in words what it is."""
    model = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {WIDGET: model, "text/plain": text}


def close_widgets(widget: Any) -> None:  # noqa: ANN401
    """Close a widget and all that belongs to it, so that a saved notebook holds none of it."""
    for child in getattr(widget, "children", ()):
        close_widgets(child)
    for part in ("style", "layout"):
        if hasattr(getattr(widget, part, None), "comm"):
            getattr(widget, part).close()
    widget.close()


def live_parts(job: Job) -> Live | None:
    """The widgets of a job, None if ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return Live(ipywidgets, job)


def said(shown: Snapshot) -> str:
    """How far a job is, in words."""
    now = shown.progress
    if shown.cancelling:
        return "cancelling"
    if now is None:
        return "waiting for another job" if shown.state == "waiting" else "starting"
    left = "" if now.remaining is None else f", {duration(now.remaining)} left"
    return f"{now.verb} {now.done:,} of {now.total:,}{left}"


def partial_html(partial: object) -> str:
    """What a job has published so far, as a small table with bars."""
    if isinstance(partial, Sensitivity):
        # without an estimate there is nothing to say of a row before it is measured
        known = [row for row in partial.rows if row.exact or partial.proxy]
        top = max((row.divergence for row in known), default=0.0) or 1.0
        return _table(
            ("op", f"{partial.divergence_name} from float", "", ""),
            [
                (
                    escape(row.name),
                    bar(row.divergence / top),
                    f"{row.divergence:.3g}",
                    f"measured on {row.samples:,} samples" if row.exact else "estimated",
                )
                for row in known[:ROWS]
            ],
        )
    if isinstance(partial, tuple) and partial and isinstance(partial[0], SkipPoint):
        return _table(
            ("ops in float", "drop measured", "step"),
            [(str(len(p.skipped)), f"{p.drop:+.2%}", escape(p.step)) for p in partial[-ROWS:]],
        )
    found = partial_table(partial)
    return "" if found is None else html_table(Table(found))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class TextBar:
    """A job behind a bar of characters, until it ends; Ctrl-C or an interrupt cancels it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bar: Any = None
        self._verb = ""

    def run(self) -> Snapshot:
        """Wait for the job, showing it."""
        try:
            while (shown := self._job.wait(0.2)).active:
                self._draw(shown.progress)
        except KeyboardInterrupt:
            self._job.cancel()
            shown = self._job.wait()
        finally:
            self._close()
        return shown

    def _draw(self, now: Progress | None) -> None:
        if now is None:
            return
        if now.verb != self._verb:
            from tqdm import tqdm

            self._close()
            self._verb = now.verb
            self._bar = tqdm(total=now.total, desc=now.verb, leave=False)
        self._bar.total = now.total
        self._bar.update(now.done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
