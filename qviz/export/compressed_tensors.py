"""compressed-tensors W8A8: the folder of a Hugging Face model with int8 linear layers, for vLLM.

    FOLDER/
      model.safetensors   the model's own names; int8 layers as ``LAYER.weight`` int8 [N, K],
                          ``LAYER.weight_scale`` [N, 1] and ``LAYER.input_scale`` [1]
      config.json         the model's config with ``quantization_config`` in it

A model that is not from Hugging Face gets ``quantization_config.json``: what belongs into the
config of whatever loads it. Tokenizer files are the user's to copy.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor, nn

from qviz.errors import FormatError
from qviz.export.files import as_safetensors, json_text, write_files
from qviz.export.module_layers import Layer, module_layers
from qviz.export.request import Request
from qviz.graph import Graph, Op
from qviz.recipe import Recipe, resolve

TITLE = "compressed-tensors"
TENSORS = "model.safetensors"
#: Layers of one module that vLLM joins into one: int8 all or none, with one input scale.
JOINED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


def joined_alike(graph: Graph, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Rule: layers that vLLM joins are int8 together and round one input range."""
    decisions = resolve(recipe, graph)

    def said(op: Op) -> tuple[object, ...]:
        int8 = all(decisions[o.name].int8 for o in op.operands)
        found = recipe.range_of.get(op.operands[0].tensor)
        return (int8, max(-found.lo, found.hi) if int8 and found else None)

    linears = {op.module: op for op in graph.quantizable if op.type == "linear" and op.module}
    alone: list[str] = []
    for parent in dict.fromkeys(path.rpartition(".")[0] for path in linears):
        for names in JOINED:
            paths = [f"{parent}.{name}".lstrip(".") for name in names]
            ops = [linears[path] for path in paths if path in linears]
            if len({said(op) for op in ops}) > 1:
                alone += [op.name for op in ops if said(op)[0]]
    reason = "joined into one layer, but not all int8 with one input range"
    return {reason: tuple(alone)} if alone else {}


def own_weights(graph: Graph, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Rule: the weight of an int8 layer is nobody else's, as a tied embedding's is."""
    decisions = resolve(recipe, graph)
    made_by = {op.node: op.module for op in graph.ops.values()}
    nodes = {n.name: n for n in graph.module.graph.nodes}
    readers: dict[str, set[str]] = {}
    for name, module in made_by.items():
        for source in nodes[name].all_input_nodes:
            if source.op == "get_attr":
                readers.setdefault(str(source.target), set()).add(module)
    tied = tuple(
        op.name
        for op in graph.quantizable
        for o in op.operands
        if o.kind == "weight" and decisions[o.name].int8 and len(readers[o.tensor]) > 1
    )
    return {"a weight that other modules read": tied} if tied else {}


def export(request: Request) -> dict[str, Any]:
    """Write the tensors and the config.

    Raises:
        FormatError: the model's modules are not known, an op is not the call of a plain linear
            module, or one is outside the Hugging Face model.
        CheckpointError: the folder cannot be written.
    """
    layers = module_layers(request, TITLE)
    assert isinstance(request.model, nn.Module)
    prefix, model = _hugging_face(request.model)
    outside = [layer.path for layer in layers if not layer.path.startswith(prefix)]
    if outside:
        raise FormatError(
            TITLE,
            f"{', '.join(outside)} is outside the Hugging Face model {prefix.rstrip('.')}",
            "Leave it in float",
        )
    int8 = {layer.path.removeprefix(prefix): layer for layer in layers}
    said = quantization_config(model, set(int8))
    config = _config(model)
    if config is None:
        name, content = "quantization_config.json", said
        note = "Put quantization_config.json into your model's config.json, as quantization_config"
    else:
        name, content = "config.json", {**config, "quantization_config": said}
        note = "Copy the tokenizer's files beside config.json"
    files: dict[str, str | bytes] = {
        TENSORS: as_safetensors(_tensors(model, int8)),
        name: json_text(content),
    }
    return {**write_files(request.folder, files), "modules": len(layers), "note": note}


def quantization_config(model: nn.Module, int8: set[str]) -> dict[str, Any]:
    """The ``quantization_config`` of a model whose linear layers named in ``int8`` are int8."""
    linear = {path for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    eight = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight, "strategy": "channel"},
                "input_activations": {**eight, "strategy": "tensor"},
            }
        },
        "ignore": sorted(linear - int8),
    }


def _tensors(model: nn.Module, int8: dict[str, Layer]) -> dict[str, Tensor]:
    """The state of the model with the int8 layers' weights replaced; a shared tensor once."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, value in model.state_dict().items():
        path, _, part = name.rpartition(".")
        if path in int8 and part == "weight":
            codes, scale, input_scale = int8[path].integers()
            tensors |= {
                name: codes,
                f"{path}.weight_scale": scale,
                f"{path}.input_scale": input_scale,
            }
        elif (key := (value.data_ptr(), tuple(value.shape))) not in seen or not value.numel():
            seen.add(key)
            tensors[name] = value
    return tensors


def _hugging_face(model: nn.Module) -> tuple[str, nn.Module]:
    """The outermost Hugging Face model in a model, after its path; else the model itself."""
    for path, module in model.named_modules():
        if _config(module) is not None:
            return (f"{path}." if path else ""), module
    return "", model


def _config(module: nn.Module) -> dict[str, Any] | None:
    """The ``config.json`` of a Hugging Face model, None for any other module."""
    # asked by what it can do, so that transformers need not be installed for other models
    config = getattr(module, "config", None)
    write = getattr(config, "to_json_string", None)
    if not callable(write) or not hasattr(module, "save_pretrained"):
        return None
    said: dict[str, Any] = json.loads(write())
    said.pop("quantization_config", None)
    return {**said, "architectures": [type(module).__name__], "dtype": "float32"}
