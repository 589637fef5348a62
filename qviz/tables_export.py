"""Tables of the export page: what a recipe decides otherwise, what was written, what was proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qviz import report_certificate as words
from qviz.metrics import Metric
from qviz.recipe_diff import Difference, called

DIFFERENCES = {"what": "str", "now": "str", "before": "str"}
FILES = {"file": "str", "bytes": "int64"}
RESULTS = {"format": "str", "result": "str", "parity": "str", "note": "str"}
BACKENDS = {
    "backend": "str",
    "verdict": "str",
    "value": "str",
    "from_float": "str",
    "from_simulated": "str",
    "same_class": "float64",
    "sqnr_db": "float64",
    "count": "Int64",
    "one_step": "Int64",
    "more": "Int64",
}
CALLS = {
    "backend": "str",
    "op": "str",
    "kernel": "str",
    "output": "str",
    "count": "int64",
    "one_step": "int64",
    "more": "int64",
    "largest": "float64",
}
IDENTITY = {"what": "str", "name": "str", "digest": "str"}
KERNELS = {"backend": "str", "kind": "str", "kernels": "str", "reason": "str"}
#: What a difference without an op or a tensor is about.
_WHOLE = {
    "profile": "profile",
    "calibrator": "calibrator",
    "bits": "bits",
    "scale": "scales of weights",
    "default": "what is not named",
    "weights": "values of weights",
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


def results_table(formats: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per format: whether it was written, its parity, and what was changed or refused.

    Args:
        formats: result of ``export``.
    """
    rows = []
    for name, told in formats.items():
        changes = "; ".join(told.get("changed", ()))
        state = "written, nearest recipe" if changes else "written"
        note = told.get("refused") or changes
        parity = words.format_parity(told)
        rows.append((name, "not written" if "refused" in told else state, parity, note))
    return _frame(RESULTS, rows)


def backends_table(found: Mapping[str, Any], metric: Metric | None = None) -> pd.DataFrame:
    """One row per backend: verdict, metric and its changes, agreement with the simulation.

    Args:
        found: as ``certificate.json`` has it.
        metric: that was measured, if it is not one of the built-in ones.
    """
    rows = []
    for one in found["backends"]:
        calls = one["calls"] or {"count": None, "one_step": None, "more": None}
        rows.append(
            (
                one["title"],
                words.verdict(one),
                words.value(found, one["value"], metric),
                words.changed(one["from_float"]),
                words.changed(one["from_simulated"]),
                one["same_class"],
                one["sqnr_db"],
                calls["count"],
                calls["one_step"],
                calls["more"],
            )
        )
    return _frame(BACKENDS, rows)


def calls_table(found: Mapping[str, Any], text: str = "", backend: str = "") -> pd.DataFrame:
    """One row per integer call and backend, worst first: outputs compared, how many are off.

    Args:
        found: as ``certificate.json`` has it.
        text: only ops or kernels with this in their name.
        backend: only this one; "" is all.
    """
    wanted = text.strip().lower()
    rows = [
        tuple(row[name] for name in CALLS)
        for row in words.calls(found)
        if wanted in f"{row['op']} {row['kernel']}".lower() and backend in ("", row["backend"])
    ]
    return _frame(CALLS, rows)


def identity_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """What a certificate is about: what, its name, its digest."""
    return _frame(IDENTITY, words.identity_rows(found))


def kernels_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Which kernels each backend has chosen, by kind of op, and why."""
    return _frame(KERNELS, words.kernels(found))


def _frame(columns: Mapping[str, str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))
