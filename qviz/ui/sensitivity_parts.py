"""Parts of the Sensitivity page that draw one ranking: bars, list, table, estimate, causes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import streamlit as st
import torch

from qviz.figures_sensitivity import MOST, proxy_figure, ranking_figure
from qviz.ranking import Operands, Sensitivity, spearman
from qviz.shipped import shipped
from qviz.tables import sensitivity_table
from qviz.tables_sensitivity import causes_table, ranking_table
from qviz.ui import sensitivity_words as words
from qviz.ui import undo, visit
from qviz.ui.chart import chart
from qviz.ui.sensitivity_results import Setting
from qviz.ui.workspace import Workspace

#: Set by a callback of the live part: the rest of the page has to be drawn again too.
AGAIN = "sensitivity_again"
#: Height of a table that scrolls, in pixels.
TALL = 420


def choose(workspace: Workspace, name: object) -> None:
    """Choose the op of a row everywhere; for callbacks."""
    op = _op(workspace, str(name))
    if op is not None:
        visit.choose(op)
        st.session_state[AGAIN] = True


def _op(workspace: Workspace, name: str) -> str | None:
    graph = workspace.opened.session.graph
    operand = graph.operands.get(name)
    op = name if operand is None else operand.op
    return op if op in visit.ops(workspace) else None


def bars(workspace: Workspace, found: Sensitivity, setting: Setting) -> None:
    """The bar chart; a click chooses the op."""
    total = len(found.rows)
    with st.container(horizontal=True):
        log = st.toggle("Log scale", key="sensitivity_log")
        every = total > MOST and st.toggle(f"All {total:,} rows", key="sensitivity_all")
    chart(
        ranking_figure(
            found,
            most=total if every else MOST,
            log=log,
            chosen=_row(workspace, found),
            in_float=workspace.recipe.skipped,
        ),
        key="sensitivity_bars",
        alt=words.alt(found),
        on_click=partial(choose, workspace),
    )
    tied = len({row.tie for row in found.rows}) < total
    shown = "" if every or total <= MOST else f"The worst {MOST} of {total:,}. "
    st.caption(f"{shown}{words.BAND + ' ' if tied else ''}Click a bar to choose its op.")


def _row(workspace: Workspace, found: Sensitivity) -> str | None:
    """Name of the worst row of the chosen op."""
    layer = visit.layer(workspace)
    return next((row.name for row in found.rows if _op(workspace, row.name) == layer), None)


def chosen(workspace: Workspace, found: Sensitivity) -> None:
    """The chosen op's place in the ranking, and the way to its ranges."""
    name = _row(workspace, found)
    row = next((row for row in found.rows if row.name == name), None)
    layer = visit.layer(workspace)
    if row is None:
        st.markdown(f"**{layer}** is not in this ranking.")
    else:
        st.markdown(words.row_line(found, row))
    st.page_link(str(shipped("pages") / "ranges.py"), label=f"Ranges of {layer} →")


def exclude(workspace: Workspace, found: Sensitivity) -> None:
    """The worst k as a list to paste, and the button that leaves them in float."""
    rankings, total = workspace.rankings, len(found.rows)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            key = f"sensitivity_worst_{total}"
            count = int(
                st.number_input(
                    "Leave in float the worst",
                    min_value=1,
                    max_value=total,
                    value=min(rankings.worst, total),
                    step=1,
                    key=key,
                    width=190,
                )
            )
            form = st.segmented_control(
                "As",
                list(words.FORMS),
                format_func=words.FORMS.__getitem__,
                default="names",
                required=True,
                key="sensitivity_form",
            )
        rankings.worst = count
        names = [row.name for row in found.rows[:count]]
        st.code(words.paste(names, form), language=None, wrap_lines=True, height=_height(count))
        st.caption(words.cut_line(found, count))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                f"Skip the worst {count}",
                key="sensitivity_skip",
                on_click=_skip,
                args=(workspace, names),
                disabled=set(names) <= set(workspace.recipe.skipped),
                help="The draft leaves them in float",
            )
            undo.buttons(workspace, key="sensitivity", after=_again)
            st.page_link(str(shipped("pages") / "plan.py"), label="Plan →", help="See what it wins")
        st.caption(words.draft_line(workspace.recipe))


