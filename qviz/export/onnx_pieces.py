"""A file with Q/DQ pairs, cut into its int8 ops: each a little model of its own.

A piece begins at codes (or at a float that is added to them) and ends at the codes that its result
becomes, or at the float it gives: the op, the addition of its bias and the activation behind it,
which an engine fuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from qviz.affine import QuantParams
from qviz.export.onnx_package import onnx
from qviz.export.onnx_run import FLOAT_TYPE

#: ONNX operators that have int8 arithmetic -> what a row calls it.
KERNELS = {
    "Conv": "conv",
    "ConvTranspose": "conv_transpose",
    "Gemm": "linear",
    "MatMul": "matmul",
    "Add": "add",
}
#: What is fused behind an op.
ACTIVATIONS = ("Relu", "Clip")
#: Number of the ONNX element type float16.
HALF = 10
#: Numbers of ONNX element types -> dtype.
DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 10: torch.float16}


class Source(NamedTuple):
    """Where a value comes from: the float tensor, and the grid it was put on."""

    value: str
    grid: QuantParams | None


@dataclass(frozen=True, eq=False)
class Piece:
    """One int8 op of a file.

    Attributes:
        op: name of its node, which is the op's.
        kernel: ``conv``, ``linear``, ``matmul``, ``add``; ``quantize`` for a tensor alone.
        content: the little model.
        half: its floats are float16.
        inputs: by name.
        dtypes: of the float inputs.
        output: what it makes.
        bias_share: share of the output's codes that a bias rounded to the accumulator's step, as
            ONNX Runtime rounds it, is expected to move by one.
    """

    op: str
    kernel: str
    content: bytes
    half: bool
    inputs: Mapping[str, Source]
    dtypes: Mapping[str, torch.dtype]
    output: Source
    bias_share: float = 0.0

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all float tensors that it reads or makes."""
        return (*(s.value for s in self.inputs.values()), self.output.value)


@dataclass(eq=False)
class _Cut:
    """A piece while it is being cut out."""

    nodes: list[Any] = field(default_factory=list)
    stored: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Source] = field(default_factory=dict)


