"""The engine's searches as jobs: points stream into the curve, the result can be taken over."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from qviz import background
from qviz.jobs import Job
from qviz.ranking import Sensitivity
from qviz.search.skip import Method, SearchResult, SkipPoint
from qviz.ui import jobs_view, plan_words
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_state import Known, PlanState, Search, searched
from qviz.ui.workspace import Workspace

METHODS: dict[str, Method] = {"Greedy": "greedy", "Bisection": "bisect"}
HELP = (
    "Greedy leaves the worst ops in float one after the other until the target is met, then tries "
    "to give each back. Bisection searches how many of the worst are needed: few measurements, "
    "right only as far as the drop falls steadily. Both take the ranking of the table."
)


def controls(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    """Target, method and button; below them how far the search is, or what it found."""
    job = workspace.jobs.get("search")
    running = job is not None and job.snapshot().active
    with st.container(horizontal=True, vertical_alignment="bottom", key="plan_search_row"):
        st.number_input(
            "Target: drop of at most (%)",
            0.0,
            100.0,
            100 * state.target,
            0.1,
            format="%.2f",
            key="plan_target",
            on_change=lambda: setattr(state, "target", st.session_state["plan_target"] / 100),
            width=200,
        )
        method = st.selectbox("Search", list(METHODS), key="plan_method", width=140, help=HELP)
        keep = st.checkbox(
            "Keep what is in float now", key="plan_keep", disabled=not choice.left or running
        )
        st.button(
            "Search",
            key="plan_search",
            type="primary",
            shortcut="Ctrl+Enter",
            disabled=running or not known.effects.of,
            on_click=_start,
            args=(workspace, state, METHODS[method], keep),
        )
    if job is not None and job.id in state.searches:
        _shown(workspace, state, job, choice)


def _start(workspace: Workspace, state: PlanState, method: Method, keep: bool) -> None:
    graph = workspace.opened.session.graph
    now = Choice.of(workspace.recipe, graph)
    known = state.known.get(now.base, Known())
    start = now if keep else now.with_left(())
    job = workspace.submit(
        "search",
        f"Search ({method})",
        background.search(
            workspace.opened.session,
            start.recipe,
            max_drop=state.target,
            method=method,
            sensitivity=ranking(known, start),
        ),
    )
    state.searches[job.id] = Search(now.base, start.left, state.target)


def ranking(known: Known, start: Choice) -> Sensitivity | None:
    """What is known of the ops that can still be skipped, worst first; None: measure it."""
    base = next((r for r in known.rankings if r.rows and r.rows[0].name in start.operands), None)
    if base is None:
        return None
    rows = {}
    for found in known.rankings:
        for row in found.rows:
            if row.name in start.operands and (row.exact or row.name not in rows):
                rows[row.name] = row
    ops = set(start.ops)
    ranked = sorted(
        (replace(r, divergence=known.effects.of[n]) for n, r in rows.items() if n not in ops),
        key=lambda row: -row.divergence,
    )
    rows_now = tuple(replace(row, rank=i) for i, row in enumerate(ranked))
    return replace(base, rows=rows_now, spearman=None) if rows_now else None


def _shown(workspace: Workspace, state: PlanState, job: Job, choice: Choice) -> None:
    shown = job.snapshot()
    if shown.active:
        jobs_view.bar(shown)
        keeps = "The points measured so far stay on the curve"
        jobs_view.cancel(job, shown, key="plan", keeps=keeps)
        return
    if state.note_search(job, choice):  # it ended after the curve was drawn
        st.rerun()
    if shown.state == "failed":
        jobs_view.failure(shown)
    points = searched(job)
    asked = state.searches[job.id]
    if not points:
        return
    result = shown.result if isinstance(shown.result, SearchResult) else None
    best = result.best if result is not None else best_of(points, asked.target)
    own = replace(choice, base=asked.base).with_left(asked.kept | choice.whole(best.skipped))
    text = plan_words.search_said(
        points[0],
        replace(best, float_macs=own.float_macs),
        len(own.ops),
        len(choice.operands),
        asked.target,
        finished=result is not None,
    )
    flat = result is not None and result.flat and bool(best.skipped)
    (st.success if best.drop <= asked.target else st.info)(
        f"{text} {plan_words.FLAT}" if flat else text
    )
    if st.button(
        "Use this result",
        key=f"plan_use_{job.id}",
        disabled=workspace.recipe == own.recipe,
        on_click=partial(use, workspace, own),
    ):
        st.rerun()


def best_of(points: tuple[SkipPoint, ...], target: float) -> SkipPoint:
    """Of the points measured the one with the fewest skips within the target, or the lowest."""
    within = [p for p in points if p.drop <= target]
    if within:
        return min(within, key=lambda p: len(p.skipped))
    return min(points, key=lambda p: (p.drop, len(p.skipped)))


def use(workspace: Workspace, found: Choice) -> None:
    """Take what a search found over into the draft."""
    said = plan_words.ops(len(found.ops))
    workspace.apply(found.recipe, f"the search's result, {said} in float")
