"""Guided escalation: everything that may help, from seconds to hours, until the target is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import streamlit as st

from qviz import background
from qviz.auto import RESULT, AutoEvent, AutoResult, AutoStep
from qviz.auto_run import STRATEGIES
from qviz.digits import duration, percent
from qviz.errors import QvizError
from qviz.figures_tune import steps_figure
from qviz.jobs import Job, Snapshot
from qviz.tables_tune import Tried
from qviz.ui import jobs_view, tune_result
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.tune_now import target_of
from qviz.ui.tune_state import running
from qviz.ui.workspace import Workspace

KIND = "auto"
#: How often the steps of a running escalation are drawn, in seconds.
POLL = 1.0
BITS = (8, 7, 6, 5, 4, 3, 2)


def guided(workspace: Workspace) -> None:
    """The form, and the steps one by one."""
    st.caption(words.GUIDED)
    if workspace.opened.meter is None:
        st.info(words.NO_DATA)
        return
    _form(workspace)
    if KIND not in workspace.jobs:
        _earlier(workspace)
    steps = partial(_steps, workspace)
    jobs_view.result(workspace, KIND, usable=_usable, draw=steps, every=POLL)


def _usable(shown: Snapshot) -> bool:
    return isinstance(shown.partial, AutoEvent) and bool(shown.partial.steps)


def _form(workspace: Workspace) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        strategy = st.selectbox(
            "Strategy",
            list(STRATEGIES),
            key="tune_strategy",
            width=140,
            persist_state="session",
            help=". ".join(f"{name}: {what}" for name, what in STRATEGIES.items()),
        )
        minutes = st.number_input(
            "Time budget (minutes, 0: none)",
            0.0,
            None,
            10.0,
            1.0,
            format="%g",
            key="tune_budget",
            width=220,
            persist_state="session",
            help="What does not fit is skipped, and said; the best so far is kept",
        )
        weights, activations = (
            st.selectbox(
                f"{kind} bits", BITS, key=f"tune_auto_{kind}", width=140, persist_state="session"
            )
            for kind in ("Weight", "Activation")
        )
        st.button(
            "Start",
            key="tune_auto",
            type="primary",
            disabled=running(workspace) is not None,
            on_click=_start,
            args=(workspace, strategy, 60 * minutes or None, weights, activations),
            help=f"Until the drop is at most {percent(target_of(workspace))}: the target above",
        )


def _start(
    workspace: Workspace, strategy: str, budget: float | None, weights: int, activations: int
) -> None:
    if running(workspace) is not None:
        return
    session = workspace.opened.session
    work = background.auto(
        session,
        max_drop=target_of(workspace),
        strategy="amct" if strategy == "amct" else "guided",
        time_budget=budget,
        weight_bits=weights,
        activation_bits=activations,
    )
    workspace.submit(KIND, f"Escalation ({strategy})", work)


def _steps(workspace: Workspace, job: Job) -> None:
    """What has been tried so far, and what may be done with the best of it."""
    shown = job.snapshot()
    if not shown.active and not st.session_state.get(f"tune_auto_seen_{job.id}"):
        st.session_state[f"tune_auto_seen_{job.id}"] = True
        st.rerun()  # once, so that polling ends and the buttons return
    found = shown.result if isinstance(shown.result, AutoResult) else None
    event = shown.partial if isinstance(shown.partial, AutoEvent) else None
    steps = found.steps if found is not None else () if event is None else event.steps
    best = found.best if found is not None else None if event is None else event.best
    if found is not None:
        _ended(found)
    elif event is not None and shown.active:
        _now(event)
    if best is not None and best.recipe is not None:
        said = "Best so far" if shown.active else "Best"
        st.markdown(f"**{said}**: {plain(best.sentence)}")
        tune_result.actions(
            workspace, best.recipe, f"guided: {best.title}", key="tune_best", live=True
        )
    _list(steps)
    _picture(workspace, steps)
    if found is not None:
        _account(found)


def _now(event: AutoEvent) -> None:
    text = f"{duration(event.seconds)} so far"
    if event.time_budget is not None:
        text += f" of {duration(event.time_budget)}"
    if event.kind == "begin":
        text += f"; now {event.stage}: {plain(event.title)} …"
    st.caption(text)


def _ended(found: AutoResult) -> None:
    text = plain(f"{found.ended[:1].upper()}{found.ended[1:]}.")
    text += f" {duration(found.seconds)}, {found.measured} variants measured."
    (st.success if found.reached else st.warning)(text)


#: How an outcome is marked; the word stands in the sentence as well.
_MARKS = {
    "kept": ":green[●]",
    "not kept": ":gray[○]",
    "idle": ":gray[–]",
    "skipped": ":gray[–]",
    "failed": ":orange[●]",
}


def _list(steps: Sequence[AutoStep]) -> None:
    stage = ""
    lines: list[str] = []
    for step in steps:
        if step.stage != stage:
            stage = step.stage
            lines.append(f"\n**{stage[:1].upper()}{stage[1:]}**\n")
        known = " (of an earlier run)" if step.known else ""
        lines.append(f"- {_MARKS[step.outcome]} {plain(step.sentence)}{known}")
    if lines:
        st.markdown("\n".join(lines))


def _picture(workspace: Workspace, steps: Sequence[AutoStep]) -> None:
    metric = workspace.opened.session.metric
    drawn = [
        one
        for i, step in enumerate(steps, 1)
        if (one := tried_of(step, i, higher_is_better=metric.higher_is_better)) is not None
    ]
    if len(drawn) > 1:
        chart(
            steps_figure(drawn, target=target_of(workspace), metric=metric.name),
            key="tune_auto_steps",
            alt=f"Drop of {metric.name} from float before and after each of {len(drawn)} steps, "
            "listed above",
        )


def tried_of(step: AutoStep, number: int, *, higher_is_better: bool) -> Tried | None:
    """A step of an escalation as one of the record; None if it measured nothing."""
    if step.after is None or step.drop is None:
        return None
    first = None
    sign = 1.0 if higher_is_better else -1.0
    if step.before is not None and sign * step.drop < 1.0 and step.after:
        # drop = (float - after) / |float|, the sign turned where lower is better
        reference = step.after / (1.0 - sign * step.drop)
        first = sign * (reference - step.before) / abs(reference)
    return Tried(
        step=number,
        method=step.name,
        title=step.title,
        how=step.reason,
        before=math.nan if step.before is None else step.before,
        after=step.after,
        gain=step.gain,
        low=step.gain_low,
        high=step.gain_high,
        drop=step.drop,
        drop_before=first,
        seconds=step.seconds,
        recipe=step.recipe,
    )


def _account(found: AutoResult) -> None:
    """What to know about the number, the data told apart, and how to do it again."""
    for note in found.notes:
        st.info(plain(note))
    if (other := found.confirmation) is not None:
        st.markdown(
            f"On {plain(other.name)}, which chose nothing ({other.count:,} samples): drop "
            f"{percent(other.drop)} (95 %: {percent(other.drop_low)} to {percent(other.drop_high)})"
        )
    data = "; ".join(f"{one.role} {one.count:,} samples of {one.name}" for one in found.data)
    st.caption(plain(f"{data}; seed {found.seed}."))
    if found.commands:
        st.markdown("Do it again")
        bash = found.commands[0].startswith("qviz")
        st.code("\n".join(found.commands), language="bash" if bash else "python", wrap_lines=True)


def _earlier(workspace: Workspace) -> None:
    """What an escalation of an earlier visit, or of a command line, left in the run folder."""
    run = workspace.opened.session.run
    try:
        found = None if run is None else run.read_json(RESULT)
    except QvizError as failure:
        st.warning(plain(str(failure)))
        return
    if not isinstance(found, dict):
        return
    st.markdown(f"An earlier escalation in this folder: {plain(str(found.get('ended', '')))}.")
    lines = [f"- {plain(str(row.get('sentence', '')))}" for row in found.get("steps") or ()]
    st.markdown("\n".join(lines))
    st.caption("Start goes on from there: what was finished with the same options is not repeated.")
