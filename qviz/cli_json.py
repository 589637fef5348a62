"""Results as plain JSON for machines: one object (or list) on standard output, nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qviz.calibration import Calibration
    from qviz.evaluate import Evaluation
    from qviz.search.skip import SearchResult
    from qviz.sensitivity import Sensitivity


def plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """``value`` as what JSON has; numbers that are not finite become null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def text(value: object) -> str:
    """``plain`` as indented text."""
    return json.dumps(plain(value), indent=2, allow_nan=False)


def candidates(calibration: Calibration) -> dict[str, object]:
    """Every tensor: what it was seen to be, and all its candidate ranges."""
    return {
        name: {
            "min": h.min,
            "max": h.max,
            "values": h.size,
            "zeros": h.zeros,
            "candidates": calibration.candidates.get(name, ()),
        }
        for name, h in calibration.histograms.items()
    }


def sensitivity(result: Sensitivity) -> dict[str, object]:
    """A ranking, worst first."""
    return {
        "mode": result.mode,
        "operands": result.operands,
        "metric": result.metric,
        "divergence": result.divergence_name,
        "spearman": result.spearman,
        "flat": result.flat,
        "rows": [
            {**plain(row), "proxy": result.proxy.get(row.name), "share": share}
            for row, share in zip(result.rows, result.shares, strict=True)
        ],
    }


def search(result: SearchResult) -> dict[str, object]:
    """What a search found, with its whole curve."""
    return {
        "reached": result.reached,
        "max_drop": result.max_drop,
        "method": result.method,
        "skipped": result.best.skipped,
        "quantizable": result.quantizable,
        "flat": result.flat,
        "best": result.best,
        "curve": result.curve,
    }


def evaluation(found: Evaluation) -> dict[str, object]:
    """One recipe against float."""
    return {
        "metric": found.metric.name,
        "float": found.reference.value,
        "value": found.value,
        "change": found.change,
        "interval": found.interval,
        "drop": found.drop,
        "divergence": found.divergence,
        "divergence_name": found.divergence_name,
        "samples": found.scores.count,
        "p_value": found.p_value,
        "flips": found.flips,
    }
