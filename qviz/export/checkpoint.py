"""The int8 checkpoint: lower, write, and prove that it computes what was simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qviz.data import Batch, Data
from qviz.evaluate import outputs
from qviz.export.request import Request
from qviz.int8.checkpoint import save_checkpoint
from qviz.int8.checkpoint_sizes import form_bytes
from qviz.int8.folder import read_manifest
from qviz.int8.lower import lower
from qviz.int8.verify import verify
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.simulate import Simulator


@dataclass(frozen=True)
class _Simulation:
    """What ONNX files beside the checkpoint are compared with."""

    simulator: Simulator

    def values(self, recipe: Recipe) -> Callable[[Batch], Mapping[str, Tensor]]:
        from qviz.export.onnx_parity import simulated

        return simulated(self.simulator, recipe)

    def outputs(self, recipe: Recipe, data: Data, batch_size: int) -> Tensor:
        edits = self.simulator.edits(recipe)
        return outputs(self.simulator.program, data, edits, batch_size=batch_size).values


def export(request: Request) -> dict[str, Any]:
    """Write the checkpoint into ``request.folder`` and verify it there.

    Returns:
        Files with their sizes, what the weights take as float, int8 and packed, ops by kernel,
        and the certificate.

    Raises:
        RecipeError: the recipe's profile has no integer kernels.
        CheckpointError: the folder cannot be written.
        ParityError: integer execution differs from the simulation.
    """
    lowered = lower(request.graph, request.recipe, request.simulator)
    save_checkpoint(
        lowered, request.folder, origin=request.origin, float_scores=request.float_scores
    )
    measure = request.metric
    if measure.needs_labels and not request.data.labelled:
        measure = METRICS["agreement"]
    found = verify(
        request.folder,
        request.data,
        measure,
        simulation=_Simulation(request.simulator),
        progress=request.progress,
    )
    found.check()
    kernels: dict[str, int] = {}
    for row in lowered.rows:
        kernels[row.kernel] = kernels.get(row.kernel, 0) + 1
    manifest = read_manifest(request.folder)
    return {
        "folder": str(request.folder),
        "files": {name: entry["bytes"] for name, entry in manifest["files"].items()},
        "sizes": form_bytes(manifest),
        "kernels": kernels,
        "certificate": found.to_json(),
    }
