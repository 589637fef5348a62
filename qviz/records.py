"""What a session keeps in its run folder, by table: histograms, evaluations, sensitivity parts.

    histograms.npz       one pass over the calibration data
    outputs-KEY.npz      outputs of a measured recipe on the evaluation data
    evaluations.jsonl    one row per measured recipe
    sensitivity.jsonl    one row per measured part: scores per sample
    variants.json        named recipes
    weights-KEY.npz      tuned weights (tunings.py)
    tuning.jsonl         one row per step tuned: the record of tuning.py
    proxy.jsonl          one row per gradient pass: the estimate of each op or operand

Every function takes the folder or None; without a folder nothing is kept and nothing is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from qviz.evaluate import Evaluation
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.metrics import Metric
from qviz.recipe import Recipe
from qviz.sensitivity import Measured
from qviz.store import RunFolder

#: Outputs larger than this are measured again rather than kept on disk.
KEEP_OUTPUTS = 64 << 20


def digest(recipe: Recipe, graph: str = "") -> str:
    """Short name of a recipe's content, applied to the graph of that key."""
    return _short(recipe.to_json() + graph)


def graph_key(graph: Graph) -> str:
    """Short name of a graph: its ops and what was folded into them."""
    return _short(repr((list(graph.ops), sorted(graph.folded.items()))))


def metric_key(metric: Metric) -> str:
    """Short name of a metric; a user's function counts with its code, which may be edited."""
    code = getattr(metric.corpus, "__code__", None)
    if code is None:
        return metric.name
    plain = [
        c for c in code.co_consts if isinstance(c, int | float | str)
    ]  # the rest has addresses
    return f"{metric.name}-{_short(repr((code.co_code, plain, code.co_names)))}"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_histograms(
    run: RunFolder | None, graph: str, histograms: Mapping[str, Histogram]
) -> None:
    """Keep the histograms of one pass of the graph of that key."""
    if run is None:
        return
    arrays: dict[str, np.ndarray] = {"names": np.array(list(histograms)), "graph": np.array(graph)}
    for index, histogram in enumerate(histograms.values()):
        arrays |= {f"{index}/{k}": v for k, v in histogram.to_arrays().items()}
    run.write_arrays("histograms", arrays)


def read_histograms(run: RunFolder | None, graph: str) -> dict[str, Histogram] | None:
    """The histograms kept, None if the pass was not finished, or was of another graph."""
    arrays = None if run is None else run.read_arrays("histograms")
    if arrays is None or "graph" not in arrays or str(arrays["graph"]) != graph:
        return None
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        index, _, field = key.partition("/")
        found.setdefault(index, {})[field] = value
    return {
        str(name): Histogram.from_arrays(found[str(index)])
        for index, name in enumerate(arrays["names"])
    }


def write_outputs(run: RunFolder | None, key: str, values: Tensor) -> None:
    """Keep the outputs of a recipe."""
    if run is not None and values.nbytes <= KEEP_OUTPUTS:
        run.write_arrays(f"outputs-{key}", {"outputs": values.numpy()})


def read_outputs(run: RunFolder | None, key: str) -> Tensor | None:
    """The outputs of a recipe, None if they are not kept."""
    arrays = None if run is None else run.read_arrays(f"outputs-{key}")
    return None if arrays is None else torch.from_numpy(arrays["outputs"])


def write_evaluation(
    run: RunFolder | None, key: str, recipe: Recipe | None, result: Evaluation
) -> None:
    """Note a measured recipe, once per metric."""
    if run is None:
        return
    noted = {(row["key"], row["metric"]) for row in run.rows("evaluations")}
    if (key, result.metric.name) in noted:
        return
    run.append(
        "evaluations",
        {
            "key": key,
            "calibrator": None if recipe is None else recipe.calibrator,
            "per_channel": None if recipe is None else recipe.per_channel,
            "skipped": [] if recipe is None else list(recipe.skipped),
            "metric": result.metric.name,
            "value": result.value,
            "float_value": result.reference.value,
            "change": result.change,
            "interval": [result.interval.low, result.interval.high],
            "divergence": result.divergence,
            "divergence_name": result.divergence_name,
            "flips": len(result.flips),
            "samples": result.scores.count,
            "recipe": None if recipe is None else json.loads(recipe.to_json()),
        },
    )


def write_variants(run: RunFolder | None, variants: Mapping[str, Recipe]) -> None:
    """Keep the named recipes."""
    if run is not None:
        rows = [{"name": n, "recipe": r.to_json()} for n, r in variants.items()]
        run.write_json("variants", rows)


def read_variants(run: RunFolder | None) -> dict[str, Recipe]:
    """The named recipes, oldest first."""
    stored = run.read_json("variants") if run is not None else None
    rows = stored if isinstance(stored, list) else []
    return {row["name"]: Recipe.from_json(row["recipe"]) for row in rows}


def write_part(run: RunFolder | None, key: str, part: Measured) -> None:
    """Keep one finished part of a sensitivity sweep."""
    if run is not None:
        run.append(
            "sensitivity",
            {
                "sweep": key,
                "name": part.key,
                "start": part.start,
                "divergence": part.divergence,
                "scores": part.scores,
                "outputs": part.outputs,
            },
        )


def read_parts(run: RunFolder | None, key: str) -> list[Measured]:
    """The finished parts of a sweep."""
    if run is None:
        return []
    return [
        Measured(
            row["name"],
            int(row["start"]),
            torch.as_tensor(row["divergence"]),
            None if row["scores"] is None else torch.as_tensor(row["scores"]),
            None if row["outputs"] is None else torch.as_tensor(row["outputs"]),
        )
        for row in run.rows("sensitivity")
        if row["sweep"] == key
    ]


def samples_measured(run: RunFolder | None) -> dict[str, dict[str, int]]:
    """Sweep -> op or operand -> samples measured, of everything in the folder."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    for row in [] if run is None else run.rows("sensitivity"):
        parts = found.setdefault(row["sweep"], {}).setdefault(row["name"], {})
        parts[int(row["start"])] = len(row["divergence"])
    return {
        sweep: {name: sum(parts.values()) for name, parts in names.items()}
        for sweep, names in found.items()
    }


def kept_proxy(
    run: RunFolder | None, key: str, make: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """The estimates of an earlier gradient pass, or what ``make`` gives, which is then kept."""
    for row in [] if run is None else run.rows("proxy"):
        if row["key"] == key:
            return {name: float(value) for name, value in row["estimates"].items()}
    made = make()
    if run is not None:
        run.append("proxy", {"key": key, "estimates": made})
    return made
