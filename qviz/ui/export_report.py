"""The export page: one HTML file about the draft, to keep and to mail around."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from qviz.digits import count
from qviz.jobs import Job
from qviz.recipe import Recipe
from qviz.records import digest
from qviz.reporting import write_report
from qviz.ui import export_words as words
from qviz.ui import jobs_view
from qviz.ui.workspace import Workspace

#: Larger files are not offered as a download: the server holds what it sends in memory.
LARGEST = 200 << 20


@dataclass(frozen=True)
class Reported:
    """A report that was written, and of which recipe."""

    path: Path
    recipe: Recipe


def report(workspace: Workspace, checkpoint: Path) -> None:
    """The button that writes the report, and the file.

    Args:
        workspace: whose draft it is about.
        checkpoint: folder of the export, for its parity result.
    """
    st.subheader("Report")
    job = workspace.jobs.get("report")
    shown = None if job is None else job.snapshot()
    active = shown is not None and shown.active
    st.button(
        "Write HTML report",
        key="export_report",
        help=words.REPORT_HELP,
        disabled=active,
        on_click=start,
        args=(workspace, checkpoint),
    )
    if job is None or shown is None:
        return
    if active:
        jobs_view.progress(job, key="export_reporting")
        return
    jobs_view.failure(shown)
    if isinstance(shown.result, Reported) and shown.result.path.is_file():
        _file(shown.result, workspace.recipe)


def start(workspace: Workspace, checkpoint: Path) -> None:
    """Write the report of the draft; for callbacks."""
    session, recipe = workspace.opened.session, workspace.recipe

    def work(job: Job) -> Reported:
        run = session.run
        assert run is not None  # an opened model has one
        # a name of its own: another visit may write one about another recipe
        path = run.path / f"report-{digest(recipe)[:8]}.html"
        made = write_report(session, recipe, path, checkpoint=checkpoint, progress=job.tell)
        return Reported(made, recipe)

    workspace.submit("report", "write the report", work)


def _file(made: Reported, draft: Recipe) -> None:
    size = made.path.stat().st_size
    st.code(str(made.path), language=None, wrap_lines=True)
    if made.recipe != draft:
        st.info("It is about an earlier draft: write it again for this one.")
    if size > LARGEST:
        st.caption(f"{count(size)}B: too large to download here; it is in the run folder.")
        return
    st.download_button(
        f"Download the report ({count(size)}B)",
        data=made.path.read_bytes,
        file_name=made.path.name,
        mime="text/html",
        key="export_report_file",
        on_click="ignore",
    )
