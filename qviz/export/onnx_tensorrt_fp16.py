"""ONNX for TensorRT with float16 for everything that is not int8.

Scales are float16 too: a cast between DequantizeLinear and an op would keep TensorRT from fusing
them. So a scale is up to 0.05 % off; inputs and outputs of the model stay float32.
"""

from __future__ import annotations

from typing import Any

from qviz.export.onnx_tensorrt import write_tensorrt
from qviz.export.request import Request


def export(request: Request) -> dict[str, Any]:
    """Write ``model.onnx`` with float16 for what is not int8, and the build scripts.

    Returns:
        As ``onnx_folder.write``.

    Raises:
        UnsupportedModelError: an op cannot be written.
        CheckpointError: the folder cannot be written.
        ParityError: ONNX Runtime does not compute what the file says; the files are there.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    return write_tensorrt(request, "float16")
