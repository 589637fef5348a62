"""Errors per layer as CSV, with the columns of TensorFlow Lite's quantization debugger.

    op_name, tensor_idx, num_elements, stddev, mean_error, max_abs_error, mean_squared_error,
    rmse/scale, scale, zero_point, tensor_name, op, sqnr_db

The first eleven are what its ``layer_statistics_dump`` writes, and ``rmse/scale`` as its guide adds
it: near 1/sqrt(12) = 0.289 a value is only rounded, far above it is worse than that. ``op`` is the
name here. Differences to the debugger: errors are against the float model (its whole-model
verification), over all elements of all samples instead of averages of each sample's figures; a
value that no int8 op reads has no scale. ``zero_point`` is that of the unsigned grid for affine
activations, 0 for symmetric ones.

Carries measurements, not a recipe: there is nothing to import. The simulated model runs on the
first samples of the evaluation data; how many is in the result.
"""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from qviz.export.files import write_files
from qviz.export.grids import Grids, grids_of
from qviz.export.layer_errors import Measured, measure, rounded_at
from qviz.export.request import Request
from qviz.recipe import resolve

FILE = "layers.csv"
COLUMNS = (
    "op_name",
    "tensor_idx",
    "num_elements",
    "stddev",
    "mean_error",
    "max_abs_error",
    "mean_squared_error",
    "rmse/scale",
    "scale",
    "zero_point",
    "tensor_name",
    "op",
    "sqnr_db",
)


def export(request: Request) -> dict[str, Any]:
    """Measure, and write ``layers.csv``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    grids = grids_of(request)
    decisions = resolve(request.recipe, request.graph)
    ops = [
        op.name
        for op in request.graph.quantizable
        if any(decisions[o.name].int8 for o in op.operands)
    ]
    measured = measure(request, grids, ops)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(request, op, grids, measured) for op in ops)
    return write_files(request.folder, {FILE: text.getvalue()}) | {
        "layers": len(ops),
        "samples": measured.samples,
        "note": f"measured on {measured.samples} samples of {request.data.name}",
    }


def _row(request: Request, op: str, grids: Grids, measured: Measured) -> dict[str, object]:
    graph, errors = request.graph, measured.values[op]
    tensor = rounded_at(request)[op]
    grid = grids.activations.get(tensor)
    scale = None if grid is None else float(grid.params.scale)
    return {
        "op_name": graph.ops[op].type,
        "tensor_idx": list(graph.tensors).index(tensor),
        "num_elements": errors.count // measured.samples,
        "stddev": f"{errors.std:.9g}",
        "mean_error": f"{errors.mean:.9g}",
        "max_abs_error": f"{errors.largest:.9g}",
        "mean_squared_error": f"{errors.mse:.9g}",
        "rmse/scale": "" if scale is None else f"{math.sqrt(errors.mse) / scale:.9g}",
        "scale": "" if scale is None else f"{scale:.9g}",
        "zero_point": "" if grid is None else int(grid.params.zero_point),
        "tensor_name": tensor,
        "op": op,
        "sqnr_db": f"{errors.sqnr_db:.6g}",
    }
