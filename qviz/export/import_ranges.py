"""Read ranges as JSON: ``ranges.json`` of qviz, ONNX Runtime's calibration table, or plain pairs.

ONNX Runtime's is what ``save_tensors_data`` and ``write_calibration_table`` write; plain pairs are
``{tensor: [min, max]}``. A pair that mirrors itself is symmetric. An op is int8 where all tensors
that it reads have a range; ``float`` of ``ranges.json`` names those that are float all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qviz.export.importing import Imported
from qviz.export.reading import json_of, json_or_none, number, wrong
from qviz.export.said import Said, Span
from qviz.export.taken import to_recipe
from qviz.graph import Graph
from qviz.recipe import Recipe

FORMAT, VERSION = "qviz-ranges", 1


def fits(path: Path) -> bool:
    """Whether it is one of the three."""
    found = json_or_none(path)
    if not isinstance(found, dict) or not found:
        return False
    if found.get("format") == FORMAT or found.get("CLS") == "TensorsData":
        return True
    return all(_pair(value) or _of_onnx_runtime(value) for value in found.values())


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of ranges.

    Raises:
        FormatError: it cannot be read, or nothing in it is of this model.
    """
    content = json_of(path)
    if not isinstance(content, dict):
        raise wrong(path, "is not an object of ranges by tensor")
    floats: list[str] = []
    calibrators: dict[str, str] = {}
    if content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise wrong(path, f"has version {content.get('version')!r}; {VERSION} is read")
        table, floats = content.get("tensors"), content.get("float", [])
        if not isinstance(floats, list) or not all(isinstance(n, str) for n in floats):
            raise wrong(path, "float is not a list of names")
    else:
        table = content.get("data") if content.get("CLS") == "TensorsData" else content
    if not isinstance(table, dict):
        raise wrong(path, "is not an object of ranges by tensor")
    ranges: dict[str, Span] = {}
    for name, value in table.items():
        lo, hi = _ends(path, name, value)
        if isinstance(value, dict) and isinstance(value.get("calibrator"), str):
            calibrators[name] = value["calibrator"]
        if lo > hi:
            raise wrong(path, f"the range of {name} is {lo:g} to {hi:g}")
        ranges[name] = Span(lo, hi, calibrator=calibrators.get(name))
    said = Said("ranges", "tensor", ranges, None, floats, whole=True)
    return to_recipe(said, path, graph, base)


def _ends(path: Path, name: str, value: Any) -> tuple[float, float]:  # noqa: ANN401 - JSON
    if _pair(value):
        ends = value
    elif isinstance(value, dict) and {"min", "max"} <= value.keys():
        ends = [value["min"], value["max"]]
    elif _of_onnx_runtime(value):
        ends = [_array(value["lowest"]), _array(value["highest"])]
    else:
        raise wrong(path, f"{name} has no minimum and maximum")
    lo, hi = (number(path, end, f"an end of the range of {name}") for end in ends)
    return lo, hi


def _pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _of_onnx_runtime(value: object) -> bool:
    return isinstance(value, dict) and {"lowest", "highest"} <= value.keys()


def _array(value: Any) -> object:  # noqa: ANN401 - JSON
    """The number in ONNX Runtime's form of an array of one."""
    while isinstance(value, dict) and "data" in value:
        value = value["data"]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value
