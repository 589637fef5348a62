"""The table of all ops: searched, filtered, sorted; a row chooses its op."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from qviz.tables_overview import matching
from qviz.ui import overview, overview_data, visit
from qviz.ui.words import Columns
from qviz.ui.workspace import Workspace

#: Status of coverage -> what the filter calls it.
STATUSES = {"int8": "int8", "float by choice": "float by choice", "float": "float because …"}
_number = st.column_config.NumberColumn
_text = st.column_config.TextColumn


def ops(workspace: Workspace) -> None:
    """The table with its filters, in a fragment: typing redraws nothing else."""

    def live() -> None:
        if st.session_state.pop("overview_redraw", False):
            st.rerun()  # the sidebar and the line above show the chosen op as well
        table = overview_data.draft(workspace).table
        shown = _filtered(table)
        if shown.empty:
            st.info("No op fits the filter.")
            st.button("Show all ops", key="overview_reset", on_click=_reset)
            return
        _draw(shown, workspace)
        said = f"{len(shown):,} of {len(table):,} ops"
        st.caption(
            f"{said}. Click a row to choose its op on every page, a heading to sort. Range and "
            "histogram (log scale) are those of the tensor that enters the op; of several the one "
            "with the lowest SQNR, which is expected, from the histogram."
        )

    st.fragment(live)()


def _filtered(table: pd.DataFrame) -> pd.DataFrame:
    left, right = st.columns(2)
    text = left.text_input(
        "Search",
        key="overview_search",
        type="search",
        live=True,
        placeholder="part of a name or of a reason",
        persist_state="session",
    )
    statuses = right.pills(
        "Runs as",
        [s for s in STATUSES if (table["status"] == s).any()],
        selection_mode="multi",
        key="overview_statuses",
        format_func=lambda name: f"{STATUSES[name]} {(table['status'] == name).sum()}",
    )
    counts = table["type"].value_counts()
    types = st.pills(
        "Type",
        list(counts.index),
        selection_mode="multi",
        key="overview_types",
        format_func=lambda name: f"{name} {counts.get(name, 0)}",
    )
    return matching(table, text=text or "", types=types, statuses=statuses)


def _reset() -> None:
    st.session_state["overview_search"] = ""
    st.session_state["overview_types"] = []
    st.session_state["overview_statuses"] = []


def _draw(shown: pd.DataFrame, workspace: Workspace) -> None:
    names = shown["op"].tolist()
    # another selection of rows is another table: what was selected in the first is not in it
    key = f"overview_table_{hash(tuple(names)) & 0xFFFFFFFF:x}"

    def selected() -> None:
        state: Any = st.session_state.get(key)
        cells = state["selection"]["cells"] if state else []
        if cells:
            overview.look_at(names[cells[0][0]], workspace)
            st.session_state["overview_redraw"] = True

    def pressed() -> None:
        state: Any = st.session_state.get(f"{key}_open")
        if state:
            overview.open_in_ranges(names[state["row"]], workspace)
            st.session_state["overview_redraw"] = True

    choosable = set(visit.ops(workspace))
    columns: Columns = {
        "op": _text("Op", pinned=True, width="medium"),
        "histogram": st.column_config.BarChartColumn(
            "Input", y_min=0, y_max=1, help="Histogram of what enters the op, log scale"
        ),
        "open": cast(
            "ColumnConfig",  # Streamlit's own type of column_config leaves a button's out
            st.column_config.ButtonColumn(
                "", type="tertiary", key=f"{key}_open", on_click=pressed, width=76
            ),
        ),
        "sqnr_db": _number("SQNR (dB)", format="%.1f", help="Of this range, expected"),
        "lo": _number("From", width=84, format="%.4g", help="Lower limit of the draft's range"),
        "hi": _number("To", width=84, format="%.4g", help="Upper limit of the draft's range"),
        "status": _text("Runs as"),
        "reason": _text("Because", width="medium"),
        "type": _text("Type"),
        "shape": _text("Output per sample"),
        "macs": _number("MACs", format="compact", help="Multiply-accumulates per sample"),
        "parameters": _number("Parameters", format="compact"),
    }
    labels = pd.Series(
        ["Ranges" if name in choosable else None for name in names], shown.index, dtype="object"
    )
    drawn = shown.assign(open=labels)
    st.dataframe(
        drawn,
        key=key,
        hide_index=True,
        column_order=list(columns),
        column_config=columns,
        on_select=selected,
        selection_mode="single-cell",  # a row is selected by its checkbox only, a cell by a click
        placeholder="",
        height=min(560, 38 + 35 * len(names)),
        alt="One row per op: what enters it, its range, and how it runs",
    )
