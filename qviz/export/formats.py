"""The formats as rows of a table: what each carries and can express, and which file writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qviz.export.compressed_tensors import joined_alike, own_weights
from qviz.export.limits import SYMMETRIC_INT8, Limits
from qviz.export.module_layers import KINDS, called_alike, made_by_modules
from qviz.export.request import Request
from qviz.graph import QUANTIZABLE_TYPES

#: Writes one format into ``request.folder``; the result is plain values, for people and machines.
Exporter = Callable[[Request], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: what ``--formats`` calls it.
        title: for a person.
        carries: one sentence: what of the decision it holds, and who reads it.
        module: has ``export(request)``; imported when it is needed.
        limits: what it can express; None is everything that a recipe can say.
        extra: extra of the package that brings what the exporter imports, None if nothing is.
    """

    name: str
    title: str
    carries: str
    module: str
    limits: Limits | None = None
    extra: str | None = None

    def export(self, request: Request) -> dict[str, Any]:
        """Write it.

        Raises:
            MissingExtraError: what it imports is not installed.
        """
        write: Exporter = importlib.import_module(self.module).export
        return write(request)


#: What AMCT computes in int8, of what a recipe can decide.
AMCT_TYPES = tuple(name for name in QUANTIZABLE_TYPES if name not in ("matmul", "add"))

#: Linear layers with a static input scale, as libraries for language models have them.
LINEAR_INT8 = Limits(
    symmetric=True,
    bits=(8,),
    types=("linear",),
    whole=True,
    rules=(made_by_modules, called_alike),
    own_weights=True,
)

EXPORTERS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "checkpoint",
            "int8 checkpoint",
            "The integers, the recipe and a program that runs in PyTorch on CPU and CUDA int8 "
            "kernels",
            "qviz.export.checkpoint",
            Limits(symmetric=True),
        ),
        Format(
            "onnx-tensorrt",
            "ONNX for TensorRT",
            "Explicit Q/DQ in symmetric int8, float32 for the rest, and scripts that build an "
            "engine with TensorRT 10 or 11",
            "qviz.export.onnx_tensorrt",
            SYMMETRIC_INT8,
            extra="onnx",
        ),
        Format(
            "onnx-tensorrt-fp16",
            "ONNX for TensorRT, float16",
            "The same with float16 for what is not int8",
            "qviz.export.onnx_tensorrt_fp16",
            SYMMETRIC_INT8,
            extra="onnx",
        ),
        Format(
            "onnx-ort-cpu",
            "ONNX for ONNX Runtime on the CPU",
            "Explicit Q/DQ in uint8, which ONNX Runtime runs with integer kernels; measured as a "
            "recipe of its own",
            "qviz.export.onnx_ort_cpu",
            Limits(bits=(8,)),
            extra="onnx",
        ),
        Format(
            "modelopt",
            "NVIDIA Model Optimizer",
            "Which quantizers are on and their ranges, and a script that puts them into your "
            "module with nvidia-modelopt",
            "qviz.export.modelopt",
            Limits(
                symmetric=True,
                types=tuple(KINDS),
                rules=(made_by_modules, called_alike),
                own_weights=True,
            ),
        ),
        Format(
            "compressed-tensors",
            "compressed-tensors W8A8",
            "A Hugging Face folder with int8 linear layers and their scales; vLLM reads it",
            "qviz.export.compressed_tensors",
            replace(LINEAR_INT8, rules=(*LINEAR_INT8.rules, own_weights, joined_alike)),
        ),
        Format(
            "torchao",
            "torchao",
            "int8 weights and static input scales of linear layers, and a script that puts them "
            "into your module as Int8Tensor",
            "qviz.export.torchao",
            LINEAR_INT8,
        ),
        Format(
            "aimet",
            "AIMET encodings",
            "The grid of every int8 activation and weight, as Qualcomm's tools read it; JSON",
            "qviz.export.aimet",
            Limits(alike=True, own_weights=True),
        ),
        Format(
            "amct",
            "Huawei AMCT",
            "Which layers are int8 and their scales: config JSON and record text",
            "qviz.export.amct",
            Limits(bits=(8,), types=AMCT_TYPES, whole=True, own_weights=True),
        ),
        Format(
            "tensorrt-cache",
            "TensorRT calibration cache",
            "One scale per activation, for TensorRT 8 to 10; TensorRT 11 no longer reads it",
            "qviz.export.tensorrt_cache",
            Limits(symmetric=True, bits=(8,), whole=True, alike=True, own_weights=True),
        ),
        Format(
            "ranges",
            "Ranges as JSON",
            "The range of every int8 activation for ONNX Runtime, OpenVINO and scripts",
            "qviz.export.ranges_json",
            Limits(bits=(8,), whole=True, alike=True, own_weights=True),
        ),
        Format(
            "model-explorer",
            "Model Explorer node data",
            "Status, sensitivity, SQNR and limits per op, to colour the graph by; measured here",
            "qviz.export.model_explorer",
        ),
        Format(
            "layers-csv",
            "Errors per layer as CSV",
            "Errors of every int8 op, in the columns of TFLite's quantization debugger; measured "
            "here",
            "qviz.export.layers_csv",
        ),
        Format(
            "calibtip-csv",
            "CalibTIP losses per layer as CSV",
            "Accuracy and loss with each layer at 7 to 2 bits, for its integer programme; measured "
            "here",
            "qviz.export.calibtip",
        ),
    )
}

__all__ = ["EXPORTERS", "SYMMETRIC_INT8", "Exporter", "Format"]
