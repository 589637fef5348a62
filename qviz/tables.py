"""Values in, pandas DataFrames out, each with the same columns and dtypes even when empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from qviz.calibrators import Candidate
from qviz.graph import Graph
from qviz.histogram import Histogram

CANDIDATES = {
    "calibrator": "str",
    "lo": "float64",
    "hi": "float64",
    "step": "float64",
    "clipped_percent": "float64",
    "mse": "float64",
    "sqnr_db": "float64",
    "best": "bool",
}
TENSORS = {
    "tensor": "str",
    "shape": "str",
    "min": "float64",
    "max": "float64",
    "values": "int64",
    "zeros_percent": "float64",
    "not_finite": "int64",
    "best_calibrator": "str",
    "sqnr_db": "float64",
    "read_by": "str",
}
OPS = {
    "op": "str",
    "type": "str",
    "shape": "str",
    "parameters": "int64",
    "macs": "int64",
    "int8": "str",
    "reason": "str",
    "source": "str",
}


def candidates_table(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """One row per candidate range of one tensor, in the order given.

    Columns: lo, hi and step in units of the tensor, mse in their square; ``best`` marks the
    highest SQNR (the first of equals).
    """
    best = max(candidates, key=lambda candidate: candidate.sqnr_db, default=None)
    return _frame(
        CANDIDATES,
        [
            (
                candidate.calibrator,
                candidate.range.lo,
                candidate.range.hi,
                candidate.scale,
                100 * candidate.clipped_fraction,
                candidate.mse,
                candidate.sqnr_db,
                candidate is best,
            )
            for candidate in candidates
        ],
    )


def tensors_table(
    graph: Graph,
    histograms: Mapping[str, Histogram],
    candidates: Mapping[str, Sequence[Candidate]],
) -> pd.DataFrame:
    """One row per calibrated tensor, in the order in which the model computes them.

    Columns: ``not_finite`` counts NaN and infinities; ``best_calibrator`` is the candidate with
    the highest expected SQNR and ``sqnr_db`` that SQNR; ``read_by`` lists the operands.
    """
    rows = []
    for name in (name for name in graph.tensors if name in histograms):
        info, histogram = graph.tensors[name], histograms[name]
        best = max(candidates.get(name, ()), key=lambda one: one.sqnr_db, default=None)
        rows.append(
            (
                name,
                _shape(info.shape),
                histogram.min,
                histogram.max,
                histogram.size,
                100 * histogram.zeros / max(histogram.size, 1),
                histogram.nans + histogram.infs,
                best.calibrator if best else "",
                best.sqnr_db if best else float("nan"),
                ", ".join(info.consumers),
            )
        )
    return _frame(TENSORS, rows)


def ops_table(graph: Graph) -> pd.DataFrame:
    """One row per op in execution order: what could run in int8, and why the rest cannot.

    Columns: ``int8`` is "yes", "passes codes on" (the op only moves values) or "no"; macs are per
    sample.
    """
    return _frame(
        OPS,
        [
            (
                op.name,
                op.type,
                _shape(op.shape),
                op.parameters,
                op.macs,
                "yes" if op.quantizable else "passes codes on" if op.passthrough else "no",
                op.reason or "",
                op.source,
            )
            for op in graph.ops.values()
        ],
    )


def _shape(shape: Sequence[int]) -> str:
    return " × ".join("?" if size < 0 else str(size) for size in shape)


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
