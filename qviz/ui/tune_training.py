"""Quantization-aware training: the options, the loss of each epoch as it comes, the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from qviz import background
from qviz.errors import QvizError
from qviz.figures_tune import epochs_figure
from qviz.jobs import Job
from qviz.tune.methods import METHODS
from qviz.tune.qat_options import FROZEN_BATCH_NORM, LEARNED_RANGES, Epoch, QATOptions
from qviz.tune.result import Tuning
from qviz.ui import jobs_view, tune_methods, tune_result
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

KIND = "qat"
METHOD = METHODS["qat"]
#: How often the losses of a running training are drawn, in seconds.
POLL = 1.0
#: Fields side by side on a wide screen.
COLUMNS = 3


def training(workspace: Workspace) -> None:
    """What is needed, the form, and the training that runs or ran last."""
    st.caption(f"{plain(METHOD.what)} Source: {plain(METHOD.source)}.")
    data = workspace.opened.session.training_data
    if data is None:
        st.info(words.NO_TRAINING)
    else:
        st.caption(
            f"{data.count:,} training samples: {plain(data.name)}"
            + ("" if data.labelled else "; without labels, so only distillation can train")
            + ". It begins with the draft's recipe."
        )
        _form(workspace, labelled=data.labelled)
    job = workspace.jobs.get(KIND)
    if job is None:
        return
    shown = job.snapshot()
    st.fragment(lambda: _epochs(job), run_every=POLL if shown.active else None)()
    if shown.active:
        return
    jobs_view.failure(shown)
    if isinstance(shown.result, Tuning):
        tune_result.result(workspace, shown.result, key="tune_trained")


def _form(workspace: Workspace, *, labelled: bool) -> None:
    columns = st.columns(COLUMNS)
    for i, option in enumerate(METHOD.module.OPTIONS):
        with columns[i % COLUMNS]:
            tune_methods.option_field(METHOD, option)
    st.caption(f"{LEARNED_RANGES}. {FROZEN_BATCH_NORM}.")
    try:
        asked: QATOptions | None = options()
    except QvizError as failure:
        asked = None
        st.error(plain(str(failure)))
    if asked is not None:
        st.caption(
            f"{asked.epochs:g} epochs; the learning rate falls from {asked.first_lr:.3g} along a "
            "cosine. Cancelled or killed, it goes on from there when it is started again with the "
            "same draft and options."
        )
    st.button(
        "Train",
        key="tune_train",
        type="primary",
        disabled=asked is None or running(workspace) is not None,
        on_click=_start,
        args=(workspace,),
    )


def options() -> QATOptions:
    """What the form says.

    Raises:
        TuneError: a value is out of bounds.
    """
    given: dict[str, Any] = {one.name: one.default for one in METHOD.module.OPTIONS}
    return QATOptions(**given | tune_methods.chosen(METHOD)[0])


def _start(workspace: Workspace) -> None:
    if running(workspace) is not None:
        return
    work = background.qat(workspace.opened.session, workspace.recipe, options())
    workspace.submit(KIND, METHOD.title, work)


def _epochs(job: Job) -> None:
    shown = job.snapshot()
    if not shown.active and not st.session_state.get(f"tune_trained_seen_{job.id}"):
        st.session_state[f"tune_trained_seen_{job.id}"] = True
        st.rerun()  # once, so that polling ends
    epochs: Sequence[Epoch] = shown.partial or ()
    if not epochs:
        if shown.active:
            st.caption("The loss of each epoch comes here …")
        return
    last = epochs[-1]
    chart(
        epochs_figure(epochs),
        key="tune_epochs",
        alt=f"Loss of each of {len(epochs)} epochs, on training samples and on those held out",
    )
    st.caption(
        f"Epoch {last.number}, {last.steps:,} steps on {last.samples:,} samples. The held-out part "
        "of the training data chooses the epoch; the evaluation data is not looked at."
    )
