"""What the draft costs in time: measured on this machine or estimated for a GPU, as a job.

Nothing is timed on the page's own thread. Until a source is chosen there is only the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import streamlit as st

from qviz.bench import OpTime
from qviz.bench_plan import LatencyMark, Prices, marks, trades
from qviz.digits import number, percent
from qviz.figures_latency import latency_figure
from qviz.int8.gpus import GPUS
from qviz.jobs import Job
from qviz.recipe import Recipe
from qviz.search.skip import SkipPoint
from qviz.session import Session
from qviz.ui import jobs_view, plan_know, plan_words
from qviz.ui.chart import chart
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_state import Known, PlanState
from qviz.ui.workspace import Workspace

OFF, HERE = "Not shown", "This machine's CPU, measured"
BATCHES = (1, 8, 32)
#: Ops of the draft, and slower ops, that are named; the table has them all.
NAMED = 5
#: How often a measurement under way is looked at, in seconds.
POLL = 0.4
Key = tuple[Recipe, str, int]


def sources() -> tuple[str, ...]:
    """Where latencies can come from."""
    return (OFF, HERE, *(f"{name}, estimated" for name in GPUS))


@dataclass(eq=False)
class LatencyState:
    """The memory of one visit.

    Attributes:
        source: one of ``sources``.
        batch: samples per run.
        jobs: what was asked for.
    """

    source: str = OFF
    batch: int = 1
    jobs: dict[Key, Job] = field(default_factory=dict)


def state_of(workspace: Workspace) -> LatencyState:
    """What this visit remembers."""
    return workspace.memo("latency", LatencyState)


def prices(workspace: Workspace, choice: Choice) -> Prices | None:
    """What ops cost, if that is chosen and known."""
    job = _job(state_of(workspace), choice)
    found = None if job is None else job.snapshot().result
    return found if isinstance(found, Prices) else None


def section(
    workspace: Workspace, state: PlanState, choice: Choice, known: Known, drawn: Prices | None
) -> None:
    """Source, chart and sentences; looks again while something is measured.

    Args:
        workspace: of this visit.
        state: of its plan.
        choice: the draft.
        known: what each op does alone.
        drawn: what the table was drawn with.
    """
    memory = state_of(workspace)
    _controls(workspace, memory)
    job = _job(memory, choice)
    if job is None:
        if memory.source != OFF:  # other bits, or another profile, than it was asked for
            st.button("Find out", key="latency_ask", on_click=ask, args=(workspace,))
        return
    if job.snapshot().active:
        jobs_view.progress(job, key="latency")
        return
    found = prices(workspace, choice)
    if found is not drawn:  # it came in between: the table has to have it too
        st.rerun()
    if found is None:
        jobs_view.failure(job.snapshot())
        st.button("Try again", key="latency_again", on_click=ask, args=(workspace,))
        return
    _shown(workspace, state, known, found)


def ask(workspace: Workspace) -> None:
    """Start finding out what the chosen source says of the present draft."""
    memory = state_of(workspace)
    memory.source = st.session_state.get("latency_source", memory.source)
    memory.batch = st.session_state.get("latency_batch", memory.batch)
    choice = Choice.of(workspace.recipe, workspace.opened.session.graph)
    known = _job(memory, choice)
    if memory.source == OFF or (known is not None and known.snapshot().state != "failed"):
        return
    title = "Time every op" if memory.source == HERE else "Estimate the latency"
    work = find_out(workspace.opened.session, choice.base, memory.source, memory.batch)
    memory.jobs[_key(memory, choice)] = workspace.submit("latency", title, work)


def find_out(session: Session, base: Recipe, source: str, batch: int) -> Callable[[Job], Prices]:
    """Lower the recipe with everything int8 and time it, or estimate it."""

    def work(job: Job) -> Prices:
        from qviz.int8.gpus import gpu
        from qviz.int8.lower import lower
        from qviz.int8.roofline import estimate
        from qviz.int8.timing_run import measure
        from qviz.int8.timing_subject import Subject

        simulator = session.simulator_of(base)
        subject = Subject.of_lowered(lower(simulator.graph, base, simulator))
        if source == HERE:
            found = measure(subject, (batch,), progress=job.tell)
        else:
            found = estimate(subject, gpu(source.partition(",")[0]), (batch,))
        return Prices.of(found, session.graph, base)

    return work


def _key(memory: LatencyState, choice: Choice) -> Key:
    # time does not depend on ranges or weights
    base = replace(choice.base, ranges=(), calibrator="", weights="")
    return base, memory.source, memory.batch


def _job(memory: LatencyState, choice: Choice) -> Job | None:
    if memory.source == OFF:
        return None
    found = memory.jobs.get(_key(memory, choice))
    return None if found is None or found.snapshot().state == "cancelled" else found


def _controls(workspace: Workspace, memory: LatencyState) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="plan_latency_row"):
        st.selectbox(
            "Latency",
            sources(),
            index=sources().index(memory.source),
            key="latency_source",
            width=280,
            on_change=ask,
            args=(workspace,),
            help="Measured: float and int8 in turn, op by op, on the CPU of the machine that runs "
            "this app. Estimated: the roofline of a GPU's datasheet, not a measurement.",
        )
        st.selectbox(
            "Batch",
            BATCHES,
            index=BATCHES.index(memory.batch),
            key="latency_batch",
            width=90,
            on_change=ask,
            args=(workspace,),
        )


def _shown(workspace: Workspace, state: PlanState, known: Known, found: Prices) -> None:
    choice = Choice.of(workspace.recipe, workspace.opened.session.graph)
    metric = workspace.opened.session.metric
    drawn = _marks(workspace, state, choice, found)
    us = found.latency(choice.ops)
    anchor = plan_know.anchor(workspace, state, choice)
    predicted = known.estimate(choice, anchor)
    here = None if predicted is None or predicted.drop is None else (us, predicted.drop)
    figure = latency_figure(drawn, found, target=state.target, here=here, metric=metric.name)
    chart(
        figure,
        key="plan_pareto",
        alt=f"Drop of {metric.name} against latency; {len(drawn)} measured recipes",
        on_click=lambda key: _take(workspace, state, int(key)),
    )
    st.caption(summary(found, us))
    rows = trades(
        found,
        choice.graph,
        choice.ops[:NAMED],
        known.effects,
        anchor,
        {frozenset(choice.with_left(left).ops): p.drop for left, p in _points(state, choice)},
    )
    if rows:
        st.markdown("\n".join(f"- {row.said(found)}" for row in rows))
    if found.slower:
        st.warning(slower(found.slower, found))


def _points(state: PlanState, choice: Choice) -> list[tuple[frozenset[str], SkipPoint]]:
    """Operands in float, and what was measured with them."""
    return list(state.points.get(choice.base, {}).items())


def _marks(
    workspace: Workspace, state: PlanState, choice: Choice, found: Prices
) -> tuple[LatencyMark, ...]:
    points = _points(state, choice)
    lefts = [left for left, _ in points]
    names = {Choice.of(r, choice.graph).left: n for n, r in workspace.variants.items()}
    return marks(
        found,
        [(choice.with_left(left).ops, point) for left, point in points],
        current=lefts.index(choice.left) if choice.left in lefts else None,
        labels=[names.get(left, point.step) for left, point in points],
    )


def _take(workspace: Workspace, state: PlanState, key: int) -> None:
    choice = Choice.of(workspace.recipe, workspace.opened.session.graph)
    points = _points(state, choice)
    if 0 <= key < len(points):
        taken = choice.with_left(points[key][0])
        said = plan_words.ops(len(taken.ops))
        workspace.apply(taken.recipe, f"a point of accuracy and latency, {said} in float")


def summary(found: Prices, us: float) -> str:
    """The draft beside all int8 and the float model."""
    return (
        f"This draft: {number(us)} µs at batch {found.batch}, {percent(us / found.float_us)} of "
        f"the float model's {number(found.float_us)} µs ({found.float_type}); everything int8 "
        f"{number(found.int8_us)} µs. {found.label[:1].upper()}{found.label[1:]}"
        + (", not measured." if found.estimated else "; the draft's is added up from its ops'.")
    )


def slower(rows: tuple[OpTime, ...], found: Prices) -> str:
    """Ops that are slower in int8, named."""
    ops = [f"{r.op} ({number(r.cost_us)} against {number(r.float_us)} µs)" for r in rows[:NAMED]]
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return (
        f"int8 is slower here than {found.float_type} ({found.label}): {', '.join(ops)}{more}. "
        "Left in float they would save time."
    )
