"""ONNX for TensorRT: symmetric int8, and what builds an engine of it and reads its precisions.

Explicit quantization is the only int8 that TensorRT 11 has, and what TensorRT 10 recommends. Of a
residual add the identity branch is quantized, so that the convolution before it fuses with the
add; biases are float; what is skipped has the float type that stands in the file.
"""

from __future__ import annotations

from typing import Any

from qviz.export.onnx_folder import write
from qviz.export.onnx_model import FloatType
from qviz.export.request import Request
from qviz.export.tensorrt_build import BUILD_PY, BUILD_SH, build_engine_py, build_sh


def export(request: Request) -> dict[str, Any]:
    """Write ``model.onnx`` with float32 for what is not int8, and the build scripts.

    Returns:
        As ``onnx_folder.write``.

    Raises:
        UnsupportedModelError: an op cannot be written.
        CheckpointError: the folder cannot be written.
        ParityError: ONNX Runtime does not compute what was simulated; the files are there.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    return write_tensorrt(request, "float32")


def write_tensorrt(request: Request, float_type: FloatType) -> dict[str, Any]:
    """``export`` with a choice of the float type."""
    graph = request.graph
    scripts = {BUILD_SH: build_sh(graph), BUILD_PY: build_engine_py(graph)}
    facts = {"profile": "tensorrt"}
    return write(request, request.recipe, float_type=float_type, beside=scripts, facts=facts)
