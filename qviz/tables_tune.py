"""Tables of what was tried to win accuracy back: one step's changes, and every step of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qviz.errors import RecipeError
from qviz.intervals import relative_change
from qviz.recipe import Recipe
from qviz.tune.remedy import Remedies
from qviz.tune.step import Change

CHANGES = {
    "target": "str",
    "what": "str",
    "before": "float64",
    "after": "float64",
    "unit": "str",
    "note": "str",
}
TRIED = {
    "step": "int64",
    "title": "str",
    "verdict": "str",
    "before": "float64",
    "after": "float64",
    "gain_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "drop_percent": "float64",
    "divergence_before": "float64",
    "divergence_after": "float64",
    "how": "str",
    "changes": "int64",
    "seconds": "float64",
    "seed": "int64",
    "calibration": "int64",
    "training": "int64",
    "evaluation": "int64",
    "now": "bool",
}
REMEDIES = {
    "site": "str",
    "remedy": "str",
    "verdict": "str",
    "best": "bool",
    "fall_percent": "float64",
    "fall_low_percent": "float64",
    "fall_high_percent": "float64",
    "luck_percent": "float64",
    "gain_percent": "float64",
    "low_percent": "float64",
    "high_percent": "float64",
    "seconds": "float64",
}
#: Units in which less is not better.
PLAIN = ("amax", "bits")
_NONE = float("nan")


@dataclass(frozen=True, eq=False)
class Tried:
    """One step of the record.

    Attributes:
        step: its number, from 1.
        method: its name.
        title: the same in words.
        how: its options and what it was restricted to, in words.
        metric: name of the metric, "" if nothing was measured.
        before: the metric before, NaN if it was not measured.
        after: the metric afterwards.
        gain: relative change of the metric, positive is better; None if not measured.
        low: lower limit of its 95 % paired interval.
        high: upper limit.
        drop: of ``after`` from float, relative, positive is worse; None if not measured.
        drop_before: likewise of ``before``.
        divergence: of the outputs from float's, before and after.
        changes: how many things changed.
        seconds: of the method alone.
        seed: of everything random.
        samples: by role: ``calibration``, ``training``, ``evaluation``.
        notes: in words.
        start: what it began with; None where the record cannot be read.
        recipe: what it gave.
    """

    step: int
    method: str
    title: str
    how: str = ""
    metric: str = ""
    before: float = _NONE
    after: float = _NONE
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    drop: float | None = None
    drop_before: float | None = None
    divergence: tuple[float, float] = (_NONE, _NONE)
    changes: int = 0
    seconds: float = 0.0
    seed: int = 0
    samples: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    start: Recipe | None = None
    recipe: Recipe | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``noise`` or ``not measured``."""
        if self.gain is None or self.low is None or self.high is None:
            return "not measured"
        if self.low <= 0 <= self.high:
            return "noise"
        return "better" if self.gain > 0 else "worse"


def tried(rows: Sequence[Mapping[str, Any]], *, higher_is_better: bool = True) -> tuple[Tried, ...]:
    """The steps of a record, oldest first; what a row does not say is left out.

    Args:
        rows: of ``tuning.jsonl`` (``Tuning.row``).
        higher_is_better: of the metric.
    """
    return tuple(_tried(i, row, higher_is_better) for i, row in enumerate(rows, 1))


def _tried(step: int, row: Mapping[str, Any], higher: bool) -> Tried:
    before, after, reference = (_number(row.get(k)) for k in ("before", "after", "float"))
    low, high = row.get("interval") or (None, None)
    return Tried(
        step=step,
        method=str(row.get("method", "")),
        title=str(row.get("title", row.get("method", ""))),
        how=described(row.get("options") or {}, row.get("ops")),
        metric=str(row.get("metric") or ""),
        before=before,
        after=after,
        gain=row.get("gain"),
        low=low,
        high=high,
        drop=_drop(after, reference, higher),
        drop_before=_drop(before, reference, higher),
        divergence=(_number(row.get("divergence_before")), _number(row.get("divergence_after"))),
        changes=int(row.get("changes") or 0),
        seconds=_number(row.get("seconds")),
        seed=int(row.get("seed") or 0),
        samples={k: int(v) for k, v in (row.get("samples") or {}).items()},
        notes=tuple(map(str, row.get("notes") or ())),
        start=_recipe(row.get("start")),
        recipe=_recipe(row.get("recipe")),
    )


