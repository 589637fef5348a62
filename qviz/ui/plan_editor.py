"""The table in which ops and operands are ticked, with undo, presets and filters above it.

The table's data stay the same as long as its key does; what was ticked is read from what it
returns. Feeding ticks back as data loses clicks. Whatever changes the draft elsewhere, or the rows
that are shown, begins a new table.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from qviz.bench_plan import Prices
from qviz.tables_plan import ChoiceRow, choices_table
from qviz.ui import plan_presets, plan_words, undo
from qviz.ui.plan_choice import Choice, difference
from qviz.ui.plan_state import Known, PlanState
from qviz.ui.workspace import Workspace

#: Session-state key of the table that is shown.
SHEET = "plan_sheet"
BY = ("Ops", "Operands")
ORDERS = ("Worst first", "Network order", "MACs", "Size", "Latency")
SHOWN = ("All", "Float", "Int8")
#: Columns from left to right: what decides stands beside the name.
ORDER = (
    "float",
    "name",
    "divergence",
    "known",
    "share_percent",
    "tied",
    "type",
    "macs_percent",
    "size_kb",
    "note",
)
#: Where the latency stands, once it is known.
LATENCY_AFTER = "known"


@dataclass(frozen=True, eq=False)
class Sheet:
    """One table: its data never change.

    Attributes:
        key: of the widget.
        view: what decides the rows.
        names: op or operand of each row.
        left: operands in float when it was made.
        frame: the data.
    """

    key: str
    view: tuple[object, ...]
    names: tuple[str, ...]
    left: frozenset[str]
    frame: pd.DataFrame


def editor(
    workspace: Workspace,
    choice: Choice,
    known: Known,
    bar: DeltaGenerator,
    prices: Prices | None = None,
) -> tuple[Choice, DeltaGenerator]:
    """Draw the table here and its toolbar into ``bar``.

    Returns:
        The choice after what was ticked just now, and the place of the toolbar.
    """
    with bar:
        # filled when the table has told what was ticked, so that Undo knows it
        toolbar = st.container(horizontal=True, vertical_alignment="center", key="plan_toolbar")
        with st.container(horizontal=True, vertical_alignment="bottom", key="plan_view"):
            view = _view()
    sheet = _sheet(choice, known, view, prices)
    edited = st.data_editor(
        sheet.frame,
        key=sheet.key,
        hide_index=True,
        disabled=[name for name in sheet.frame.columns if name != "float"],
        column_order=_columns(prices),
        column_config=plan_words.choice_columns(
            view.by[:-1], _unit(known), "" if prices is None else prices.label
        ),
        height=min(560, 76 + 35 * max(3, len(sheet.frame))),
        placeholder="",
        alt=f"{view.by} of the model: ticked ones stay in float",
    )
    if len(sheet.frame) == 0:
        st.caption("No row fits the search.")
    left = _ticked(choice, sheet, edited["float"].tolist())
    if left != choice.left:
        label = difference(choice.left, left, choice)
        choice = choice.with_left(left)
        workspace.apply(choice.recipe, label)
        st.session_state["plan_seen"] = left
    return choice, toolbar


@dataclass(frozen=True)
class _View:
    by: str
    find: str
    order: str
    shown: str


def _view() -> _View:
    find = st.text_input(
        "Find",
        key="plan_find",
        type="search",
        live=True,
        placeholder="name or type",
        width=150,
        persist_state="session",
    )
    by = st.segmented_control(
        "Tick",
        BY,
        default=BY[0],
        required=True,
        key="plan_by",
        persist_state="session",
        help="Whole ops, or each input and weight by itself",
    )
    order = st.selectbox("Sort", ORDERS, key="plan_order", width=150, persist_state="session")
    shown = st.segmented_control(
        "Show", SHOWN, default=SHOWN[0], required=True, key="plan_shown", persist_state="session"
    )
    return _View(by or BY[0], find or "", order, shown or SHOWN[0])


def _unit(known: Known) -> str:
    name = known.rankings[0].divergence_name if known.rankings else ""
    return {"kl": "KL (nats)", "mse": "MSE (output units²)"}.get(name, "Divergence")


def _columns(prices: Prices | None) -> tuple[str, ...]:
    if prices is None:
        return ORDER
    place = ORDER.index(LATENCY_AFTER) + 1
    return (*ORDER[:place], "extra_us", *ORDER[place:])


def _sheet(choice: Choice, known: Known, view: _View, prices: Prices | None) -> Sheet:
    """The present table, or a new one if rows or draft were changed elsewhere."""
    wanted = (view, id(known), choice.base, id(prices))
    sheet = st.session_state.get(SHEET)
    fresh = (
        isinstance(sheet, Sheet)
        and sheet.view == wanted
        and st.session_state.get("plan_seen") == choice.left
        and sheet.key in st.session_state  # gone after a visit to another page, with its ticks
    )
    if fresh:
        assert isinstance(sheet, Sheet)
        return sheet
    revision = st.session_state["plan_revision"] = st.session_state.get("plan_revision", 0) + 1
    rows = [row for row in _rows(choice, known, view, prices) if _fits(row, view)]
    orders = {
        "Worst first": lambda row: -(row.divergence or 0.0),
        "Network order": lambda row: 0,
        "MACs": lambda row: -row.macs,
        "Size": lambda row: -row.size,
        "Latency": lambda row: row.extra_us or 0.0,
    }
    rows.sort(key=orders[view.order])
    made = Sheet(
        key=f"plan_table_{revision}",
        view=wanted,
        names=tuple(row.name for row in rows),
        left=choice.left,
        frame=choices_table(rows),
    )
    st.session_state[SHEET] = made
    st.session_state["plan_seen"] = choice.left
    return made


def _fits(row: ChoiceRow, view: _View) -> bool:
    text = view.find.strip().lower()
    if text and text not in row.name.lower() and text not in row.type.lower():
        return False
    return view.shown == "All" or row.left == (view.shown == "Float")


def _rows(choice: Choice, known: Known, view: _View, prices: Prices | None) -> list[ChoiceRow]:
    graph, of = choice.graph, known.effects.of
    whole, ties, rows = max(1, graph.macs), known.ties, []
    for name, own in choice.operands.items():
        op = graph.ops[name]
        inside = [o for o in own if o in choice.left]
        extra = None if prices is None else prices.extra(name)
        if view.by == "Ops":
            part = 0 < len(inside) < len(own)
            rows.append(
                ChoiceRow(
                    name=name,
                    type=op.type,
                    left=len(inside) == len(own),
                    divergence=of.get(name),
                    measured=name in known.effects.measured,
                    tied=ties.get(name),
                    macs=op.macs / whole,
                    size=4 * op.parameters,
                    note=f"in float: {', '.join(o.rpartition('/')[2] for o in inside)}"
                    if part
                    else "",
                    extra_us=extra,
                )
            )
            continue
        for operand in (o for o in op.operands if o.name in own):
            rows.append(
                ChoiceRow(
                    name=operand.name,
                    type=f"{op.type} {operand.kind}",
                    left=operand.name in choice.left,
                    divergence=of.get(operand.name),
                    measured=operand.name in known.effects.measured,
                    tied=ties.get(operand.name),
                    macs=op.macs / whole,
                    size=4 * op.parameters if operand.kind == "weight" else 0,
                    note="",
                    extra_us=extra,
                )
            )
    return rows


def _ticked(choice: Choice, sheet: Sheet, ticks: list[bool]) -> frozenset[str]:
    """Operands in float: those of when the table was made, and what was ticked since."""
    left = set(sheet.left)
    for name, before, now in zip(sheet.names, sheet.frame["float"].tolist(), ticks, strict=True):
        if before == now:
            continue
        own = choice.operands.get(name, (name,))
        left = left.union(own) if now else left.difference(own)
    return frozenset(left)


def toolbar_of(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    """Undo, redo and the presets."""
    undo.buttons(workspace, key="plan")
    with st.popover("Presets", key="plan_presets"):
        plan_presets.draw(workspace, state, choice, known)
    st.caption(f"Last change: {workspace.history.undoes or 'none yet'}", width="content")
