"""Read AIMET encodings: versions 0.6.1, 1.0.0, 2.0.0 and 2.1.0, per tensor and per channel.

What is taken: ranges and widths of activations, widths of weights and whether they have one scale
per channel, and ``excluded_layers``. Scales of weights are compared with ours, which come from the
largest values. A tensor without an encoding is float, an op without one of its weight too.

Source: AIMET documentation, "Encoding Format Specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qviz.export.importing import Imported
from qviz.export.reading import json_of, json_or_none, step, whole, wrong
from qviz.export.said import Said, Scales, Span, span_of
from qviz.export.taken import to_recipe
from qviz.graph import Graph
from qviz.recipe import Recipe

VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")
_PARTS = ("activation_encodings", "param_encodings")


def fits(path: Path) -> bool:
    """Whether it is JSON with encodings."""
    found = json_or_none(path)
    if not isinstance(found, dict):
        return False
    return any(part in found for part in _PARTS) or _version_2(found)


def _version_2(found: dict[str, Any]) -> bool:
    return "encodings" in found and str(found.get("version", "")).startswith("2.")


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of an encodings file.

    Raises:
        FormatError: it cannot be read, or nothing in it is of this model.
    """
    content = json_of(path)
    if not isinstance(content, dict) or not (fits(path)):
        raise wrong(path, f"is not an AIMET file: it has no {' or '.join(_PARTS)}")
    version = content.get("version")
    if version not in VERSIONS:
        raise wrong(
            path, f"has encodings of version {version!r}; those that are read are "
            f"{', '.join(VERSIONS)}",
        )  # fmt: skip
    activations: dict[str, Span] = {}
    weights: dict[str, Scales] = {}
    for is_weight, name, entry in _entries(path, content, graph):
        scales, offsets, bits = _grid(path, name, entry)
        if bits is None:
            if is_weight:
                weights[name] = Scales((), None)
        elif is_weight:
            weights[name] = Scales(tuple(scales), bits)
        else:
            activations[name] = _span(path, name, scales, offsets, bits, base)
    floats = content.get("excluded_layers", [])
    if not isinstance(floats, list) or not all(isinstance(n, str) for n in floats):
        raise wrong(path, "excluded_layers is not a list of names")
    said = Said("aimet", "tensor", activations, weights, floats)
    return to_recipe(said, path, graph, base)


def _entries(
    path: Path, content: dict[str, Any], graph: Graph
) -> Iterator[tuple[bool, str, dict[str, Any]]]:
    """Whether it is a weight's, name and encoding, whatever the version."""
    if _version_2(content):
        for name, entry in _named(path, "encodings", content["encodings"]):
            yield name in graph.weights or entry.get("axis") is not None, name, entry
        return
    for part in _PARTS:
        for name, entry in _named(path, part, content.get(part, [])):
            yield part == "param_encodings", name, entry


def _named(path: Path, part: str, value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):  # 0.6.1: name -> encodings, one per channel
        for name, own in value.items():
            if not isinstance(own, list) or not own or not all(isinstance(e, dict) for e in own):
                raise wrong(path, f"{part}: the encoding of {name} is not a list of objects")
            merged = {**own[0]}
            for key in ("scale", "offset"):
                merged[key] = [e.get(key) for e in own]
            yield name, merged
        return
    if not isinstance(value, list):
        raise wrong(path, f"{part} is not a list")
    for i, entry in enumerate(value):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise wrong(path, f"{part}[{i}] is not an object with a name")
        yield entry["name"], entry


def _grid(
    path: Path, name: str, entry: dict[str, Any]
) -> tuple[list[float], list[int], int | None]:
    """Scales, offsets on the unsigned grid from 0, and width; None for a float."""
    if "output_dtype" in entry:
        return _grid_of_2(path, name, entry)
    if str(entry.get("dtype", "int")).lower() != "int":
        return [], [], None
    kind = entry.get("enc_type", "PER_TENSOR")
    if kind not in ("PER_TENSOR", "PER_CHANNEL"):
        raise wrong(path, f"{name} has a {kind} grid; per tensor and per channel are read")
    bits = whole(path, entry.get("bw", entry.get("bitwidth")), f"bw of {name}")
    scales = [step(path, s, f"scale of {name}") for s in _list(entry.get("scale"))]
    offsets = [whole(path, o, f"offset of {name}") for o in _list(entry.get("offset"))]
    if not scales or len(scales) != len(offsets):
        raise wrong(path, f"{name} has {len(scales)} scales and {len(offsets)} offsets")
    return scales, offsets, bits


def _grid_of_2(
    path: Path, name: str, entry: dict[str, Any]
) -> tuple[list[float], list[int], int | None]:
    if not (kind := re.fullmatch(r"(u?)int(\d+)", str(entry["output_dtype"]))):
        return [], [], None
    scale = entry.get("y_scale")
    if isinstance(scale, dict) or (isinstance(scale, list) and isinstance(scale[:1], list)
                                   and scale and isinstance(scale[0], list)):  # fmt: skip
        raise wrong(path, f"{name} has a grid per block; per tensor and per channel are read")
    scales = [step(path, s, f"y_scale of {name}") for s in _list(scale)]
    zeros = _list(entry.get("y_zero_point", [0] * len(scales)))
    bits = int(kind[2])
    lowest = 0 if kind[1] else -(1 << (bits - 1))
    offsets = [lowest - whole(path, z, f"y_zero_point of {name}") for z in zeros]
    if not scales or len(scales) != len(offsets):
        raise wrong(path, f"{name} has {len(scales)} scales and {len(offsets)} zero points")
    return scales, offsets, bits


def _span(
    path: Path, name: str, scales: list[float], offsets: list[int], bits: int, base: Recipe
) -> Span:
    if len(scales) > 1:
        raise wrong(path, f"activation {name} has one scale per channel, which no recipe can say")
    return span_of(scales[0], offsets[0], bits, base)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]
