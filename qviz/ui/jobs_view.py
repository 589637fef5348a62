"""A job on the page: bar, time left, Cancel; what went wrong in words with the traceback folded."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from qviz.digits import duration
from qviz.jobs import Job, Snapshot
from qviz.progress import Progress
from qviz.ui.workspace import Workspace

#: How often a running job is looked at, in seconds.
POLL = 0.4


def progress(job: Job, *, key: str, draw: Callable[[Snapshot], None] | None = None) -> None:
    """Show a job while it runs, in a fragment that polls; rerun the page once when it has ended.

    Args:
        job: what runs.
        key: unique on the page.
        draw: draws what the job has published so far, below the bar.
    """

    def live() -> None:
        shown = job.snapshot()
        if not shown.active:
            st.rerun()
        bar(shown)
        cancel(job, shown, key=key, keeps="What is finished so far is kept")
        if draw is not None:
            draw(shown)

    st.fragment(live, run_every=POLL)()


def result(
    workspace: Workspace,
    kind: str,
    *,
    usable: Callable[[Snapshot], bool],
    draw: Callable[[Job], None],
    every: float,
) -> None:
    """The result of a kind of job, drawn again while it runs; why the last one ended, if it failed.

    Args:
        workspace: whose jobs.
        kind: of them.
        usable: whether one that was cancelled or failed found anything; else the one before stands.
        draw: draws what a job has found so far.
        every: how often, in seconds.
    """
    last = workspace.jobs.get(kind)
    if last is None:
        return
    failure(last.snapshot())
    job = workspace.standing(kind, usable)
    if job is not None:
        active = job.snapshot().active
        st.fragment(lambda: draw(job), run_every=every if active else None)()


def cancel(job: Job, shown: Snapshot, *, key: str, keeps: str) -> None:
    """The button that stops a running job; ``keeps`` says what stays of it."""
    st.button(
        "Cancelling …" if shown.cancelling else "Cancel",
        key=f"{key}_cancel_{job.id}",
        on_click=job.cancel,
        disabled=shown.cancelling,
        help=keeps,
    )


def bar(shown: Snapshot) -> None:
    """The progress bar of a running job."""
    now = shown.progress
    if now is None:
        waiting = "waiting for another job" if shown.state == "waiting" else "starting"
        st.progress(0.0, text=f"{shown.title}: {waiting} …")
        return
    st.progress(min(now.done / max(now.total, 1), 1.0), text=f"{shown.title}: {said(now)}")


def said(now: Progress) -> str:
    """How far a verb is, in words."""
    text = f"{now.verb} {now.done:,} of {now.total:,}"
    if now.message:
        text += f", {now.message}"
    return text if now.remaining is None else f"{text}, {duration(now.remaining)} left"


def failure(shown: Snapshot) -> None:
    """Why a job failed or was cancelled, in words; the traceback folded below."""
    if shown.state == "cancelled":
        st.info(f"{shown.title}: cancelled. What was finished is kept.")
    if shown.state == "failed":
        st.error(shown.error or f"{shown.title}: failed")
        with st.expander("Technical details"):
            st.code(shown.trace or "", language=None)
