"""A recipe as one ONNX file: graph, inputs and outputs with a free batch, and what it came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qviz.errors import FormatError
from qviz.export.onnx_builder import ELEMENTS, Builder
from qviz.export.onnx_grids import Quantizers
from qviz.export.onnx_package import onnx
from qviz.export.onnx_writer import Writer
from qviz.graph import Graph
from qviz.recipe import Recipe
from qviz.simulate import Simulator

#: Gelu came with 20, int8 scales of float16 with 19; TensorRT 10.0 reads up to 20.
OPSET = 20
#: The file version that goes with the opset.
IR_VERSION = 9
#: The largest file that protobuf can hold.
LARGEST = 2**31 - 1

FloatType = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A written model.

    Attributes:
        proto: the ``ModelProto``.
        widened: weight -> channels whose step was enlarged so that the bias fits into int32.
    """

    proto: Any
    widened: dict[str, int]

    def content(self) -> bytes:
        """The file.

        Raises:
            FormatError: it is larger than one file can be.
        """
        if self.proto.ByteSize() > LARGEST:
            raise FormatError(
                "ONNX", "the model is larger than the 2 GB that one file can hold",
                "Export another format",
            )  # fmt: skip
        content: bytes = self.proto.SerializeToString()
        return content


def onnx_model(
    simulator: Simulator,
    recipe: Recipe | None,
    *,
    float_type: FloatType = "float32",
    transposed_weights: bool = False,
    carry: bool = False,
    model_digest: str = "",
) -> OnnxModel:
    """Write a model under a recipe.

    Args:
        simulator: of the graph.
        recipe: 8 bits; None is the float model.
        float_type: of everything that is not int8; inputs and outputs are float32 all the same.
        transposed_weights: store quantized linear weights as (inputs, outputs), as ONNX Runtime
            wants them.
        carry: round before a value is moved as well (see ``onnx_grids.py``).
        model_digest: for the metadata.

    Raises:
        UnsupportedModelError: an op cannot be written.
        MissingExtraError: onnx is not installed.
    """
    graph = simulator.graph
    builder = Builder(half=float_type == "float16")
    quantizers = None if recipe is None else Quantizers(builder, simulator, recipe, carry=carry)
    writer = Writer(graph, builder, quantizers, transposed_weights=transposed_weights)
    writer.run()
    helper = onnx().helper
    nodes = {n.name: n for n in graph.module.graph.nodes}
    leaves = [n for n in pytree.tree_leaves(_output(graph).args[0]) if isinstance(n, fx.Node)]
    proto = helper.make_model(
        helper.make_graph(
            builder.nodes,
            graph.name,
            [_described(i.tensor, nodes[i.node].meta["val"]) for i in graph.inputs],
            [
                _described(name, leaf.meta["val"])
                for name, leaf in zip(writer.outputs(leaves), leaves, strict=True)
            ],
            list(builder.stored.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="qviz",
        producer_version=version("qviz"),
    )
    helper.set_model_props(proto, _metadata(graph, recipe, float_type, model_digest))
    return OnnxModel(proto, {} if quantizers is None else quantizers.widened)


def _output(graph: Graph) -> fx.Node:
    node: fx.Node = next(n for n in graph.module.graph.nodes if n.op == "output")
    return node


def _described(name: str, val: Tensor) -> Any:  # noqa: ANN401 - a ValueInfoProto
    """Type and shape of an input or output; a size that is the batch is called so."""
    shape = [s if isinstance(s, int) else _symbol(s) for s in val.shape]
    element = getattr(onnx().TensorProto, ELEMENTS[val.dtype])
    return onnx().helper.make_tensor_value_info(name, element, shape)


def _symbol(size: torch.SymInt) -> str:
    expr = size.node.expr
    return "batch" if expr.is_Symbol else str(expr)


def _metadata(
    graph: Graph, recipe: Recipe | None, float_type: str, model_digest: str
) -> dict[str, str]:
    """What the file says of its origin; the recipe itself, so that it can be read back."""
    text = "" if recipe is None else recipe.to_json()
    return {
        "qviz_version": version("qviz"),
        "qviz_model": graph.name,
        "qviz_model_digest": model_digest,
        "qviz_float_type": float_type,
        "qviz_inputs": json.dumps([[i.tensor, i.key] for i in graph.inputs]),
        "qviz_recipe_digest": hashlib.sha256(text.encode()).hexdigest() if text else "",
        "qviz_recipe": text,
    }
