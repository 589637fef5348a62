"""NVIDIA Model Optimizer: which quantizers are on, and their amax, for the user's own modules.

    FOLDER/
      quant_cfg.json      for ``modelopt.torch.quantization.quantize``, without calibration
      amax.safetensors    ``MODULE.input_quantizer._amax``, ``MODULE.weight_quantizer._amax``
      apply.py            puts both into a model

Its grid is qviz's: activations in [-128, 127] steps of amax / 127, rounded half to even. It
quantizes modules: additions and products of two activations have no quantizer and stay float.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qviz.export.files import as_safetensors, json_text, script, write_files
from qviz.export.module_layers import Layer, module_layers
from qviz.export.request import Request

TITLE = "NVIDIA Model Optimizer"
CONFIG = "quant_cfg.json"
AMAX = "amax.safetensors"


def export(request: Request) -> dict[str, Any]:
    """Write the config, the ranges and a script that applies them.

    Raises:
        FormatError: the model's modules are not known, or are not those that it quantizes.
        CheckpointError: the folder cannot be written.
    """
    layers = module_layers(request, TITLE)
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    ranges: dict[str, Tensor] = {}
    for layer in layers:
        for part, axis, amax, bits in _quantizers(layer):
            name = layer.name(part)
            entries.append({"quantizer_name": name, "cfg": {"num_bits": bits, "axis": axis}})
            ranges[f"{name}._amax"] = amax
    files = {
        CONFIG: json_text({"quant_cfg": entries, "algorithm": None}).encode(),
        AMAX: as_safetensors(ranges),
        "apply.py": script("modelopt_apply.py"),
    }
    written = write_files(request.folder, files)
    return {**written, "modules": len(layers), "quantizers": len(ranges)}


def _quantizers(layer: Layer) -> list[tuple[str, int | None, Tensor, int]]:
    """Name in the module, axis, amax shaped to broadcast, bits."""
    found: list[tuple[str, int | None, Tensor, int]] = []
    if layer.input is not None:
        found.append(("input_quantizer", None, layer.input.amax, layer.input.bits))
    if layer.weight is not None:
        axis, amax = layer.weight.params.axis, layer.weight.amax
        if axis is not None:
            shape = [1] * layer.stored.dim()
            shape[axis] = -1
            amax = amax.reshape(shape)
        found.append(("weight_quantizer", axis, amax, layer.weight.bits))
    return found