class Pieces:
    """The pieces of a file, in its order.

    Args:
        model: a ``ModelProto``; not changed.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a ModelProto
        self._model = model
        graph = model.graph
        self._stored = {i.name: i for i in graph.initializer}
        self._maker = {o: n for n in graph.node for o in n.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {o.name for o in graph.output}
        halves = any(i.data_type == HALF for i in graph.initializer)
        self._float = HALF if halves else 1

    def __iter__(self) -> Iterator[Piece]:
        covered: set[str] = set()
        for node in self._model.graph.node:
            if node.op_type == "QuantizeLinear":
                if node.output[0] not in covered:
                    yield self._quantize(node)
            elif node.op_type in KERNELS and self._on_codes(node):
                piece, codes = self._op(node)
                covered |= codes
                yield piece

    def _on_codes(self, node: Any) -> bool:  # noqa: ANN401 - a NodeProto
        """Whether everything that it multiplies, or something that it adds, is dequantized."""
        count = 1 if node.op_type == "Add" else 2
        rounded = [self._dequantize(name) is not None for name in node.input[:2]]
        return sum(rounded) >= count and any(
            self._codes_of(name) is not None for name in node.input[:2]
        )

    def _dequantize(self, name: str) -> Any:  # noqa: ANN401 - a NodeProto or None
        """The DequantizeLinear that makes a value, also behind the transpose of a weight."""
        node = self._maker.get(name)
        if node is not None and node.op_type == "Transpose":
            inner = self._maker.get(node.input[0])
            if inner is not None and inner.input[0] in self._stored:
                node = inner
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _codes_of(self, name: str) -> Any:  # noqa: ANN401 - a NodeProto or None
        """The QuantizeLinear behind a dequantized value; None for a weight."""
        node = self._dequantize(name)
        return None if node is None else self._maker.get(node.input[0])

    def grid(self, node: Any) -> QuantParams:  # noqa: ANN401 - a NodeProto
        """The grid of a QuantizeLinear or DequantizeLinear."""
        array = onnx().numpy_helper.to_array
        scale = torch.from_numpy(array(self._stored[node.input[1]]).copy()).to(torch.float32)
        zero = torch.from_numpy(array(self._stored[node.input[2]]).copy())
        low, high = (0, 255) if zero.dtype == torch.uint8 else (-128, 127)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.dim() else None
        return QuantParams(scale, zero.to(torch.int32), low, high, axis)

    # -- cutting ----------------------------------------------------------------------------------

    def _quantize(self, node: Any) -> Piece:  # noqa: ANN401 - a NodeProto
        cut = _Cut(inputs={node.input[0]: Source(node.input[0], None)})
        self._take(cut, node)
        grid = self.grid(node)
        output = Source(node.input[0], grid)
        return self._piece(node.input[0], "quantize", cut, node.output[0], output)

    def _op(self, node: Any) -> tuple[Piece, set[str]]:  # noqa: ANN401 - a NodeProto
        cut = _Cut()
        for name in node.input:
            self._reach(cut, name)
        self._take(cut, node)
        value = node.output[0]
        while (after := self._only_reader(value)) is not None and self._fused(after, value):
            for name in after.input:
                if name != value:
                    self._reach(cut, name)
            self._take(cut, after)
            value = after.output[0]
        readers = self._readers.get(value, [])
        ends = [n for n in readers if n.op_type == "QuantizeLinear"]
        if ends and len(ends) == len(readers) and value not in self._outputs:
            self._take(cut, ends[0])
            made, output = ends[0].output[0], Source(value, self.grid(ends[0]))
        else:
            made, output = value, Source(value, None)
        kernel = KERNELS[node.op_type]
        if kernel == "matmul" and self._codes_of(node.input[1]) is None:
            kernel = "linear"  # its second factor is stored
        piece = self._piece(node.name, kernel, cut, made, output)
        piece = replace(piece, bias_share=self._bias_share(node, output))
        return piece, {made} if output.grid is not None else set()

    def _bias_share(self, node: Any, output: Source) -> float:  # noqa: ANN401 - a NodeProto
        """Mean move of the output, in its steps, by a bias rounded to the accumulator's step."""
        if len(node.input) < 3 or node.input[2] not in self._stored or output.grid is None:
            return 0.0
        x, weight = (self._dequantize(name) for name in node.input[:2])
        step = self.grid(x).scale.double() * self.grid(weight).scale.double()
        stored = onnx().numpy_helper.to_array(self._stored[node.input[2]]).copy()
        bias = torch.from_numpy(stored).double()
        moved = (bias - torch.round(bias / step) * step).abs()
        return float((moved / output.grid.scale.double()).mean())

    def _only_reader(self, value: str) -> Any:  # noqa: ANN401 - a NodeProto or None
        readers = self._readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self._outputs else None

    def _fused(self, node: Any, value: str) -> bool:  # noqa: ANN401 - a NodeProto
        if node.op_type == "Add":  # a bias
            return all(name in self._stored for name in node.input if name != value)
        return node.op_type in ACTIVATIONS

    def _reach(self, cut: _Cut, name: str) -> None:
        """Take in what makes an input, back to codes or to a float tensor."""
        if name in self._stored:
            cut.stored[name] = self._stored[name]
            return
        node = self._dequantize(name)
        if not name:
            return
        if node is None:
            cut.inputs[name] = Source(name, None)
            return
        quantize = self._maker.get(node.input[0])
        if quantize is not None:
            cut.inputs[node.input[0]] = Source(quantize.input[0], self.grid(quantize))
        self._take(cut, node)
        maker = self._maker[name]
        if maker is not node:  # the transpose of a weight
            self._take(cut, maker)

    def _take(self, cut: _Cut, node: Any) -> None:  # noqa: ANN401 - a NodeProto
        if node not in cut.nodes:
            cut.nodes.append(node)
        for name in node.input:
            if name in self._stored:
                cut.stored[name] = self._stored[name]

    def _piece(self, op: str, kernel: str, cut: _Cut, made: str, output: Source) -> Piece:
        helper = onnx().helper
        numbers = {n: self._number(s.grid) for n, s in cut.inputs.items()}
        graph = helper.make_graph(
            cut.nodes,
            "piece",
            [helper.make_tensor_value_info(n, number, None) for n, number in numbers.items()],
            [helper.make_tensor_value_info(made, self._number(output.grid), None)],
            list(cut.stored.values()),
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        if self._float == HALF:
            helper.set_model_props(model, {FLOAT_TYPE: "float16"})
        dtypes = {n: DTYPES[numbers[n]] for n, s in cut.inputs.items() if s.grid is None}
        half = self._float == HALF
        return Piece(op, kernel, model.SerializeToString(), half, cut.inputs, dtypes, output)

    def _number(self, grid: QuantParams | None) -> int:
        """Element type of a value."""
        if grid is None:
            return self._float
        return 2 if grid.dtype == torch.uint8 else 3
