"""Tables of bit allocation: losses per layer and width, the frontier, the bits of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from qviz.search.layer_losses import LayerLosses
from qviz.search.widths import Allocation, Frontier, FrontierPoint, cost_of

FRONTIER = {
    "found_by": "str",
    "limited_percent": "float64",
    "size_percent": "float64",
    "megabytes": "float64",
    "bops_percent": "float64",
    "seconds": "float64",
    "predicted_loss": "float64",
    "divergence": "float64",
    "drop_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "value": "float64",
    "widths": "str",
}
BITS = {
    "layer": "str",
    "weight_bits": "int64",
    "activation_bits": "int64",
    "elements": "int64",
    "bytes": "float64",
    "macs": "int64",
    "added_loss": "float64",
    "first_or_last": "bool",
}
LOSSES = {
    "layer": "str",
    "width": "str",
    "loss": "float64",
    "added_loss": "float64",
    "metric": "float64",
    "elements": "int64",
    "macs": "int64",
}
_NONE = float("nan")


def frontier_table(frontier: Frontier) -> pd.DataFrame:
    """One row per allocation of a frontier, tightest limit first; greedy ones below.

    Columns: sizes are shares of the layers' float32 weights, ``megabytes`` are of all parameters
    with everything else in float32; bit operations are relative to 8 bits; the drop is relative,
    positive is worse, with its 95 % interval.
    """
    points = [*frontier.points, *frontier.greedy]
    return _frame(FRONTIER, [_point(point, frontier) for point in points])


def _point(point: FrontierPoint, frontier: Frontier) -> tuple[object, ...]:
    allocation, costs = point.allocation, point.allocation.costs
    limited = cost_of(costs, frontier.kind)
    share = 100 * limited if frontier.kind in ("size", "bops") else _NONE
    return (
        allocation.method,
        share,
        100 * costs.size,
        costs.bytes / 1e6,
        100 * costs.relative_bops,
        _known(costs.seconds),
        allocation.loss,
        _known(point.divergence),
        100 * _known(point.drop),
        100 * _known(point.low),
        100 * _known(point.high),
        _known(point.value),
        allocation.summary,
    )


def bits_table(allocation: Allocation, losses: LayerLosses) -> pd.DataFrame:
    """One row per layer in execution order: its bits, what they take and what they add to the loss.

    Columns: ``bytes`` are of the weight at its bits; ``added_loss`` is what the layer alone adds.
    """
    rows = []
    for name, width in allocation.widths:
        layer = losses.layer_of[name]
        rows.append(
            (
                name,
                width.weights,
                width.activations,
                layer.elements,
                layer.elements * width.weights / 8,
                layer.macs,
                losses.increase_of.get((name, width), _NONE),
                layer.end,
            )
        )
    return _frame(BITS, rows)


def losses_table(losses: LayerLosses) -> pd.DataFrame:
    """One row per layer and width: the loss of the network with that layer alone at that width."""
    rows = []
    for row in losses.rows:
        layer = losses.layer_of[row.layer]
        rows.append(
            (
                row.layer,
                str(row.width),
                row.loss,
                losses.increase_of[row.layer, row.width],
                _known(row.metric),
                layer.elements,
                layer.macs,
            )
        )
    return _frame(LOSSES, rows)


def _known(value: float | None) -> float:
    return _NONE if value is None else value


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
