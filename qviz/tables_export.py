"""Tables of the export page: what a recipe decides otherwise, what was written, what was proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qviz.recipe_diff import Difference, called

DIFFERENCES = {"what": "str", "now": "str", "before": "str"}
FILES = {"file": "str", "bytes": "int64"}
PARITY = {
    "op": "str",
    "kernel": "str",
    "output": "str",
    "count": "int64",
    "one_step": "int64",
    "more": "int64",
    "largest": "float64",
}
#: What a difference without an op or a tensor is about.
_WHOLE = {
    "profile": "profile",
    "calibrator": "calibrator",
    "bits": "bits",
    "scale": "scales of weights",
    "default": "what is not named",
}


def differences_table(found: Sequence[Difference]) -> pd.DataFrame:
    """One row per difference: what it is about, the decision here, the decision there."""
    return _frame(DIFFERENCES, [(_what(one), one.now, one.before) for one in found])


def _what(one: Difference) -> str:
    if not one.target:
        named = one.text.partition(":")[0]  # weights and activations have bits of their own
        return f"bits of {named}" if one.kind == "bits" else _WHOLE[one.kind]
    if one.kind in ("range", "bits"):
        return f"{one.kind} of {called(one.target)}"
    return called(one.target)


def files_table(files: Mapping[str, int]) -> pd.DataFrame:
    """One row per file with its size in bytes."""
    return _frame(FILES, list(files.items()))


def parity_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per integer call: outputs compared, how many off by one step and by more.

    Args:
        found: as ``parity.json`` has it.
    """
    return _frame(PARITY, [tuple(row[name] for name in PARITY) for row in found["parity"]["rows"]])


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