def _height(count: int) -> int | Literal["content"]:
    return 220 if count > 7 else "content"


def _skip(workspace: Workspace, names: list[str]) -> None:
    workspace.apply(workspace.recipe.skip(*names), f"leave the worst {len(names)} in float")
    _again()


def _again() -> None:
    st.session_state[AGAIN] = True


def more(workspace: Workspace, found: Sensitivity, causes: Callable[[], None]) -> None:
    """What is below the bars, one at a time."""
    table, estimate, parts = st.tabs(
        ["All rows", "Estimate against measurement", "Weights or activations"],
        key="sensitivity_tab",
        on_change="rerun",
    )
    if table.open:
        with table:
            rows(workspace, found)
    if estimate.open:
        with estimate:
            estimates(workspace, found)
    if parts.open:
        with parts:
            causes()


def rows(workspace: Workspace, found: Sensitivity) -> None:
    """The table; a row chooses its op."""
    names = [row.name for row in found.rows]
    st.dataframe(
        ranking_table(found),
        key="sensitivity_table",
        column_config=words.RANKING_COLUMNS,
        column_order=list(words.RANKING_COLUMNS),
        hide_index=True,
        placeholder="–",
        height=min(TALL, 35 * (len(names) + 1) + 3),
        on_select=lambda: _picked(workspace, "sensitivity_table", names),
        selection_mode="single-row",
        alt=f"Every op or operand with its divergence and metric change, {len(names)} rows",
    )
    st.caption(words.table_line(found))
    st.download_button(
        "Download CSV",
        lambda: sensitivity_table(found).to_csv(index=False),
        file_name=f"sensitivity-{found.mode}-{found.operands}.csv",
        mime="text/csv",
        key="sensitivity_csv",
        on_click="ignore",
    )


def _picked(workspace: Workspace, key: str, names: list[str]) -> None:
    picked = st.session_state[key].selection.rows
    if picked and picked[0] < len(names):
        choose(workspace, names[picked[0]])


def estimates(workspace: Workspace, found: Sensitivity) -> None:
    """Proxy against exact, and what their rank correlation means."""
    if not found.proxy:
        st.info("There is an estimate only for what each op costs by itself: choose Only this.")
        return
    measured = [row for row in found.rows if row.exact and row.name in found.proxy]
    if len(measured) < 3:
        st.info("At least three measured rows are needed to compare the estimate with.")
        return
    exact = torch.tensor([row.divergence for row in measured])
    guess = torch.tensor([found.proxy[row.name] for row in measured])
    line = words.spearman_line(found, spearman(exact, guess), len(measured))
    st.markdown(line)
    chart(
        proxy_figure(found),
        key="sensitivity_proxy",
        alt=f"Estimate against measurement, one point per row. {line}",
        on_click=partial(choose, workspace),
    )
    st.caption(words.PROXY)


def causes(workspace: Workspace, found: Mapping[Operands, Sensitivity]) -> None:
    """Weights beside activations, and which of the two it is."""
    table = causes_table(found)
    if len(found) < 2:
        st.info("Measure weights and activations apart to see which of the two does the harm.")
    if table.empty:
        return
    names = list(table["name"])
    st.markdown(words.causes_line(Counter(table["cause"])))
    st.dataframe(
        table,
        key="sensitivity_causes",
        column_config=words.CAUSE_COLUMNS,
        column_order=list(words.CAUSE_COLUMNS),
        hide_index=True,
        placeholder="–",
        height=min(TALL, 35 * (len(names) + 1) + 3),
        on_select=lambda: _picked(workspace, "sensitivity_causes", names),
        selection_mode="single-row",
        alt=f"Divergence of each op by weights, by activations and by both, {len(names)} rows",
    )
    st.caption(words.CAUSES)
