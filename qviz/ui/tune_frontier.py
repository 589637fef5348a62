"""The frontier of size and loss: choose an allocation on it, use it, or tune what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import streamlit as st

from qviz import allocating
from qviz.digits import number, percent
from qviz.errors import QvizError
from qviz.figures_allocation import bits_figure, drop_figure, frontier_figure, predicted_figure
from qviz.recipe import Recipe
from qviz.search.allocation import allocate
from qviz.search.widths import (
    Allocation,
    CostKind,
    Frontier,
    FrontierPoint,
    Limit,
    LimitKind,
    cost_of,
)
from qviz.session import Session
from qviz.tables_allocation import frontier_table
from qviz.ui import tune_pipeline, tune_result
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.tune_now import target_of
from qviz.ui.workspace import Workspace

if TYPE_CHECKING:
    from qviz.ui.tune_bits import Allocated

#: How often a frontier that is being measured is drawn, in seconds.
POLL = 1.0
#: Session-state key of the limit, in the unit of its name.
SLIDER = "tune_limit"
#: And of the limit on the loss: the same allocation seen from the other axis.
LOSS_SLIDER = "tune_limit_loss"
#: And of what they stand for: a problem and its allocation.
STANDS = "tune_limit_stands"
#: How many limits on the loss there are between a thousandth of the most and all of it.
STOPS = 60
#: What a limit of each kind is called.
NAMES: Mapping[CostKind, str] = {
    "size": "Size of the weights at most (% of float32)",
    "bytes": "Size of all parameters at most (MB)",
    "bops": "Bit operations at most (% of those at 8 bits)",
    "latency": "Time of the layers at most (ms)",
}
#: What its value is multiplied by to be shown in the unit of its name.
SCALES: Mapping[CostKind, float] = {"size": 100.0, "bytes": 1e-6, "bops": 100.0, "latency": 1e3}


@dataclass(eq=False)
class Chosen:
    """The allocation that is looked at, of which frontier, and why there is none."""

    of: object = None
    allocation: Allocation | None = None
    problem: str = ""
    recipes: dict[Allocation, Recipe] = field(default_factory=dict)

    def recipe(self, session: Session, found: Allocated, allocation: Allocation) -> Recipe:
        """What an allocation makes; made once."""
        if allocation not in self.recipes:
            self.recipes[allocation] = allocating.recipe_of(session, found.prepared, allocation)
        return self.recipes[allocation]


def frontier(workspace: Workspace, found: Allocated) -> Allocation | None:
    """The finished frontier, and what can be done with a point of it.

    Returns:
        The allocation that is looked at.
    """
    memory = workspace.memo("tune_chosen", Chosen)
    points = found.frontier.points
    if memory.of is not found.problem:
        memory.of, memory.problem, memory.recipes = found.problem, "", {}
        memory.allocation = points[len(points) // 2].allocation if points else None
    if found.start != workspace.recipe:
        st.caption(words.OTHER_START)
    picture(
        workspace,
        found.frontier,
        chosen=memory.allocation,
        take=partial(_take, workspace, found),
    )
    _limit(workspace, found, memory)
    if memory.problem:
        st.error(plain(memory.problem))
    if memory.allocation is not None:
        _one(workspace, found, memory, memory.allocation)
    with st.expander("Predicted against measured, and every point as a table", key="tune_points"):
        _points(found.frontier)
    return memory.allocation


def picture(
    workspace: Workspace,
    shown: Frontier,
    *,
    chosen: Allocation | None = None,
    take: Callable[[object], None] | None = None,
) -> None:
    """Loss and metric against cost; a click is handed to ``take``."""
    if not shown.points:
        st.caption("Measuring what each layer costs at each width …")
        return
    left, right = st.columns(2)
    with left:
        chart(
            _told_apart(frontier_figure(shown, chosen=chosen)),
            key="tune_frontier",
            alt=f"{shown.loss} from float against {NAMES[shown.kind]}: {len(shown.points)} "
            f"allocations of the integer programme, {len(shown.greedy)} greedy ones",
            on_click=take,
        )
    with right:
        if shown.metric:
            chart(
                drop_figure(shown, target=target_of(workspace)),
                key="tune_frontier_drop",
                alt=f"Drop of {shown.metric} against cost, measured",
            )
        else:
            st.caption("Not measured: there are no evaluation data.")


def _told_apart(figure: go.Figure) -> go.Figure:
    """The points of both lines carry their index: greedy ones are counted below zero."""
    for trace in figure.data:
        if str(trace.name).startswith("greedy") and trace.customdata is not None:
            trace.customdata = [-1 - int(i) for i in trace.customdata]
    return figure


def _take(workspace: Workspace, found: Allocated, index: object) -> None:
    at = int(str(index))
    points = found.frontier.points if at >= 0 else found.frontier.greedy
    at = at if at >= 0 else -1 - at
    if at < len(points):
        memory = workspace.memo("tune_chosen", Chosen)
        memory.allocation, memory.problem = points[at].allocation, ""
        _stand(found, points[at].allocation)


def _shown(found: Allocated, allocation: Allocation) -> float:
    """What an allocation costs, in the unit of the limit's name."""
    kind = found.frontier.kind
    return SCALES[kind] * cost_of(allocation.costs, kind)


