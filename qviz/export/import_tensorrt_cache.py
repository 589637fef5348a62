"""Read a TensorRT calibration cache: ``tensor: scale`` lines under a ``TRT-...`` header.

What is taken: amax = 127 * scale of each tensor. An op is int8 where all tensors that it reads
have a scale, as TensorRT does it; a ``float-layers.json`` beside the file (ours) names those that
are float all the same.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from qviz.errors import FormatError
from qviz.export.importing import Imported
from qviz.export.reading import json_of, step, text_of, wrong
from qviz.export.said import Said, Span
from qviz.export.taken import to_recipe
from qviz.graph import Graph
from qviz.recipe import Recipe

FLOATS = "float-layers.json"
_HEADER = re.compile(r"TRT-\w+-\w+")
_LINE = re.compile(r"(?P<name>.+):\s*(?P<scale>[0-9a-fA-F]{8})")


def fits(path: Path) -> bool:
    """Whether its first line is a header."""
    try:
        return _HEADER.match(text_of(path)) is not None
    except FormatError:
        return False


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of a cache.

    Raises:
        FormatError: it cannot be read, or nothing in it is of this model.
    """
    first, *lines = text_of(path).splitlines() or [""]
    if not _HEADER.fullmatch(first.strip()):
        raise wrong(path, "has no header like TRT-8601-EntropyCalibration2 in its first line")
    ranges: dict[str, Span] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise wrong(path, f"line {number} is not a tensor and a hexadecimal scale")
        name = found["name"].strip()
        (scale,) = struct.unpack(">f", bytes.fromhex(found["scale"]))
        amax = 127 * step(path, scale, f"scale of {name}")
        ranges[name] = Span(-amax, amax)
    said = Said("tensorrt", "tensor", ranges, None, _floats(path.with_name(FLOATS)), whole=True)
    return to_recipe(said, path, graph, base)


def _floats(path: Path) -> list[str]:
    if not path.exists():
        return []
    found = json_of(path)
    if not isinstance(found, list) or not all(isinstance(n, str) for n in found):
        raise wrong(path, "is not a list of names")
    return found
