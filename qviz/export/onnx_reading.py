"""What an ONNX file with Q/DQ pairs says, op by op: which inputs are rounded, on which grid.

Files of others too: scales may be constants or stored, and a reshape may lie between a pair and
the op that it is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qviz.errors import FormatError
from qviz.export.onnx_package import onnx
from qviz.export.onnx_parity import load

#: What moves values: a pair before it is as good as one behind it.
_MOVES = {
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity", "Slice",
    "Cast", "Pad", "Split",
}  # fmt: skip
#: ONNX operators with int8 arithmetic -> kind; the first of two inputs is never stored.
_PRODUCTS = {"Conv": "conv", "ConvTranspose": "conv_transpose", "Gemm": "linear"}


@dataclass(frozen=True, eq=False)
class Rounded:
    """One rounded input.

    Attributes:
        scale: size of a step, one number or one per channel.
        zero_point: of the first channel.
        unsigned: codes are uint8.
        name: of the tensor or parameter, without what quantizers append.
    """

    scale: np.ndarray[Any, Any]
    zero_point: int
    unsigned: bool
    name: str


@dataclass(frozen=True, eq=False)
class Node:
    """One node with int8 arithmetic.

    Attributes:
        name: of the node.
        kind: ``conv``, ``conv_transpose``, ``linear``, ``matmul`` or ``add``.
        weight: name of its stored weight; "" without one.
        inputs: what it multiplies or adds; None where that is float.
    """

    name: str
    kind: str
    weight: str
    inputs: tuple[Rounded | None, ...]


@dataclass(frozen=True, eq=False)
class File:
    """An ONNX file.

    Attributes:
        nodes: in order.
        metadata: its properties.
    """

    nodes: tuple[Node, ...]
    metadata: Mapping[str, str]


def read_file(path: Path) -> File:
    """Read a file with Q/DQ pairs.

    Raises:
        FormatError: it cannot be read, or has no such pairs.
        MissingExtraError: onnx is not installed.
    """
    model = load(path)
    kinds = {n.op_type for n in model.graph.node}
    if "DequantizeLinear" not in kinds:
        fused = sorted(k for k in kinds if k.startswith("QLinear"))
        found = f"{fused[0]} nodes" if fused else "float nodes only"
        raise FormatError(
            str(path),
            f"it has no QuantizeLinear and DequantizeLinear pairs, but {found}",
            "Quantize it in the QDQ format",
        )
    return File(tuple(_Reader(model, path).nodes()), {p.key: p.value for p in model.metadata_props})


class _Reader:
    def __init__(self, model: Any, path: Path) -> None:  # noqa: ANN401 - a ModelProto
        self._path = path
        self._graph = model.graph
        self._maker = {o: n for n in model.graph.node for o in n.output}
        self._stored = {i.name: i for i in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self._stored[node.output[0]] = value

    def nodes(self) -> Iterator[Node]:
        """Every node with int8 arithmetic."""
        for node in self._graph.node:
            if node.op_type in _PRODUCTS:
                yield self._node(node, _PRODUCTS[node.op_type])
            elif node.op_type == "MatMul":
                yield self._node(node, "linear" if self._weight(node.input[1]) else "matmul")
            elif node.op_type == "Add" and not any(self._weight(i) for i in node.input):
                yield self._node(node, "add")

    def _node(self, node: Any, kind: str) -> Node:  # noqa: ANN401 - a NodeProto
        weight = "" if kind in ("matmul", "add") else self._weight(node.input[1])
        return Node(node.name, kind, weight, tuple(self._rounded(i) for i in node.input[:2]))

    def _back(self, name: str) -> tuple[str, Any]:
        """A value and its maker, back through what only moves it."""
        node = self._maker.get(name)
        while node is not None and node.op_type in _MOVES:
            name = node.input[0]
            node = self._maker.get(name)
        return name, node

    def _weight(self, name: str) -> str:
        """The stored tensor that a value is, "" if it is none."""
        own, node = self._back(name)
        if node is not None and node.op_type == "DequantizeLinear":
            own, node = self._back(node.input[0])
        if node is not None and node.op_type == "QuantizeLinear":  # a float weight behind a pair
            own, node = self._back(node.input[0])
        return _plain(own) if own in self._stored else ""

    def _rounded(self, name: str) -> Rounded | None:
        _, node = self._back(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        scale = self._number(node.input[1])
        has_zero = len(node.input) > 2 and bool(node.input[2])
        zero = self._number(node.input[2]) if has_zero else np.zeros(1, np.uint8)
        quantize = self._maker.get(node.input[0])
        source = quantize.input[0] if quantize is not None else node.input[0]
        return Rounded(
            scale.astype(np.float32), int(zero.reshape(-1)[0]), zero.dtype == np.uint8,
            _plain(source),
        )  # fmt: skip

    def _number(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._stored:
            raise FormatError(
                str(self._path),
                f"its scale or zero point {name} is computed, not stored",
                "Fold the constants of the file",
            )
        value: np.ndarray[Any, Any] = onnx().numpy_helper.to_array(self._stored[name])
        return value


def _plain(name: str) -> str:
    """A name without what quantizers append to it."""
    for ending in ("_quantized", "_transposed", "_QuantizeLinear_Input"):
        name = name.removesuffix(ending)
    return name
