"""The calibrators measured: change of the metric with its interval, one colour per calibrator."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from qviz.calibration import CalibratorRow
from qviz.figures import colour_of


def calibrators_figure(rows: Sequence[CalibratorRow]) -> go.Figure:
    """Relative change of the metric under each calibrator, as a dot with its 95 % interval.

    Args:
        rows: drawn from top to bottom; the best one is a large dot, and what was measured with one
            scale per weight tensor a hollow one.
    """
    figure = go.Figure()
    for row in rows:
        figure.add_trace(
            go.Scatter(
                x=[100 * row.change],
                y=[_name(row)],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (row.interval.high - row.change)],
                    "arrayminus": [100 * (row.change - row.interval.low)],
                },
                mode="markers",
                marker={
                    "color": colour_of(row.calibrator),
                    "size": 14 if row.best else 8,
                    "symbol": "circle" if row.per_channel else "circle-open",
                },
                name=_name(row),
                showlegend=False,
                hovertemplate=(
                    f"<b>{_name(row)}</b><br>metric {row.value:.5g}, {row.change:+.3%} from float"
                    f"<br>divergence {row.divergence:.4g}<extra></extra>"
                ),
            )
        )
    figure.update_layout(
        xaxis={"title": "change of the metric from float (relative, %; measured)"},
        yaxis={"autorange": "reversed", "automargin": True},
        height=max(220, 110 + 26 * len(rows)),
        margin={"l": 20, "r": 20, "t": 20, "b": 60},
    )
    return figure


def _name(row: CalibratorRow) -> str:
    best = " (best)" if row.best else ""
    return row.calibrator + (best if row.per_channel else ", weights per tensor")
