"""CalibTIP's pipelines on an allocation: what tunes the model after, or before, bits are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from qviz.allocating_pipeline import Piped, StageResult, pipeline
from qviz.digits import duration, number, percent
from qviz.estimate import drop_interval
from qviz.jobs import Job, Snapshot
from qviz.recipe import Recipe
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


@dataclass(frozen=True, eq=False)
class Run:
    """What a pipeline was started with, and how far it has come.

    Attributes:
        start: the recipe it began with.
        within: the allocation whose cost it may not exceed.
        limit: that cost.
        stages: finished ones.
        made: all of it, once it has ended.
    """

    start: Recipe
    within: Allocation
    limit: Limit
    stages: tuple[StageResult, ...] = ()
    made: Piped | None = None


def buttons(workspace: Workspace, found: Allocated, allocation: Allocation) -> None:
    """What starts a pipeline within the cost of an allocation."""
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


def pipelines(workspace: Workspace, chosen: Allocation | None) -> None:
    """The pipeline that runs or ran last, stage by stage.

    Args:
        workspace: whose.
        chosen: the allocation that is looked at; the pipeline's may be another.
    """
    stages = partial(_stages, workspace, chosen)
    jobs_view.result(workspace, KIND, usable=_usable, draw=stages, every=POLL)


def _usable(shown: Snapshot) -> bool:
    found = shown.partial
    return isinstance(found, Run) and any(result.stage.kept for result in found.stages)


def _start(
    workspace: Workspace, found: Allocated, allocation: Allocation, name: PipelineName
) -> None:
    if running(workspace) is None:
        work = run(workspace.opened.session, found, allocation, name)
        workspace.submit(KIND, words.PIPELINES[name][0], work)


def run(
    session: Session, found: Allocated, allocation: Allocation, name: PipelineName
) -> Callable[[Job], Run]:
    """A pipeline within what an allocation costs; publishes the stages so far."""
    kind = found.frontier.kind
    limit = Limit(kind, cost_of(allocation.costs, kind))

    def work(job: Job) -> Run:
        now = Run(found.start, allocation, limit)

        def note(stage: StageResult) -> None:
            nonlocal now
            now = replace(now, stages=(*now.stages, stage))
            job.publish(now)

        job.publish(now)
        made = pipeline(
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
        return replace(now, made=made)

    return work


def _stages(workspace: Workspace, chosen: Allocation | None, job: Job) -> None:
    shown = job.snapshot()
    if not shown.active and not st.session_state.get(f"tune_piped_seen_{job.id}"):
        st.session_state[f"tune_piped_seen_{job.id}"] = True
        st.rerun()  # once, so that polling ends
    found = shown.result or shown.partial
    if not isinstance(found, Run):
        return
    with st.container(border=True, key="tune_pipeline"):
        st.markdown(
            f"**{shown.title}** within {words.LIMITED[found.limit.kind]} of "
            f"{found.within.summary}, stage by stage:"
        )
        if found.start != workspace.recipe:
            st.caption(words.OTHER_START)
        if chosen is not None and chosen.widths != found.within.widths:
            st.caption(words.OTHER_ALLOCATION)
        for result in found.stages:
            st.markdown(f"- {_said(workspace, result)}")
        if found.made is not None:
            st.caption(
                f"{duration(found.made.pipeline.seconds)}; stages are judged on "
                f"{found.made.pipeline.held_out:,} calibration samples held out from every fit."
            )
        kept = [result for result in found.stages if result.stage.kept]
        if kept and not shown.active:
            how = f" as far as {plain(kept[-1].stage.title)}"
            if found.made is not None:
                how = f", {found.made.pipeline.allocation.summary}"
            label = shown.title + how
            tune_result.actions(workspace, kept[-1].recipe, label, key="tune_piped", live=True)


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
