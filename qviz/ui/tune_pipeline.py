"""CalibTIP's pipelines on an allocation: what tunes the model after, or before, bits are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from qviz.allocating_pipeline import Piped, StageResult, pipeline
from qviz.digits import duration, number, percent
from qviz.estimate import drop_interval
from qviz.jobs import Job
from qviz.search.choosing import Within
from qviz.search.pipelines import PipelineName
from qviz.search.widths import Allocation, Limit, cost_of
from qviz.session import Session
from qviz.ui import jobs_view, tune_result
from qviz.ui import tune_words as words
from qviz.ui.export_words import plain
from qviz.ui.ranges_words import scored
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

if TYPE_CHECKING:
    from qviz.ui.tune_bits import Allocated

KIND = "pipeline"
POLL = 1.0


def pipelines(workspace: Workspace, found: Allocated, allocation: Allocation) -> None:
    """The buttons, and the stages of the pipeline that runs or ran last."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, (title, help) in words.PIPELINES.items():
            st.button(
                title,
                key=f"tune_pipeline_{name}",
                disabled=running(workspace) is not None,
                on_click=_start,
                args=(workspace, found, allocation, name),
                help=help,
            )
    job = workspace.jobs.get(KIND)
    if job is None:
        return
    shown = job.snapshot()
    jobs_view.failure(shown)
    st.fragment(lambda: _stages(workspace, job), run_every=POLL if shown.active else None)()


def _start(
    workspace: Workspace, found: Allocated, allocation: Allocation, name: PipelineName
) -> None:
    if running(workspace) is None:
        work = run(workspace.opened.session, found, allocation, name)
        workspace.submit(KIND, words.PIPELINES[name][0], work)


def run(
    session: Session, found: Allocated, allocation: Allocation, name: PipelineName
) -> Callable[[Job], Piped]:
    """A pipeline within what an allocation costs; publishes the stages so far."""
    kind = found.frontier.kind
    limit = Limit(kind, cost_of(allocation.costs, kind))

    def work(job: Job) -> Piped:
        stages: list[StageResult] = []

        def note(stage: StageResult) -> None:
            stages.append(stage)
            job.publish(tuple(stages))

        return pipeline(
            session,
            name,
            Within(limit, keep=found.problem.keep, times=found.problem.times),
            found.start,
            widths=found.widths,
            # a reconstruction changes what each layer loses: then they are measured anew
            losses=None if name == "advanced" else found.problem.losses,
            on_stage=note,
            progress=job.tell,
        )

    return work


def _stages(workspace: Workspace, job: Job) -> None:
    shown = job.snapshot()
    if not shown.active and not st.session_state.get(f"tune_piped_seen_{job.id}"):
        st.session_state[f"tune_piped_seen_{job.id}"] = True
        st.rerun()  # once, so that polling ends
    stages: Sequence[StageResult] = shown.partial or ()
    st.markdown(f"{shown.title}, stage by stage:")
    for result in stages:
        st.markdown(f"- {_said(workspace, result)}")
    if isinstance(shown.result, Piped):
        last = shown.result.last
        st.caption(
            f"{duration(shown.result.pipeline.seconds)}; stages are judged on "
            f"{shown.result.pipeline.held_out:,} calibration samples held out from every fit."
        )
        label = f"{shown.title}, {shown.result.pipeline.allocation.summary}"
        tune_result.actions(workspace, last.recipe, label, key="tune_piped", live=True)


def _said(workspace: Workspace, result: StageResult) -> str:
    stage, metric = result.stage, workspace.opened.session.metric
    text = f"**{plain(stage.title)}**: divergence on held-out samples {number(stage.divergence)}"
    if result.evaluation is not None:
        ends = drop_interval(result.evaluation)
        text += f"; {metric.name} {scored(result.evaluation.value, metric)}, drop "
        text += f"{percent(result.evaluation.drop)} (95 %: {percent(ends.low)} to "
        text += f"{percent(ends.high)})"
    if not stage.kept:
        text += "; **not kept**"
    text += f"; {duration(stage.seconds)}"
    return text + "".join(f"  \n  {plain(note)}" for note in stage.notes)
