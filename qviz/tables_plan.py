"""Tables of the plan: every op or operand that can be chosen, and every measured set of skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from qviz.search.skip import SkipPoint

CHOICES = {
    "float": "bool",
    "name": "str",
    "type": "str",
    "divergence": "float64",
    "share_percent": "float64",
    "known": "str",
    "tied": "str",
    "macs_percent": "float64",
    "size_kb": "float64",
    "extra_us": "float64",
    "note": "str",
}
POINTS = {
    "ops_in_float": "int64",
    "float_macs_percent": "float64",
    "drop_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "predicted_percent": "float64",
    "divergence": "float64",
    "predicted_divergence": "float64",
    "value": "float64",
    "from": "str",
    "flag": "str",
    "skipped": "str",
}
_NONE = float("nan")


@dataclass(frozen=True)
class ChoiceRow:
    """One op or operand that a recipe may leave in float.

    Attributes:
        name: of the op or operand.
        type: of the op; for an operand also which of them.
        left: it is in float.
        divergence: what it causes alone when int8, None if unknown.
        measured: that was measured, not estimated from gradients.
        tied: number of the group that the data cannot tell apart, None if it is in none.
        macs: share of the model's multiply-accumulates.
        size: bytes of its weights and biases in float.
        note: what is special about it.
        extra_us: what leaving its op, and nothing else, in float adds to the latency, in
            microseconds; None if nothing is known.
    """

    name: str
    type: str
    left: bool
    divergence: float | None
    measured: bool
    tied: int | None
    macs: float
    size: int
    note: str
    extra_us: float | None = None


@dataclass(frozen=True)
class Mark:
    """One measured point of the curve, as it is drawn.

    Attributes:
        ops: ops left in float.
        point: what was measured.
        label: where it comes from: ``search``, ``draft``, or the name of a variant.
        current: it is the recipe that is being edited.
        flag: what is wrong with the prediction or the order there, in words.
        key: given to whoever clicks it.
    """

    ops: int
    point: SkipPoint
    label: str = "search"
    current: bool = False
    flag: str | None = None
    key: int = 0


@dataclass(frozen=True)
class Step:
    """One more op left in float along the ranking, predicted.

    Attributes:
        ops: ops left in float.
        drop: predicted relative drop, None if nothing is known.
        float_macs: share of multiply-accumulates in float.
        name: the op that was added, "" at the start.
    """

    ops: int
    drop: float | None
    float_macs: float
    name: str = ""


def choices_table(rows: Sequence[ChoiceRow]) -> pd.DataFrame:
    """One row per op or operand, in the order given.

    Columns: ``share_percent`` is of the summed divergence, ``known`` says measured or estimated,
    ``macs_percent`` is of the whole model, ``size_kb`` of weights and biases in float,
    ``extra_us`` what leaving the row's op in float adds to the latency.
    """
    total = sum(max(0.0, row.divergence or 0.0) for row in rows)
    return _frame(
        CHOICES,
        [
            (
                row.left,
                row.name,
                row.type,
                _NONE if row.divergence is None else row.divergence,
                _NONE
                if row.divergence is None or not total
                else 100 * max(0.0, row.divergence) / total,
                "" if row.divergence is None else "measured" if row.measured else "estimated",
                "" if row.tied is None else f"≈ {row.tied + 1}",
                100 * row.macs,
                row.size / 1000,
                _or_none(row.extra_us),
                row.note,
            )
            for row in rows
        ],
    )


def points_table(marks: Sequence[Mark]) -> pd.DataFrame:
    """One row per measured set of skips, in the order given.

    Columns: drops are relative, positive is worse, with the 95 % interval; ``divergence`` is
    measured, ``predicted_divergence`` the sum of what the ops still int8 cause alone.
    """
    return _frame(
        POINTS,
        [
            (
                mark.ops,
                100 * mark.point.float_macs,
                100 * mark.point.drop,
                100 * mark.point.low,
                100 * mark.point.high,
                _NONE if mark.point.predicted is None else 100 * mark.point.predicted,
                _or_none(mark.point.divergence),
                _or_none(mark.point.predicted_divergence),
                mark.point.value,
                mark.label,
                mark.flag or "",
                ", ".join(mark.point.skipped),
            )
            for mark in marks
        ],
    )


def _or_none(value: float | None) -> float:
    return _NONE if value is None else value


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
