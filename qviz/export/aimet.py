"""AIMET encodings, version 1.0.0: a JSON list of encodings that Qualcomm's tools read.

Carries: the grid of every int8 activation and weight under our names, widths from 2 to 8 bits,
scales per tensor or per output channel, zero points, and the ops left in float
(``excluded_layers``). An encoding maps the codes 0 ... 2^bw - 1 by ``x = (code + offset) * scale``,
so symmetric int8 has offset -128 and an affine grid minus its zero point. ``scale`` is the size of
a step, amax / 127 for symmetric int8; AIMET's own is amax / 127.5 where it computes one itself.

Does not carry: which of several readers of a tensor is float (the whole op is), the calibrator's
name, the profile, or grids of biases and outputs, which stay float. A weight that is float beside
int8 activations is written as ``FLOAT``; an op without any encoding of its weight is float.

Weights use -127 ... 127 of the grid that the file describes, as the simulation does.

Source: AIMET documentation, "Encoding Format Specification".
"""

from __future__ import annotations

from typing import Any

from qviz import __version__
from qviz.export.files import json_text, write_files
from qviz.export.grids import ActivationGrid, WeightGrid, grids_of
from qviz.export.request import Request

FILE = "model.encodings"
VERSION = "1.0.0"


def export(request: Request) -> dict[str, Any]:
    """Write ``model.encodings``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    found, recipe = grids_of(request), request.recipe
    params = {}
    for op, grid in found.weights.items():
        parameter = next(o.tensor for o in request.graph.ops[op].operands if o.kind == "weight")
        params[parameter] = _float(parameter) if grid is None else _weight(grid)
    content = {
        "version": VERSION,
        "activation_encodings": [_activation(n, g) for n, g in found.activations.items()],
        "param_encodings": list(params.values()),
        "excluded_layers": list(found.float_ops),
        "quantizer_args": {
            "activation_bitwidth": recipe.activation_bits,
            "param_bitwidth": recipe.weight_bits,
            "dtype": "int",
            "is_symmetric": True,
            "per_channel_quantization": recipe.per_channel,
            "quant_scheme": "post_training_tf",  # weights by their largest values
        },
        "producer": f"qviz {__version__}",
    }
    return write_files(request.folder, {FILE: json_text(content)}) | {
        "activations": len(found.activations),
        "weights": sum(grid is not None for grid in found.weights.values()),
        "float": len(found.float_ops),
    }


def _activation(name: str, grid: ActivationGrid) -> dict[str, object]:
    return {
        "name": name,
        "dtype": "INT",
        "enc_type": "PER_TENSOR",
        "is_sym": grid.symmetric,
        "bw": grid.bits,
        "scale": [float(grid.params.scale)],
        "offset": [-grid.offset],
    }


def _weight(grid: WeightGrid) -> dict[str, object]:
    scales = grid.scales
    return {
        "name": grid.parameter,
        "dtype": "INT",
        "enc_type": "PER_TENSOR" if grid.params.axis is None else "PER_CHANNEL",
        "is_sym": True,
        "bw": grid.bits,
        "scale": scales,
        "offset": [-(1 << (grid.bits - 1))] * len(scales),
    }


def _float(name: str) -> dict[str, object]:
    return {"name": name, "dtype": "FLOAT", "enc_type": "PER_TENSOR", "bw": 32}
