"""Where the draft is now: its metric beside float and target, its size, and the way back."""

from __future__ import annotations

import math
from collections import Counter

import streamlit as st

from qviz.digits import percent
from qviz.estimate import drop_interval
from qviz.evaluate import Evaluation
from qviz.meter import LiveResult
from qviz.recipe import resolve
from qviz.ui import jobs_view, undo
from qviz.ui import tune_words as words
from qviz.ui.overview_data import weight_bytes
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_state import state_of as plan_of
from qviz.ui.ranges_words import scored
from qviz.ui.workspace import Workspace

#: Width of a number with what is said below it: two side by side on a telephone.
CARD = 150


def now(workspace: Workspace) -> None:
    """The draft in numbers, kept up to date until it is measured on all samples; then target."""
    first = workspace.live()
    waiting = first is not None and not first.settled

    def live() -> None:
        found = workspace.live()
        if waiting and found is not None and found.settled:
            st.rerun()
        _cards(workspace, found)

    st.fragment(live, run_every=jobs_view.POLL if waiting else None)()
    _bar(workspace)


def target_of(workspace: Workspace) -> float:
    """The largest drop allowed, the same on the page Plan."""
    return plan_of(workspace).target


def _bar(workspace: Workspace) -> None:
    plan = plan_of(workspace)

    def changed() -> None:
        plan.target = st.session_state["tune_target"] / 100

    with st.container(horizontal=True, vertical_alignment="bottom", key="tune_bar"):
        st.number_input(
            "Target: drop of at most (%)",
            0.0,
            100.0,
            100 * plan.target,
            0.1,
            format="%.2f",
            key="tune_target",
            on_change=changed,
            width=200,
        )
        undo.buttons(workspace, key="tune")
        st.caption(f"Last change: {workspace.history.undoes or 'none yet'}", width="content")


def _cards(workspace: Workspace, found: LiveResult | None) -> None:
    session, recipe = workspace.opened.session, workspace.recipe
    metric = session.metric
    best = None if found is None else found.best
    choice = Choice.of(recipe, session.graph)
    with st.container(horizontal=True, key="tune_now"):
        _card(
            f"Float {metric.name}",
            "–" if best is None else scored(best.reference.value, metric),
            "the model as it was given",
        )
        _card(
            f"Draft {metric.name}",
            "–" if best is None else scored(best.value, metric),
            "" if best is None else f"n = {best.scores.count:,}",
        )
        _card("Drop", _drop(best), _interval(best))
        _card(*_size(workspace))
        _card(
            "In float",
            f"{len(choice.ops)} of {len(choice.operands)}",
            f"ops; {percent(choice.float_macs)} of MACs",
        )
    st.caption(_said(workspace, found))
    if found is not None and found.error is not None:
        st.error(found.error)


def _card(label: str, value: str, note: str) -> None:
    with st.container(width=CARD, gap=None):
        st.metric(label, value)
        st.caption(note)


def _drop(found: Evaluation | None) -> str:
    return "–" if found is None or math.isnan(found.drop) else percent(found.drop)


def _interval(found: Evaluation | None) -> str:
    if found is None or math.isnan(found.drop):
        return ""
    ends = drop_interval(found)
    return f"95 %: {percent(ends.low)} to {percent(ends.high)}"


def _size(workspace: Workspace) -> tuple[str, str, str]:
    session, recipe = workspace.opened.session, workspace.recipe
    whole = workspace.opened.memo("float bytes", lambda: weight_bytes(session.graph, None))
    own = weight_bytes(session.graph, recipe)
    decisions = resolve(recipe, session.graph)
    found: Counter[tuple[int, int]] = Counter()
    for op in session.graph.quantizable:
        inside = [(o.kind, decisions[o.name]) for o in op.operands]
        weights = [d.bits for kind, d in inside if kind == "weight" and d.int8]
        reads = [d.bits for kind, d in inside if kind == "activation" and d.int8]
        if weights and reads:
            found[weights[0], max(reads)] += 1
    note = f"{percent(own / max(1, whole))} of float"
    return "Weights", words.size(own), f"{note}; {words.widths(found)}" if found else note


def _said(workspace: Workspace, found: LiveResult | None) -> str:
    """Against the target, on how many samples, and whether weights are tuned."""
    if found is None:
        return words.NO_DATA
    parts = []
    if found.best is None:
        parts.append("Measuring …")
    else:
        ends = drop_interval(found.best)
        target = target_of(workspace)
        text = words.against(None if math.isnan(found.best.drop) else found.best.drop, target)
        if text and ends.low <= target < ends.high:
            text += ", which its interval contains: more samples would tell"
        parts += [f"The drop is {text}."] if text else []
        parts.append(
            "Measured on all samples."
            if found.full is not None
            else f"Measured on {found.best.scores.count:,} samples; all of them follow …"
        )
    if workspace.recipe.weights:
        parts.append("The draft has tuned weights.")
    return " ".join(parts)
