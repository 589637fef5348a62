"""Tables of the Ranges page."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qviz.calibrators import Candidate

COLUMNS = {
    "calibrator": "str",
    "note": "str",
    "lo": "float64",
    "hi": "float64",
    "step": "float64",
    "clipped_percent": "float64",
    "sqnr_db": "float64",
    "mse": "float64",
    "clipping_share": "float64",
    "rounding_share": "float64",
}


def ranges_table(candidates: Sequence[Candidate], selected: str | None = None) -> pd.DataFrame:
    """One row per candidate range of one tensor, in the order given.

    Columns: lo, hi and step in units of the tensor, mse in their square, both shares in per cent of
    the mse; ``note`` marks the best (least mse, so highest sqnr) and the one in use.

    Args:
        candidates: on one grid.
        selected: calibrator of the one in use.
    """
    best = min(candidates, key=lambda one: one.mse, default=None)
    rows = []
    for one in candidates:
        notes = ["best"] if one is best else []
        notes += ["in use"] if one.calibrator == selected else []
        clipping = 100 * one.clipping_mse / one.mse if one.mse else 0.0
        rows.append(
            (
                "custom" if one.calibrator == "fixed" else one.calibrator,
                ", ".join(notes),
                one.range.lo,
                one.range.hi,
                one.scale,
                100 * one.clipped_fraction,
                one.sqnr_db,
                one.mse,
                clipping,
                100 - clipping if one.mse else 0.0,
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
