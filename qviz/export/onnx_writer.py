"""The captured graph, written node by node as an ONNX graph with the recipe's Q/DQ pairs.

Directly, not by way of ``torch.onnx``: that names nodes and tensors by itself, folds stored integer
weights back to floats, needs another package and ten seconds. What is written here has the op's
name on the node that does its arithmetic and the tensor's name on the value.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qviz.export.onnx_builder import Builder
from qviz.export.onnx_call import Call, Size, Value, refusal
from qviz.export.onnx_grids import Quantizers
from qviz.export.onnx_ops import TRANSLATORS
from qviz.graph import Graph, Op
from qviz.int8.twin import bound
from qviz.rewrite import aten, get_attr

#: Number of the ONNX element type float32.
FLOAT = 1
#: Arithmetic of sizes -> ONNX operator.
_SIZES = {
    operator.mul: "Mul",
    operator.add: "Add",
    operator.sub: "Sub",
    operator.floordiv: "Div",
    operator.neg: "Neg",
}


class Writer:
    """Writes one graph.

    Args:
        graph: the captured model.
        builder: takes the nodes.
        quantizers: of the recipe; None writes the float model.
        transposed_weights: store a quantized linear weight as (inputs, outputs).

    Attributes:
        values: captured node -> name of its value in the file.
    """

    def __init__(
        self,
        graph: Graph,
        builder: Builder,
        quantizers: Quantizers | None,
        *,
        transposed_weights: bool = False,
    ) -> None:
        self.graph = graph
        self.b = builder
        self.quantizers = quantizers
        self.values: dict[fx.Node, str] = {}
        self._transposed_weights = transposed_weights
        self._parts: dict[fx.Node, Any] = {}
        self._sizes: dict[fx.Node, Size] = {}
        self._constants: dict[fx.Node, Any] = {}
        self._op_of: Mapping[str, Op] = {op.node: op for op in graph.ops.values()}
        self._tensor_of = {t.node: t.name for t in graph.tensors.values()}
        self._inputs = {i.node: i.tensor for i in graph.inputs}

    def run(self) -> None:
        """Write every node.

        Raises:
            UnsupportedModelError: an op cannot be written.
        """
        for name in self.graph.tensors:
            self.b.reserve(name)
        for node in self.graph.module.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self._constants[node] = get_attr(self.graph.module, str(node.target))
            elif node.op == "call_function":
                self._call(node)

    def outputs(self, leaves: Sequence[fx.Node]) -> list[str]:
        """Names of the graph's outputs, each a value of its own; floats as float32."""
        taken = {i.tensor for i in self.graph.inputs}
        made: list[str] = []
        for leaf in leaves:
            name = self._value(leaf).name
            self.b.op = "output"
            if self.b.half and leaf.meta["val"].is_floating_point():
                name = self.b.node("Cast", (name,), name=f"{name}/float32", to=FLOAT)
            elif name in taken or leaf in self._constants:
                name = self.b.node("Identity", (name,), name=f"{name}/output")
            taken.add(name)
            made.append(name)
        return made

    def _placeholder(self, node: fx.Node) -> None:
        if node.name not in self._inputs:
            return
        name = self._inputs[node.name]
        if self.b.half and node.meta["val"].is_floating_point():
            to = self.b.element(torch.float32)
            name = self.b.node("Cast", (name,), name=f"input/{name}", to=to)
        self.values[node] = name

    # -- calls ----------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        if all(n in self._constants for n in node.all_input_nodes):
            self._constants[node] = self._computed(node)
        elif node.target is operator.getitem:
            parts = self._parts[node.args[0]]  # type: ignore[index]
            self.values[node] = parts[node.args[1]]
        elif not isinstance(pytree.tree_leaves(node.meta["val"])[0], Tensor):
            self._sizes[node] = self._size(node)
        else:
            self._translate(node)

    def _computed(self, node: fx.Node) -> Any:  # noqa: ANN401 - a tensor, several, a number
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: self._constants[n])
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _size(self, node: fx.Node) -> Size:
        self.b.op = "sizes"
        if node.target is aten.sym_size.int:
            source, axis = node.args
            value = self._value(source)  # type: ignore[arg-type]
            axis = int(axis) % value.val.dim()  # type: ignore[arg-type]
            return Size(self.b.node("Shape", (value.name,), start=axis, end=axis + 1))
        kind = _SIZES.get(node.target)  # type: ignore[arg-type]
        if kind is None:
            raise refusal(
                node.name, getattr(node.target, "__name__", str(node.target)),
                "there is no such arithmetic of sizes", "",
            )  # fmt: skip
        inputs = [
            self._sizes[a].name if isinstance(a, fx.Node) else self.b.integers(int(a))  # type: ignore[arg-type]
            for a in node.args
        ]
        return Size(self.b.node(kind, inputs))

    def _translate(self, node: fx.Node) -> None:
        op = self._op_of.get(node.name)
        name = self._tensor_of.get(node.name) or (op.name if op else node.name)
        translator = TRANSLATORS.get(node.target)
        source = op.source if op else ""
        if translator is None:
            raise refusal(name, str(node.target), "there is no translation of it", source)
        self.b.op = name
        arguments = bound(node.target, node.args, node.kwargs)
        made = translator(
            Call(
                b=self.b,
                node=node,
                name=name,
                a=arguments,
                val=node.meta["val"],
                source=source,
                operands=self,
                transposed_weights=self._transposed_weights,
            )
        )
        if isinstance(made, str):
            self.values[node] = made
        else:
            self._parts[node] = made

    # -- arguments ------------------------------------------------------------------------------

    def argument(self, node: fx.Node, reader: fx.Node) -> Value | Size:
        """The value of a captured node as a reader that has no int8 arithmetic gets it."""
        if node in self._sizes:
            return self._sizes[node]
        value = self._value(node)
        moved = None if self.quantizers is None else self.quantizers.moved(reader)
        if moved is None or self.quantizers is None or node in self._constants:
            return value
        return Value(self.quantizers.activation(moved, value.name), value.val)

    def _value(self, node: fx.Node) -> Value:
        if node in self._constants and node not in self.values:
            held = self._constants[node]
            name = str(node.target) if node.op == "get_attr" else f"{node.name}/constant"
            self.values[node] = self.b.store(held, name)
        return Value(self.values[node], node.meta["val"])

    def rounds(self, node: fx.Node, position: int) -> bool:
        """Whether a node reads an int8 operand at a position."""
        return self.quantizers is not None and self.quantizers.operand(node, position) is not None

    def read(self, node: fx.Node, position: int, *, transpose: bool = False) -> str:
        """The name of a tensor argument, rounded if it is an int8 operand."""
        source = node.args[position]
        assert isinstance(source, fx.Node)
        operand = None if self.quantizers is None else self.quantizers.operand(node, position)
        if operand is None or self.quantizers is None:
            return self._value(source).name
        if operand.kind == "weight":
            return self.quantizers.weight(operand, transpose=transpose)
        return self.quantizers.activation(operand, self._value(source).name)
