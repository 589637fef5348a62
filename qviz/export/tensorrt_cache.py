"""TensorRT calibration cache: one line per tensor with its scale as a big-endian hexadecimal float.

    TRT-8601-EntropyCalibration2
    conv1: 3c008912

Carries: amax of every int8 activation, as ``scale = amax / 127`` in float32 (the scale is exact, an
amax made of it differs by rounding). TensorRT up to 10 reads it as an int8 calibrator's cache and
quantizes weights per channel by itself; the number after ``TRT-`` must be that of the version that
reads it, so change it if the builder says that the table does not fit. TensorRT 11 has removed
calibrators: it no longer reads this file and needs explicit Q/DQ (an ONNX format of ours).

Does not carry: what is float. The ops are in ``float-layers.json`` beside it, for the builder
script: a layer of such a name gets ``layer.precision = trt.float32`` under
``OBEY_PRECISION_CONSTRAINTS``. Nor zero points, other widths than 8, or scales of weights.
"""

from __future__ import annotations

import struct
from typing import Any

from qviz.export.files import json_text, write_files
from qviz.export.grids import grids_of
from qviz.export.request import Request

CACHE, FLOATS = "calibration.cache", "float-layers.json"
HEADER = "TRT-8601-EntropyCalibration2"
NOTE = (
    "TensorRT 11 no longer reads calibration caches; TensorRT 8 to 10 need their own version "
    f"number in the first line ({HEADER})"
)


def export(request: Request) -> dict[str, Any]:
    """Write ``calibration.cache`` and ``float-layers.json``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    found = grids_of(request)
    lines = [HEADER]
    for name, grid in found.activations.items():
        lines.append(f"{name}: {struct.pack('>f', float(grid.params.scale)).hex()}")
    floats = [*found.float_ops, *found.float_operands]
    texts = {CACHE: "\n".join(lines) + "\n", FLOATS: json_text(floats)}
    return write_files(request.folder, texts) | {"tensors": len(found.activations), "note": NOTE}
