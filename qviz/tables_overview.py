"""The table of all ops: what each is, what enters it, and how it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qviz.coverage import CoverageRow
from qviz.histogram import Histogram

#: Bars of a histogram in a table's cell.
BINS = 24

COLUMNS = {
    "op": "str",
    "type": "str",
    "histogram": "object",
    "lo": "float64",
    "hi": "float64",
    "sqnr_db": "float64",
    "status": "str",
    "reason": "str",
    "shape": "str",
    "macs": "int64",
    "parameters": "int64",
    "tensor": "str",
}


@dataclass(frozen=True)
class Entering:
    """The tensor that enters an op and loses most under its range.

    Attributes:
        tensor: its name.
        lo: lower limit of the range.
        hi: upper limit.
        sqnr_db: expected, of that range; inf where nothing is lost.
    """

    tensor: str
    lo: float
    hi: float
    sqnr_db: float


def overview_table(
    rows: Sequence[CoverageRow],
    entering: Mapping[str, Entering],
    bars: Mapping[str, Sequence[float]],
) -> pd.DataFrame:
    """One row per op, in execution order.

    Columns: lo, hi in units of the tensor; ``histogram`` is ``mini_histogram`` of the tensor.

    Args:
        rows: the coverage.
        entering: by op; ops that read nothing as int8 have none.
        bars: ``mini_histogram`` by tensor.
    """
    made = []
    for row in rows:
        one = entering.get(row.op)
        made.append(
            (
                row.op,
                row.type,
                list(bars.get(one.tensor, ())) if one else None,
                one.lo if one else math.nan,
                one.hi if one else math.nan,
                one.sqnr_db if one and math.isfinite(one.sqnr_db) else math.nan,
                row.status,
                row.reason,
                " × ".join("?" if size < 0 else str(size) for size in row.shape),
                row.macs,
                row.parameters,
                one.tensor if one else "",
            )
        )
    return pd.DataFrame(made, columns=list(COLUMNS)).astype(COLUMNS)


def mini_histogram(histogram: Histogram, bins: int = BINS) -> tuple[float, ...]:
    """Heights from 0 to 1 between the smallest and the largest value, log scale.

    On a linear scale one bar near zero would be all there is to see.
    """
    if not histogram.finite:
        return ()
    counts = np.asarray(histogram.counts, dtype=np.float64)
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1]) + 1
    # a bar counts the whole bins that begin in it
    bar = (np.arange(last - first) * bins) // (last - first)
    heights = np.log1p(np.bincount(bar, counts[first:last], minlength=bins))
    return tuple((heights / heights.max()).round(3).tolist())


def matching(
    table: pd.DataFrame,
    *,
    text: str = "",
    types: Sequence[str] = (),
    statuses: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows that a filter leaves; an empty filter leaves all.

    Args:
        table: of ``overview_table``.
        text: words that all occur in the op's name or the reason, in any case.
        types: op types.
        statuses: of coverage.
    """
    keep = pd.Series(True, index=table.index)
    searched = (table["op"] + " " + table["reason"]).str.lower()
    for word in text.lower().split():
        keep &= searched.str.contains(word, regex=False)
    if types:
        keep &= table["type"].isin(types)
    if statuses:
        keep &= table["status"].isin(statuses)
    return table[keep]
