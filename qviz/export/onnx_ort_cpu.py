"""ONNX for ONNX Runtime on the CPU: uint8 activations, so that its integer kernels are used.

ONNX Runtime fuses a ReLU into an integer kernel only where the zero point makes it redundant, which
symmetric int8 never does. So this is another grid and another decision: a recipe of the profile
``ort-cpu``, simulated and measured for itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qviz.evaluate import outputs
from qviz.export.onnx_folder import write
from qviz.export.request import Request
from qviz.graph import Graph
from qviz.metrics import METRICS, score
from qviz.recipe import Recipe

PROFILE = "ort-cpu"


def export(request: Request) -> dict[str, Any]:
    """Write ``model.onnx`` in the uint8 form, with what ONNX Runtime makes of it.

    Returns:
        As ``onnx_folder.write``; for a recipe of another profile, ``derived`` says what both
        score.

    Raises:
        UnsupportedModelError: an op cannot be written.
        CheckpointError: the folder cannot be written.
        ParityError: ONNX Runtime does not compute what was simulated; the files are there.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    asked = request.recipe
    recipe = derived(asked, request.graph)
    facts: dict[str, Any] = {"profile": PROFILE}
    if recipe != asked:
        facts["derived"] = {"from": asked.profile, "simulated": _simulated(request)}
    return write(request, recipe, for_ort=True, facts=facts)


def derived(recipe: Recipe, graph: Graph) -> Recipe:
    """The same decision for ONNX Runtime.

    Ranges stay; only what is never negative begins at zero, so that all 256 codes are used.
    """
    if recipe.profile == PROFILE:
        return recipe
    ranges = tuple(
        replace(r, lo=0.0) if graph.tensors[r.tensor].nonnegative and r.lo < 0 <= r.hi else r
        for r in recipe.ranges
    )
    return replace(recipe, profile=PROFILE, ranges=ranges)


def _simulated(request: Request) -> float:
    """Metric of the recipe that was asked for, on the same data."""
    simulator, data = request.simulator, request.data
    metric = request.metric
    if metric.needs_labels and not data.labelled:
        metric = METRICS["agreement"]
    made = outputs(simulator.program, data, simulator.edits(request.recipe), batch_size=32)
    reference = None
    if metric.needs_reference:
        reference = outputs(simulator.program, data, batch_size=32).values
    return score(metric, made.values, made.targets, reference).value