def _limit(workspace: Workspace, found: Allocated, memory: Chosen) -> None:
    kind, problem = found.frontier.kind, found.problem
    smallest, base = problem.least(kind), problem.base()
    least, most = _shown(found, smallest), _shown(found, base)
    if most - least <= 1e-6 * most:
        st.caption("There is nothing to allocate: every layer keeps 8 bits.")
        return
    stands = st.session_state.get(STANDS)
    if memory.allocation is not None and (
        SLIDER not in st.session_state or stands != (id(problem), memory.allocation)
    ):  # also where another tab of the same address chose it
        _stand(found, memory.allocation)

    def moved(by: LimitKind) -> None:
        if by == "loss":
            limit = Limit("loss", st.session_state[LOSS_SLIDER] - base.loss)
        else:
            limit = Limit(by, st.session_state[SLIDER] / SCALES[kind])
        try:
            memory.allocation, memory.problem = allocate(problem, limit, cost=kind), ""
        except QvizError as failure:
            memory.problem = str(failure)
            return
        _stand(found, memory.allocation, but=by)

    left, right = st.columns(2)
    left.slider(
        NAMES[kind],
        least,
        most,
        step=(most - least) / 200,
        format="%.2f" if SCALES[kind] == 100 else "%.4f",
        key=SLIDER,
        on_change=moved,
        args=(kind,),
    )
    losses = _losses(found)
    if len(losses) > 1:
        right.select_slider(
            f"Or: predicted {found.frontier.loss} from float at most",
            losses,
            format_func=number,
            key=LOSS_SLIDER,
            on_change=moved,
            args=("loss",),
        )


def _losses(found: Allocated) -> list[float]:
    """Limits on the loss that can be chosen: nothing lost, then up by equal factors."""
    every = [p.allocation.loss for p in (*found.frontier.points, *found.frontier.greedy)]
    base = found.problem.base().loss
    most = max(found.problem.least(found.frontier.kind).loss, *every) - base
    parts = [10 ** (3 * i / STOPS - 3) for i in range(STOPS + 1)] if most > 0 else []
    told_apart: dict[str, float] = {}
    for loss in (base, *(base + part * most for part in parts)):
        told_apart.setdefault(number(loss), loss)
    return list(told_apart.values())


def _stand(found: Allocated, allocation: Allocation, but: LimitKind | None = None) -> None:
    """Both sliders stand where an allocation is, but for the one that was moved."""
    st.session_state[STANDS] = (id(found.problem), allocation)
    if but in (None, "loss"):
        st.session_state[SLIDER] = _shown(found, allocation)
    if but != "loss":
        losses = _losses(found)
        above = (loss for loss in losses if loss >= allocation.loss)
        st.session_state[LOSS_SLIDER] = next(above, losses[-1])


def _one(workspace: Workspace, found: Allocated, memory: Chosen, allocation: Allocation) -> None:
    """The chosen allocation: bits per layer, what is known, and the buttons."""
    point = _point(found.frontier, allocation)
    costs = allocation.costs
    text = (
        f"**{allocation.summary}**: {percent(costs.size)} of the float32 weights, "
        f"{percent(costs.relative_bops)} of the bit operations at 8 bits. Predicted "
        f"{found.frontier.loss} from float {number(allocation.loss)}"
    )
    if point is not None and point.divergence is not None:
        text += f", measured {number(point.divergence)}; drop {percent(point.drop)} "
        text += f"(95 %: {percent(point.low)} to {percent(point.high)})"
    elif found.frontier.metric:
        text += "; not measured yet: the draft is, once it is used"
    with st.container(border=True, key="tune_allocation"):
        st.markdown(f"{text}.")
        chart(
            bits_figure(allocation, found.problem.losses),
            key="tune_bits_chart",
            alt=f"Bits of each layer: {allocation.summary}",
        )
        try:
            recipe = memory.recipe(workspace.opened.session, found, allocation)
        except QvizError as failure:
            st.error(plain(str(failure)))
            return
        label = f"allocation {allocation.summary}"
        tune_result.actions(workspace, recipe, label, key="tune_allocated")
        tune_pipeline.buttons(workspace, found, allocation)


def _point(shown: Frontier, allocation: Allocation) -> FrontierPoint | None:
    every = (*shown.points, *shown.greedy)
    return next((p for p in every if p.allocation.widths == allocation.widths), None)


def _points(shown: Frontier) -> None:
    chart(
        predicted_figure(shown),
        key="tune_predicted",
        alt="Predicted loss against measured divergence of each allocation",
    )
    st.caption(words.SPEARMAN)
    st.dataframe(
        frontier_table(shown),
        column_config=words.FRONTIER_COLUMNS,
        column_order=list(words.FRONTIER_COLUMNS),
        hide_index=True,
        placeholder="",
        alt="Every allocation of the frontier",
    )
