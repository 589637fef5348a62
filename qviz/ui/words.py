"""The text of the pages: sentences and labels, made from values. No widgets here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamlit.elements.lib.column_types import ColumnConfig

from qviz.ui.launch import Start

if TYPE_CHECKING:
    from qviz.calibration import Calibration
    from qviz.graph import Graph

#: Column configurations by column, as st.dataframe takes them.
Columns = dict[str, ColumnConfig | str | None]


def model_name(choice: Start) -> str:
    """What the model picker shows."""
    return str(choice.model).removeprefix("sample:")


def summary(graph: Graph, calibration: Calibration) -> str:
    """One line about the model that is open."""
    return (
        f"**{graph.name}**: {len(graph.quantizable)} of {len(graph.ops)} ops have int8 arithmetic; "
        f"{graph.macs / 1e6:,.1f} M multiply-accumulates per sample. "
        f"{len(calibration.histograms)} tensors, calibrated on {calibration.samples:,} samples."
    )
