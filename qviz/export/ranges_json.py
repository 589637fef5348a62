"""Ranges as JSON, in three forms: ONNX Runtime's, plain minimum and maximum, and ours.

``calibration.json`` is what ``onnxruntime.quantization.calibrate.load_tensors_data`` reads: lowest
and highest of every int8 activation, float32. ``minmax.json`` is ``{tensor: [min, max]}``, the
form of older ONNX Runtime calibration tables and of many scripts. Symmetric grids are written as
[-amax, amax], from which ONNX Runtime computes amax / 127 for symmetric int8, as we do; a tool that
divides by 127.5 or 128 makes another grid of the same range.

``ranges.json`` is ours: limits as the recipe has them, calibrator, scale, zero point, and the four
limits and the levels of OpenVINO's ``FakeQuantize``, which cover the codes that the grid has (for
symmetric int8 from -128 * scale to 127 * scale). ``float`` names the ops and operands in float;
its ops are what ``nncf.IgnoredScope(names=...)`` and ``nodes_to_exclude`` of ONNX Runtime take,
provided the file given to them has our names.

Carries: 8 bits, both symmetric and affine. Does not carry: other widths, or scales of weights,
which all these tools take from the weights; the first two forms do not say what is float.
"""

from __future__ import annotations

import json
from typing import Any

from qviz.export.files import json_text, write_files
from qviz.export.grids import ActivationGrid, grids_of
from qviz.export.request import Request

ONNX_RUNTIME, MINMAX, OWN = "calibration.json", "minmax.json", "ranges.json"
FORMAT, VERSION = "qviz-ranges", 1


def export(request: Request) -> dict[str, Any]:
    """Write the three files.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    found = grids_of(request)
    spans = {name: _span(grid) for name, grid in found.activations.items()}
    tables = {
        "CLS": "TensorsData",
        "data": {name: _tensor_data(*span) for name, span in spans.items()},
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
        "smooth_quant": False,
    }
    own = {
        "format": FORMAT,
        "version": VERSION,
        "profile": request.recipe.profile,
        "tensors": {name: _tensor(grid) for name, grid in found.activations.items()},
        "float": [*found.float_ops, *found.float_operands],
    }
    texts = {ONNX_RUNTIME: json.dumps(tables, allow_nan=False), MINMAX: json_text(spans)}
    return write_files(request.folder, {**texts, OWN: json_text(own)}) | {"tensors": len(spans)}


def _span(grid: ActivationGrid) -> tuple[float, float]:
    lo, hi = grid.range.lo, grid.range.hi
    if not grid.symmetric:
        return min(lo, 0.0), max(hi, 0.0)
    amax = max(abs(lo), abs(hi))
    return -amax, amax


def _tensor_data(lo: float, hi: float) -> dict[str, object]:
    ends = {"lowest": lo, "highest": hi}
    arrays: dict[str, object] = {
        key: {"data": value, "dtype": "float32", "CLS": "numpy.array"}
        for key, value in ends.items()
    }
    return {**arrays, "CLS": "TensorData"}


def _tensor(grid: ActivationGrid) -> dict[str, object]:
    params, scale = grid.params, float(grid.params.scale)
    zero = int(params.zero_point)
    low, high = (params.quant_min - zero) * scale, (params.quant_max - zero) * scale
    return {
        "min": grid.range.lo,
        "max": grid.range.hi,
        "calibrator": grid.range.calibrator,
        "scale": scale,
        "zero_point": zero,
        "fake_quantize": {
            "input_low": low,
            "input_high": high,
            "output_low": low,
            "output_high": high,
            "levels": params.quant_max - params.quant_min + 1,
        },
    }
