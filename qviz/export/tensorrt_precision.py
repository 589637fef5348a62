"""Which precision each op got in a TensorRT engine, from what its inspector says.

Reads the JSON of ``IEngineInspector`` or of ``trtexec --exportLayerInfo`` with detailed profiling
verbosity: a list ``Layers`` with ``Name``, ``LayerType``, ``Inputs`` and ``Outputs`` (``Name``,
``Format/Datatype``; TensorRT 11 has ``Format`` and ``DataType``) and ``Metadata``, in which the
names of the ONNX nodes stand as ``[ONNX Layer: name]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qviz.errors import FormatError
from qviz.export.onnx_reading import read_file

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*(?:\[\d+\][^\]]*)*)\]")
_AGAIN = (
    "Write it with build.sh or build_engine.py, or with trtexec --profilingVerbosity=detailed "
    "--exportLayerInfo=FILE"
)
#: What a datatype is called in a description -> short name, first match wins.
_PRECISIONS = (
    ("int8", "int8"),
    ("fp8", "fp8"),
    ("bf16", "bf16"),
    ("bfloat16", "bf16"),
    ("fp16", "fp16"),
    ("half", "fp16"),
    ("float16", "fp16"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)


@dataclass(frozen=True)
class OpPrecision:
    """One op in an engine.

    Attributes:
        op: its name.
        wanted: ``int8`` if the recipe multiplies codes, else ``float``.
        precision: that it runs in: ``int8``, ``fp16``, ``fp32``; "" if no layer names it.
        layer: the engine's layer.
        output: type of what the layer writes.
    """

    op: str
    wanted: str
    precision: str
    layer: str
    output: str

    @property
    def fell_back(self) -> bool:
        """Whether an int8 op runs in float."""
        return self.wanted == "int8" and self.precision not in ("int8", "")


@dataclass(frozen=True)
class Reformat:
    """A layer that only changes type or layout.

    Attributes:
        layer: its name.
        before: type and layout that it reads.
        after: type and layout that it writes.
    """

    layer: str
    before: str
    after: str


@dataclass(frozen=True)
class EnginePrecision:
    """Precisions of an engine.

    Attributes:
        ops: every quantizable op, in execution order.
        reformats: layers that were inserted to change type or layout.
        layers: number of layers of the engine.
    """

    ops: tuple[OpPrecision, ...]
    reformats: tuple[Reformat, ...]
    layers: int

    @property
    def fell_back(self) -> tuple[OpPrecision, ...]:
        """int8 ops that run in float."""
        return tuple(op for op in self.ops if op.fell_back)

    @property
    def unknown(self) -> tuple[OpPrecision, ...]:
        """Ops that no layer names."""
        return tuple(op for op in self.ops if not op.precision)


def wanted_of_file(path: str | Path) -> dict[str, str]:
    """``int8`` or ``float`` for every op of the ONNX file that an engine was built from.

    Raises:
        FormatError: it cannot be read, or has no Q/DQ pairs.
        MissingExtraError: onnx is not installed.
    """
    wanted = {}
    for node in read_file(Path(path)).nodes:
        found = [each is not None for each in node.inputs]
        wanted[node.name] = (
            "int8" if (any(found) if node.kind == "add" else all(found)) else "float"
        )
    return wanted


def read_precision(path: str | Path, wanted: Mapping[str, str]) -> EnginePrecision:
    """What an engine does with every op.

    Args:
        path: the inspector's JSON.
        wanted: op -> ``int8`` or ``float``.

    Raises:
        FormatError: the file is not there, not the inspector's, has names only, or is of another
            model.
    """
    layers = _layers(Path(path))
    owner = _owners(layers, wanted)
    if not owner:
        raise FormatError(
            str(path), "no layer names an op of the model", "Name the engine of this model"
        )
    ops = tuple(_row(name, kind, owner.get(name)) for name, kind in wanted.items())
    reformats = tuple(
        Reformat(str(each["Name"]), _said(each, "Inputs"), _said(each, "Outputs"))
        for each in layers
        if str(each.get("LayerType", "")).lower() == "reformat"
    )
    return EnginePrecision(ops, reformats, len(layers))


def _row(op: str, wanted: str, layer: Mapping[str, Any] | None) -> OpPrecision:
    if layer is None:
        return OpPrecision(op, wanted, "", "", "")
    weights = layer.get("Weights")
    kind = weights.get("Type") if isinstance(weights, Mapping) else None
    # what multiplies says it best: the weights, or else the first input
    precision = _precision(str(kind)) if kind else _precision(_said(layer, "Inputs"))
    return OpPrecision(
        op, wanted, precision, str(layer["Name"]), _precision(_said(layer, "Outputs"))
    )


def _layers(path: Path) -> list[Mapping[str, Any]]:
    try:
        read: Any = json.loads(path.read_bytes())
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise FormatError(str(path), f"it cannot be read ({why})", _AGAIN) from failure
    except ValueError as failure:
        raise FormatError(str(path), "it is not JSON", _AGAIN) from failure
    layers = read.get("Layers") if isinstance(read, dict) else None
    if not isinstance(layers, list) or not layers:
        raise FormatError(str(path), 'it has no list "Layers"', _AGAIN)
    if not all(isinstance(each, dict) and "Name" in each for each in layers):
        raise FormatError(str(path), "it has the names of the layers only, not their types", _AGAIN)
    return layers


def _owners(
    layers: Sequence[Mapping[str, Any]], ops: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """The layer that computes each op; a reformat never does."""
    owner: dict[str, Mapping[str, Any]] = {}
    for layer in layers:
        if str(layer.get("LayerType", "")).lower() == "reformat":
            continue
        for name in _named(layer):
            if name in ops:
                owner.setdefault(name, layer)
    return owner


def _named(layer: Mapping[str, Any]) -> Iterable[str]:
    """Names of the ONNX nodes in a layer: from its metadata, or else from its own name."""
    found = _ONNX_NODE.findall(str(layer.get("Metadata", "")))
    return found or [part.strip() for part in str(layer["Name"]).split(" + ")]


def _said(layer: Mapping[str, Any], side: str) -> str:
    """Type and layout of the first input or output."""
    tensors = layer.get(side) or [{}]
    first = tensors[0] if isinstance(tensors[0], Mapping) else {}
    kind = first.get("DataType")
    layout = first.get("Format/Datatype", first.get("Format", ""))
    return f"{kind}, {layout}" if kind else str(layout)


def _precision(description: str) -> str:
    words = description.lower()
    return next((short for word, short in _PRECISIONS if word in words), "")
