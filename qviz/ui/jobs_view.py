"""A job on the page: bar, time left, Cancel; what went wrong in words with the traceback folded."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from qviz.digits import duration
from qviz.jobs import Job, Snapshot
from qviz.progress import Progress

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
