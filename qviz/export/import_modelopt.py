"""Read NVIDIA Model Optimizer: the amax of quantizers, from a state dict or from our own folder.

A quantizer is a tensor ``MODULE.input_quantizer._amax`` or ``MODULE.weight_quantizer._amax`` of a
``.safetensors`` file or a state dict saved by torch. A ``quant_cfg.json`` beside it says widths and
which quantizers are off; without one, 8 bits, and whatever has an amax is on. What has no quantizer
is float. Nothing is unpickled but tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qviz.affine import weight_params
from qviz.errors import FormatError
from qviz.export import names
from qviz.export.importing import Imported
from qviz.export.modelopt import AMAX, CONFIG
from qviz.export.module_layers import KINDS
from qviz.export.reading import json_of, whole, wrong
from qviz.export.said import Said, Scales, Span
from qviz.export.taken import to_recipe
from qviz.graph import Graph, Op
from qviz.loading_weights import CHECKPOINTS, read_tensors
from qviz.recipe import Recipe
from qviz.rewrite import get_attr

_ENDING = "_quantizer._amax"
_INPUT, _WEIGHT = "input_quantizer", "weight_quantizer"
_SCALED = "_pre_quant_scale"
_WRAPPERS = ("model_state_dict", "state_dict")


@dataclass(frozen=True, eq=False)
class _Quantizer:
    """One quantizer that is on: its module, its name in it, its limits, its width."""

    path: str
    part: str
    amax: Tensor
    bits: int


def fits(path: Path) -> bool:
    """Whether it holds the amax of a quantizer, or is a folder with such a file."""
    path = _file(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return any(key.endswith(_ENDING) for key in file.keys())  # noqa: SIM118 - no mapping
        return path.suffix in CHECKPOINTS and any(k.endswith(_ENDING) for k in _state(path))
    except (FormatError, SafetensorError, OSError):
        return False


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of a state dict.

    Raises:
        FormatError: it cannot be read, or nothing in it is of this model.
    """
    path = _file(path)
    calls: dict[str, list[Op]] = {}
    for op in graph.quantizable:
        if op.type in KINDS:
            calls.setdefault(op.module, []).append(op)
    ranges: dict[str, Span] = {}
    weights: dict[str, Scales] = {}
    other: list[str] = []
    made_by = {op.module for op in graph.ops.values()}
    for quantizer in _quantizers(path, calls):
        ops = calls.get(quantizer.path, [])
        if quantizer.part not in (_INPUT, _WEIGHT) or (not ops and quantizer.path in made_by):
            other.append(f"{quantizer.path}.{quantizer.part}".lstrip("."))
        elif quantizer.part == _INPUT:
            span = _span(path, quantizer)
            ranges |= {op.name: span for op in ops} if ops else {quantizer.path: span}
        else:
            scales = _scales(quantizer)
            weights |= {op.name: _folded(graph, op, scales) for op in ops}
            if not ops:
                weights[quantizer.path] = scales
    made = to_recipe(Said("modelopt", "op", ranges, weights), path, graph, base)
    if not other:
        return made
    note = f"Quantizers of what a recipe does not round: {names.several(other)}"
    return Imported(made.recipe, (*made.notes, note))


def _file(path: Path) -> Path:
    return path / AMAX if path.is_dir() else path


def _state(path: Path) -> Mapping[str, Tensor]:
    """Named tensors of a file.

    Raises:
        FormatError: it is damaged, needs code to load, or holds something else.
    """
    values = read_tensors(path, FormatError)
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    if not isinstance(values, Mapping):
        raise wrong(path, f"holds a {type(values).__name__}, not named tensors")
    return {str(k): v for k, v in values.items() if isinstance(v, Tensor)}


def _quantizers(path: Path, calls: Mapping[str, list[Op]]) -> Iterator[_Quantizer]:
    state = _state(path)
    amax = {k.removesuffix("._amax"): v for k, v in state.items() if k.endswith(_ENDING)}
    if not amax:
        raise wrong(path, "holds no amax of a quantizer")
    config = path.with_name(CONFIG)
    entries = _entries(config) if config.exists() else []
    for name, value in amax.items():
        module, _, part = name.rpartition(".")
        if f"{name}.{_SCALED}" in state:
            raise FormatError(
                str(path),
                f"{name} has a pre_quant_scale, so its range is of a scaled tensor",
                "Quantize without SmoothQuant or AWQ",
            )
        limits = value.detach().double()
        if not bool(torch.isfinite(limits).all()) or bool((limits < 0).any()):
            raise wrong(path, f"the amax of {name} is not a limit: it is negative, NaN or infinite")
        kind = KINDS[calls[module][0].type].__name__ if module in calls else None
        bits = _bits(config, entries, name, kind)
        if bits is not None:
            yield _Quantizer(module, part, limits, bits)


def _entries(config: Path) -> list[dict[str, Any]]:
    found = json_of(config)
    entries = found.get("quant_cfg") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("quantizer_name"), str) for e in entries
    ):
        raise wrong(config, "quant_cfg is not a list of objects with a quantizer_name")
    return entries


def _bits(config: Path, entries: list[dict[str, Any]], name: str, kind: str | None) -> int | None:
    """Width of a quantizer, None if it is off: later entries win, as in the library."""
    bits, on = 8, True
    for entry in entries:
        parent = entry.get("parent_class")
        if not fnmatch(name, entry["quantizer_name"]) or parent not in (None, f"nn.{kind}"):
            continue
        said = entry.get("cfg")
        if isinstance(said, dict):
            bits = whole(config, said.get("num_bits", 8), f"num_bits of {entry['quantizer_name']}")
        elif said is not None:
            raise wrong(config, f"{entry['quantizer_name']} quantizes in several steps")
        on = entry.get("enable", True) is True
    return bits if on else None


def _span(path: Path, quantizer: _Quantizer) -> Span:
    if quantizer.amax.numel() != 1:
        raise wrong(
            path,
            f"the input of {quantizer.path} has {quantizer.amax.numel()} ranges, "
            "which no recipe can say",
        )
    limit = float(quantizer.amax)
    return Span(-limit, limit, quantizer.bits)


def _scales(quantizer: _Quantizer) -> Scales:
    steps = (1 << (quantizer.bits - 1)) - 1
    return Scales(tuple((quantizer.amax / steps).reshape(-1).tolist()), quantizer.bits)


def _folded(graph: Graph, op: Op, scales: Scales) -> Scales:
    """Scales of the graph's weight: there a batch norm may have been folded in, in the file not."""
    if op.name not in graph.folded.values() or scales.bits is None:
        return scales
    operand = next(o for o in op.operands if o.kind == "weight")
    value = get_attr(graph.module, graph.weights[operand.tensor])
    own = weight_params(value, scales.bits, operand.axis if len(scales.values) > 1 else None)
    return Scales(tuple(own.scale.reshape(-1).tolist()), scales.bits)
