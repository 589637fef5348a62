"""Values in, pandas DataFrames out, each with the same columns and dtypes even when empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from qviz.calibration import CalibratorRow
from qviz.calibrators import Candidate
from qviz.coverage import CoverageRow
from qviz.histogram import Histogram
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity

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
    "values": "int64",
    "min": "float64",
    "max": "float64",
    "zeros_percent": "float64",
    "not_finite": "int64",
    "best_calibrator": "str",
    "sqnr_db": "float64",
}
COVERAGE = {
    "op": "str",
    "type": "str",
    "status": "str",
    "reason": "str",
    "shape": "str",
    "macs": "int64",
    "parameters": "int64",
    "source": "str",
}
CALIBRATORS = {
    "calibrator": "str",
    "weights": "str",
    "value": "float64",
    "change_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "divergence": "float64",
    "tied": "bool",
    "best": "bool",
    "tensors_won": "int64",
}
SENSITIVITY = {
    "rank": "int64",
    "name": "str",
    "type": "str",
    "divergence": "float64",
    "divergence_low": "float64",
    "divergence_high": "float64",
    "change_percent": "float64",
    "change_low_percent": "float64",
    "change_high_percent": "float64",
    "share_percent": "float64",
    "tie": "int64",
    "samples": "int64",
    "measured": "bool",
}
CURVE = {
    "step": "str",
    "ops_in_float": "int64",
    "float_macs_percent": "float64",
    "drop_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "predicted_percent": "float64",
    "value": "float64",
    "chosen": "bool",
    "skipped": "str",
}
_NONE = float("nan")


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
    histograms: Mapping[str, Histogram], candidates: Mapping[str, Sequence[Candidate]]
) -> pd.DataFrame:
    """One row per calibrated tensor, in the order in which the model computes them.

    Columns: ``not_finite`` counts NaN and infinities; ``best_calibrator`` is the candidate with
    the highest expected SQNR and ``sqnr_db`` that SQNR.
    """
    rows = []
    for name, histogram in histograms.items():
        best = max(candidates.get(name, ()), key=lambda one: one.sqnr_db, default=None)
        rows.append(
            (
                name,
                histogram.size,
                histogram.min,
                histogram.max,
                100 * histogram.zero_fraction,
                histogram.nans + histogram.infs,
                best.calibrator if best else "",
                best.sqnr_db if best else _NONE,
            )
        )
    return _frame(TENSORS, rows)


def coverage_table(rows: Sequence[CoverageRow]) -> pd.DataFrame:
    """One row per op in execution order: int8, float by choice, or float and why.

    Columns: macs are multiply-accumulates per sample, shape is the output's per sample.
    """
    return _frame(
        COVERAGE,
        [
            (
                row.op,
                row.type,
                row.status,
                row.reason,
                _shape(row.shape),
                row.macs,
                row.parameters,
                row.source,
            )
            for row in rows
        ],
    )


def calibrators_table(rows: Sequence[CalibratorRow]) -> pd.DataFrame:
    """One row per calibrator measured on the evaluation data.

    Columns: changes are relative to float, with the 95 % interval; ``tied`` marks those the data
    cannot tell from the best.
    """
    return _frame(
        CALIBRATORS,
        [
            (
                row.calibrator,
                "per channel" if row.per_channel else "per tensor",
                row.value,
                100 * row.change,
                100 * row.interval.low,
                100 * row.interval.high,
                row.divergence,
                row.tied,
                row.best,
                row.tensors_won,
            )
            for row in rows
        ],
    )


def sensitivity_table(sensitivity: Sensitivity) -> pd.DataFrame:
    """One row per op or operand, worst first.

    Columns: changes of the metric are relative; ``share_percent`` is what this row and all above
    it explain of the summed divergence; rows of the same ``tie`` cannot be told apart; where
    ``measured`` is false the divergence is the gradient estimate.
    """
    rows = []
    for row, share in zip(sensitivity.rows, sensitivity.shares, strict=True):
        divergence, change = row.divergence_interval, row.change_interval
        rows.append(
            (
                row.rank + 1,
                row.name,
                row.type,
                row.divergence,
                divergence.low if divergence else _NONE,
                divergence.high if divergence else _NONE,
                _NONE if row.change is None else 100 * row.change,
                100 * change.low if change else _NONE,
                100 * change.high if change else _NONE,
                100 * share,
                row.tie,
                row.samples,
                row.exact,
            )
        )
    return _frame(SENSITIVITY, rows)


def curve_table(result: SearchResult) -> pd.DataFrame:
    """One row per set of skipped ops that the search measured, in its order.

    Columns: drops are relative, positive is worse, with the 95 % interval; ``predicted``
    follows what the ops still int8 do alone (``estimate.py``).
    """
    return _frame(
        CURVE,
        [
            (
                point.step,
                len(point.skipped),
                100 * point.float_macs,
                100 * point.drop,
                100 * point.low,
                100 * point.high,
                _NONE if point.predicted is None else 100 * point.predicted,
                point.value,
                point is result.best,
                ", ".join(point.skipped),
            )
            for point in result.curve
        ],
    )


def _shape(shape: Sequence[int]) -> str:
    return " × ".join("?" if size < 0 else str(size) for size in shape)


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
