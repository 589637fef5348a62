"""Tuned weights make other values: one pass over the calibration data before they are drawn."""

from __future__ import annotations

import streamlit as st

from qviz.jobs import Job
from qviz.ui import jobs_view
from qviz.ui.workspace import Workspace

#: How long a page waits for the pass before its progress is drawn, in seconds.
PATIENCE = 0.5


def require(workspace: Workspace) -> None:
    """The draft's histograms are there; else draws the pass that makes them and stops the page."""
    opened, recipe = workspace.opened, workspace.recipe
    if opened.seen(recipe):
        return
    jobs: dict[str, Job] = workspace.memo("observing", dict)
    job = jobs.get(recipe.weights)
    if job is None or job.snapshot().state == "cancelled":
        job = jobs[recipe.weights] = workspace.submit(
            "observe",
            "Values with the tuned weights",
            lambda own: opened.calibration_of(recipe, own.tell),
        )
    shown = job.wait(PATIENCE)
    if shown.active:
        st.caption("The draft has tuned weights, so its tensors have other values.")
        jobs_view.progress(job, key="observing")
        st.stop()
    if shown.state == "failed":
        jobs_view.failure(shown)
        st.stop()
    if not opened.seen(recipe):  # it was made and has made room for others since
        del jobs[recipe.weights]
        st.rerun()
