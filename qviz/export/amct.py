"""Huawei AMCT: the quantization config (JSON) and the record of scales (protobuf text).

``config.json`` says of every layer whether it is quantized (``quant_enable``; a layer that is not
in the file is not), whether weights have one scale per channel (``channel_wise``), and whether
activations have an offset (``asymmetric``); it is what ``quantize_model`` takes. ``record.txt``
holds the ranges of this recipe by layer, as ``save_model`` takes them: ``scale_d``, ``offset_d`` of
its input, and ``scale_w``, ``offset_w`` of its weight, once or once per output channel.

AMCT rounds ``clip(round(x / scale + offset), -128, 127)``: ``scale`` is the size of a step, amax /
127, and ``offset_d`` our zero point minus 128 on an affine grid. Its own ranges are amax / 128
where the lower end is the larger; scales written here are not changed by that.

Carries: convolutions and linear layers at 8 bits, each whole or not at all. Does not carry: int8
adds and matrix products, which AMCT has not; narrow weight codes (ours end at -127, which its grid
holds); and fusions, which are left to it (``do_fusion``: batch norm is folded here already).

Source: the ``ScaleOffsetRecord`` message of amct_pytorch and its calibration config.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from qviz.export.files import json_text, write_files
from qviz.export.grids import Grids, grids_of
from qviz.export.request import Request
from qviz.graph import Graph

CONFIG, RECORD = "config.json", "record.txt"


def export(request: Request) -> dict[str, Any]:
    """Write ``config.json`` and ``record.txt``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    found = grids_of(request)
    texts = {CONFIG: json_text(_config(request, found)), RECORD: _record(request, found)}
    return write_files(request.folder, texts) | {
        "layers": len(found.weights),
        "float": len(found.float_ops),
    }


def _config(request: Request, found: Grids) -> dict[str, object]:
    asymmetric = not all(g.symmetric for g in found.activations.values())
    per_channel = request.recipe.per_channel
    return quant_config(
        request.graph, found.weights, per_channel=per_channel, asymmetric=asymmetric
    )


def quant_config(
    graph: Graph, enabled: Collection[str], *, per_channel: bool, asymmetric: bool
) -> dict[str, object]:
    """AMCT's quantization config.

    Args:
        graph: the model; of its ops, those with a weight are in the config.
        enabled: names of the ops that are quantized.
        per_channel: one scale per output channel.
        asymmetric: activations have an offset.
    """
    layers: dict[str, object] = {}
    for op in graph.quantizable:
        if any(o.kind == "weight" for o in op.operands):
            layers[op.name] = {
                "quant_enable": op.name in enabled,
                "activation_quant_params": {
                    "num_bits": 8,
                    "act_algo": "ifmr",
                    "asymmetric": asymmetric,
                },
                "weight_quant_params": {
                    "num_bits": 8,
                    "wts_algo": "arq_quantize",
                    "channel_wise": per_channel,
                },
            }
    return {
        "version": 1,
        "batch_num": 1,
        "activation_offset": asymmetric,
        "do_fusion": True,
        "skip_fusion_layers": [],
        **layers,
    }


def _record(request: Request, found: Grids) -> str:
    lines: list[str] = []
    for name, weight in found.weights.items():
        assert weight is not None  # the format's limits: an op is int8 whole or not at all
        operands = request.graph.ops[name].operands
        tensor = next(o.tensor for o in operands if o.kind == "activation")
        data = found.activations[tensor]
        lines += ["record {", f"  key: {json.dumps(name)}", "  value {"]
        lines += [
            f"    scale_d: {float(data.params.scale):.9g}",
            f"    offset_d: {data.offset - 128}",
        ]
        for scale in weight.scales:
            lines += [f"    scale_w: {scale:.9g}", "    offset_w: 0"]
        lines += ['    dst_type: "INT8"', "  }", "}"]
    return "\n".join(lines) + "\n"
