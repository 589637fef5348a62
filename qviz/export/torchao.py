"""torchao: int8 weights and static input scales for the linear layers of the user's own model.

    FOLDER/
      model.safetensors   ``LAYER.weight`` int8 [N, K], ``LAYER.weight_scale`` [N, 1],
                          ``LAYER.input_scale`` with as many axes as the layer's input
      apply.py            makes ``torchao.quantization.Int8Tensor`` of them

Convolutions and products of two activations have no int8 form there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qviz.errors import FormatError
from qviz.export.files import as_safetensors, script, write_files
from qviz.export.module_layers import Layer, module_layers
from qviz.export.request import Request

TITLE = "torchao"
TENSORS = "model.safetensors"


def export(request: Request) -> dict[str, Any]:
    """Write the integers, their scales and a script that builds torchao's tensors of them.

    Raises:
        FormatError: the model's modules are not known, an op is not the call of a plain linear
            module, or one is called with inputs of different numbers of axes.
        CheckpointError: the folder cannot be written.
    """
    layers = module_layers(request, TITLE)
    axes = _input_axes(request, layers)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        weight, weight_scale, input_scale = layer.integers()
        tensors[layer.name("weight")] = weight
        tensors[layer.name("weight_scale")] = weight_scale
        tensors[layer.name("input_scale")] = input_scale.reshape([1] * axes[layer.path])
    files = {TENSORS: as_safetensors(tensors), "apply.py": script("torchao_apply.py")}
    return {**write_files(request.folder, files), "modules": len(layers)}


def _input_axes(request: Request, layers: tuple[Layer, ...]) -> dict[str, int]:
    """How many axes the input of each layer has; torchao wants its scale to have as many."""
    nodes = {n.name: n for n in request.graph.module.graph.nodes}

    def axes(op: str) -> int:
        found = request.graph.ops[op]
        position = next(o.position for o in found.operands if o.kind == "activation")
        source = nodes[found.node].args[position]
        assert isinstance(source, fx.Node)
        count: int = source.meta["val"].dim()
        return count

    counts = {layer.path: {axes(op) for op in layer.ops} for layer in layers}
    uneven = [path for path, found in counts.items() if len(found) > 1]
    if uneven:
        raise FormatError(
            TITLE,
            f"it needs inputs with one number of axes, and {', '.join(uneven)} gets several",
            "Leave it in float",
        )
    return {path: found.pop() for path, found in counts.items()}