def described(options: Mapping[str, object], ops: Sequence[str] | None = None) -> str:
    """Options and restriction in one line: ``iterations 300, only conv1``."""
    parts = [f"{name.replace('_', ' ')} {_said(value)}" for name, value in options.items()]
    if ops is not None:
        parts.append(f"only {', '.join(ops)}" if len(ops) <= 3 else f"only {len(ops)} sites")
    return ", ".join(parts)


def comparable(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """Changes with a positive error, or the like, before and after, by unit.

    A range or a width that changed is neither better nor worse by itself.
    """
    found: dict[str, list[Change]] = {}
    for one in changes:
        if one.unit in PLAIN or one.before is None or one.after is None:
            continue
        if min(one.before, one.after) > 0:
            found.setdefault(one.unit, []).append(one)
    return {unit: rows for unit, rows in found.items() if len(rows) > 1}


def changes_table(changes: Sequence[Change]) -> pd.DataFrame:
    """One row per thing changed; ``before`` and ``after`` are in the row's own ``unit``."""
    rows = [
        (c.target, c.what, _number(c.before), _number(c.after), c.unit, c.note) for c in changes
    ]
    return _frame(CHANGES, rows)


def tried_table(
    steps: Sequence[Tried], now: Recipe | None = None, *, fraction: bool = False
) -> pd.DataFrame:
    """One row per step, in the order given.

    Columns: ``gain_percent`` is relative, positive is better, with its 95 % interval;
    ``drop_percent`` is what is missing to float afterwards; ``now`` marks the recipe in use.

    Args:
        steps: of ``tried``.
        now: the recipe in use.
        fraction: the metric is a share; it is given in %.
    """
    scale = 100 if fraction else 1
    return _frame(
        TRIED,
        [
            (
                one.step,
                one.title,
                one.verdict,
                scale * one.before,
                scale * one.after,
                *(_percent(x) for x in (one.gain, one.low, one.high, one.drop)),
                *one.divergence,
                one.how,
                one.changes,
                one.seconds,
                one.seed,
                *(one.samples.get(role, 0) for role in ("calibration", "training", "evaluation")),
                one.recipe is not None and one.recipe == now,
            )
            for one in steps
        ],
    )


def remedies_table(found: Remedies) -> pd.DataFrame:
    """One row per remedy tried, site after site as in ``found.rows``.

    Columns: ``fall_percent`` is of the divergence from float, ``gain_percent`` of the metric, both
    relative with their 95 % intervals, positive is better; ``luck_percent`` is what another
    rounding of the site does by itself.
    """
    return _frame(
        REMEDIES,
        [
            (
                row.site,
                row.title,
                row.verdict,
                row.best,
                _percent(row.fall),
                _percent(None if row.fall_interval is None else row.fall_interval.low),
                _percent(None if row.fall_interval is None else row.fall_interval.high),
                _percent(row.luck),
                _percent(row.gain),
                _percent(row.interval.low),
                _percent(row.interval.high),
                _NONE if row.tuning is None else row.tuning.seconds,
            )
            for row in found.rows
        ],
    )


def _drop(value: float, reference: float, higher: bool) -> float | None:
    if math.isnan(value) or math.isnan(reference):
        return None
    change = relative_change(value, reference)
    return None if math.isnan(change) else -change if higher else change


def _recipe(value: object) -> Recipe | None:
    if value is None:
        return None
    try:
        return Recipe.from_json(value if isinstance(value, str) else json.dumps(value))
    except RecipeError:  # of a later version; the numbers of the row hold all the same
        return None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else _NONE


def _percent(value: float | None) -> float:
    return _NONE if value is None else 100 * value


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
