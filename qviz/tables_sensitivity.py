"""Tables of sensitivity rankings: one ranking to read, and what of each op does the harm."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from qviz.ranking import Operands, Sensitivity, SensitivityRow
from qviz.tables import sensitivity_table

CAUSES = {
    "name": "str",
    "type": "str",
    "weights": "float64",
    "activations": "float64",
    "both": "float64",
    "cause": "str",
}
#: One part does most of the harm if it does this many times the other's.
CLEARLY = 2.0
_NONE = float("nan")


def ranking_table(sensitivity: Sensitivity) -> pd.DataFrame:
    """``tables.sensitivity_table`` for readers: ties are counted from 1, ``basis`` is a word.

    What is neither measured nor estimated has no divergence.
    """
    made = sensitivity_table(sensitivity)
    measured = made.pop("measured")
    rest = "estimated" if sensitivity.proxy else "not measured"
    basis = measured.map({True: "measured", False: rest}).astype("str")
    known = measured | bool(sensitivity.proxy)
    return made.assign(tie=made["tie"] + 1, basis=basis, divergence=made["divergence"].where(known))


def causes_table(rankings: Mapping[Operands, Sensitivity]) -> pd.DataFrame:
    """One row per op: its divergence by weights, by activations and by both, and which it is.

    Args:
        rankings: of the same recipe, mode and granularity; those that are missing leave gaps.

    Returns:
        Worst first by ``both``, or by the worse part where that was not measured. Estimated rows
        are left out.
    """
    measured = {
        part: {row.name: row for row in found.rows if row.exact} for part, found in rankings.items()
    }
    names = dict.fromkeys(name for rows in measured.values() for name in rows)
    rows = []
    for name in names:
        found = {part: rows[name] for part, rows in measured.items() if name in rows}
        value = {part: row.divergence for part, row in found.items()}
        rows.append(
            (
                name,
                next(iter(found.values())).type,
                value.get("weights", _NONE),
                value.get("activations", _NONE),
                value.get("both", _NONE),
                _cause(name, found.get("weights"), found.get("activations"), rankings),
            )
        )
    rows.sort(key=lambda row: -(row[4] if row[4] == row[4] else max(_known(row[2:4]))))
    return pd.DataFrame(rows, columns=list(CAUSES)).astype(CAUSES)


def _known(values: tuple[float, ...]) -> list[float]:
    return [value for value in values if value == value] or [0.0]


def _cause(
    name: str,
    weights: SensitivityRow | None,
    activations: SensitivityRow | None,
    rankings: Mapping[Operands, Sensitivity],
) -> str:
    """Which part does the harm, as far as the intervals tell."""
    if weights is None or activations is None:
        both = "weights" in rankings and "activations" in rankings
        absent: Operands = "weights" if weights is None else "activations"
        if both and all(row.name != name for row in rankings[absent].rows):
            return "activations only" if weights is None else "weights only"
        return "not measured yet"
    for worse, other, word in (
        (weights, activations, "weights"),
        (activations, weights, "activations"),
    ):
        apart = (
            worse.divergence_interval is not None
            and other.divergence_interval is not None
            and worse.divergence_interval.low > other.divergence_interval.high
        )
        if apart and worse.divergence > CLEARLY * other.divergence:
            return f"mostly {word}"
    return "both alike"
