"""Bits per op: the same everywhere, or allocated under a limit by the integer programme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import streamlit as st

from qviz import allocating
from qviz.auto_ends import recipe_for
from qviz.errors import QvizError
from qviz.jobs import Job, Snapshot
from qviz.recipe import Recipe
from qviz.search.allocation_problem import Problem, Times
from qviz.search.mixing import Networks
from qviz.search.preparing import offered as widths_of
from qviz.search.widths import CostKind, Frontier, Width
from qviz.session import Session
from qviz.ui import jobs_view, tune_frontier, tune_pipeline, tune_times
from qviz.ui import tune_words as words
from qviz.ui.export_words import plain
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

KIND = "allocate"
ALL = (8, 7, 6, 5, 4, 3, 2)
#: Offered beside 8 bits unless asked otherwise: each costs as many sweeps of the calibration data.
OFFERED = (6, 4)
KINDS: dict[str, CostKind] = {
    "Size of the weights": "size",
    "Size of the file": "bytes",
    "Bit operations": "bops",
    "Measured time": "latency",
}
#: Bits of activations beside those of weights, as ``preparing.offered`` calls them.
ACTIVATIONS = {"as the weights": "same", "stay at 8": "8", "both": "both"}


@dataclass(frozen=True, eq=False)
class Allocated:
    """What an allocation has found so far.

    Attributes:
        start: the recipe it began with.
        widths: what was offered beside 8 bits.
        prepared: the model at each of them.
        problem: losses per layer and width, and layers that keep 8 bits.
        frontier: measured as far as it has come.
    """

    start: Recipe
    widths: tuple[Width, ...]
    prepared: Networks
    problem: Problem
    frontier: Frontier


def bits(workspace: Workspace) -> None:
    """One width for all, then the allocation."""
    st.caption(words.BITS)
    _uniform(workspace)
    st.subheader("Bits where they are worth most", anchor=False)
    _form(workspace)
    job = workspace.jobs.get(KIND)
    if job is not None:
        jobs_view.failure(job.snapshot())
    # a part of a frontier does not take the place of a whole one
    standing = workspace.standing(
        KIND, lambda shown: KIND not in workspace.finished and _usable(shown)
    )
    chosen = None
    if standing is None:
        _earlier(workspace)
    elif standing.snapshot().active:
        st.fragment(lambda: _live(workspace, standing), run_every=tune_frontier.POLL)()
    else:
        shown = standing.snapshot()
        found = shown.result or shown.partial
        assert isinstance(found, Allocated)
        chosen = tune_frontier.frontier(workspace, found)
    tune_pipeline.pipelines(workspace, chosen)


def _usable(shown: Snapshot) -> bool:
    return isinstance(shown.partial, Allocated) and bool(shown.partial.frontier.points)


def _live(workspace: Workspace, job: Job) -> None:
    shown = job.snapshot()
    if not shown.active:
        st.rerun()
    if isinstance(shown.partial, Allocated):
        tune_frontier.picture(workspace, shown.partial.frontier)


def _earlier(workspace: Workspace) -> None:
    """The frontier that an earlier visit, or a command line, left in the run folder."""
    try:
        found = allocating.kept_frontier(workspace.opened.session)
    except QvizError as failure:
        st.warning(plain(str(failure)))
        return
    if found is not None:
        st.caption(
            "An earlier frontier of this folder. Allocate makes it anew for the draft; losses that "
            "were measured for the same recipe are not measured again."
        )
        tune_frontier.picture(workspace, found)


def _uniform(workspace: Workspace) -> None:
    if problem := st.session_state.pop("tune_uniform_problem", None):
        st.error(plain(problem))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        weights, activations = (
            st.selectbox(f"{what}, bits", ALL, key=key, width=130, persist_state="session")
            for what, key in (("Weights", "tune_uniform_w"), ("Activations", "tune_uniform_a"))
        )
        ends = st.checkbox(
            "First and last ops stay at 8", True, key="tune_uniform_ends", persist_state="session"
        )
        st.button(
            "Use for the draft",
            key="tune_uniform",
            on_click=_use_uniform,
            args=(workspace, weights, activations, ends),
            help="Ranges come anew from the draft's calibrator, weights are the model's own; what "
            "is in float stays so",
        )


def _use_uniform(workspace: Workspace, weights: int, activations: int, ends: bool) -> None:
    draft = workspace.recipe
    try:
        made = recipe_for(
            workspace.opened.session,
            draft.calibrator,
            weight_bits=weights,
            activation_bits=activations,
            per_channel=draft.per_channel,
            ends_at_8=ends,
            skip=draft.skipped,
        )
    except QvizError as failure:
        st.session_state["tune_uniform_problem"] = str(failure)
        return
    kept = ", first and last at 8" if ends and (weights, activations) != (8, 8) else ""
    workspace.apply(made, f"W{weights}A{activations} everywhere{kept}")


def _form(workspace: Workspace) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox(
            "Limit",
            list(KINDS),
            key="tune_bits_kind",
            width=190,
            persist_state="session",
            on_change=tune_times.forget,
        )
        offered = st.multiselect(
            "Bits offered beside 8",
            ALL[1:],
            default=OFFERED,
            key="tune_bits_offered",
            width=260,
            persist_state="session",
            on_change=tune_times.forget,
        )
        activations = st.segmented_control(
            "Activations",
            list(ACTIVATIONS),
            default=next(iter(ACTIVATIONS)),
            required=True,
            key="tune_bits_activations",
            persist_state="session",
            on_change=tune_times.forget,
        )
        ends = st.checkbox(
            "First and last ops stay at 8",
            True,
            key="tune_bits_ends",
            persist_state="session",
            help="They are the most easily hurt, and hold few of the weights",
        )
        greedy = st.checkbox(
            "Measure greedy too",
            key="tune_bits_greedy",
            persist_state="session",
            help="It is drawn either way, as predicted",
        )
        widths = widths_of(tuple(offered), ACTIVATIONS[activations or "both"])
        st.button(
            "Allocate",
            key="tune_allocate",
            type="primary",
            disabled=not offered or running(workspace) is not None,
            on_click=_start,
            args=(workspace, KINDS[kind], widths, ends, greedy),
        )
    if not offered:
        st.caption("Offer at least one other width than 8 bits.")
    elif KINDS[kind] == "latency":
        tune_times.field(widths)
        if problem := st.session_state.get(tune_times.PROBLEM):
            st.error(plain(problem))


def _start(
    workspace: Workspace,
    kind: CostKind,
    widths: tuple[Width, ...],
    ends: bool,
    greedy: bool,
) -> None:
    if running(workspace) is not None:
        return
    session, recipe = workspace.opened.session, workspace.recipe
    tune_times.forget()
    try:
        times = tune_times.given(session, recipe, widths) if kind == "latency" else None
    except QvizError as failure:
        st.session_state[tune_times.PROBLEM] = str(failure)
        return
    work = allocate(session, recipe, widths, kind, ends_at_8=ends, with_greedy=greedy, times=times)
    workspace.submit(KIND, "Bit allocation", work)


def allocate(
    session: Session,
    recipe: Recipe,
    widths: tuple[Width, ...],
    kind: CostKind,
    *,
    ends_at_8: bool = True,
    with_greedy: bool = False,
    times: Times | None = None,
) -> Callable[[Job], Allocated]:
    """Losses of every layer at every width, then the frontier; publishes ``Allocated``."""

    def work(job: Job) -> Allocated:
        prepared = allocating.networks(session, recipe, widths, progress=job.tell)
        losses = allocating.layer_losses(session, prepared, progress=job.tell)
        problem = Problem.of(losses, keep=None if ends_at_8 else (), times=times)
        found = Allocated(recipe, widths, prepared, problem, Frontier(kind, (), (), losses.loss))

        def note(now: Frontier) -> None:
            job.publish(replace(found, frontier=now))

        frontier = allocating.frontier(
            session,
            prepared,
            problem,
            kind,
            with_greedy=with_greedy,
            on_point=note,
            progress=job.tell,
        )
        return replace(found, frontier=frontier)

    return work
