"""Read Huawei AMCT: the record of scales (``record.txt``) and, beside it, its config (JSON).

What is taken: scale and offset of each layer's input, whether its weight has one scale per
channel, and what is float: layers without a record, and those that a ``config.json`` in the same
folder does not enable. A config alone has no ranges: the base's are used.

The record is text of the protobuf message ``ScaleOffsetRecord``; fields that say nothing of ranges
are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qviz.errors import FormatError
from qviz.export.importing import Imported
from qviz.export.reading import json_of, json_or_none, number, step, text_of, whole, wrong
from qviz.export.said import Said, Scales, Span, span_of
from qviz.export.taken import to_recipe
from qviz.graph import Graph
from qviz.recipe import Recipe

CONFIG = "config.json"
_TOKEN = re.compile(
    r'\s*(?:#[^\n]*\n\s*)*(?P<token>"(?:[^"\\]|\\.)*"|[{}:;,]|[^\s{}:;,"#]+)', re.ASCII
)
_START = re.compile(r"\s*record\s*:?\s*\{")
#: Fields that are lists.
_REPEATED = ("scale_w", "offset_w")


def fits(path: Path) -> bool:
    """Whether it begins with a record, or is a config."""
    try:
        if _START.match(text_of(path)):
            return True
    except FormatError:
        return False
    return _is_config(json_or_none(path))


def _is_config(found: object) -> bool:
    if not isinstance(found, dict) or not {"version", "batch_num"} <= found.keys():
        return False
    return any(isinstance(v, dict) and "quant_enable" in v for v in found.values())


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of a record, or of a config.

    Raises:
        FormatError: it cannot be read, or nothing in it is of this model.
    """
    text = text_of(path)
    if text.lstrip().startswith("{"):
        return _read_config(path, graph, base)
    ranges: dict[str, Span] = {}
    weights: dict[str, Scales] = {}
    for name, value in _records(path, text):
        for kind in ("dst_type", "act_type", "wts_type"):
            if value.get(kind, "INT8") != "INT8":
                raise wrong(path, f"{name} has {kind} {value[kind]}; INT8 is read")
        if "scale_d" in value:
            scale = step(path, value["scale_d"], f"scale_d of {name}")
            offset = whole(path, value.get("offset_d", 0), f"offset_d of {name}")
            ranges[name] = _span(path, name, scale, offset, base)
        found = value.get("scale_w", [])
        if found:
            weights[name] = Scales(tuple(step(path, s, f"scale_w of {name}") for s in found))
        if any(whole(path, o, f"offset_w of {name}") for o in value.get("offset_w", [])):
            raise wrong(path, f"{name} has an offset_w other than 0")
    floats: list[str] = []
    if (config := path.with_name(CONFIG)).exists():
        floats = _layers(config, json_of(config))[1]
        weights = {n: w for n, w in weights.items() if n not in floats}
    said = Said("amct", "op", ranges, weights, floats, whole=True)
    return to_recipe(said, path, graph, base)


def _read_config(path: Path, graph: Graph, base: Recipe) -> Imported:
    """What a config enables is int8, with the base's ranges."""
    content = json_of(path)
    enabled, floats = _layers(path, content)
    ranges: dict[str, Span] = {}
    for name in enabled:
        op = graph.ops.get(name)
        tensors = [o.tensor for o in op.operands if o.kind == "activation"] if op else []
        for one in (base.range_of[t] for t in tensors if t in base.range_of):
            ranges[name] = Span(one.lo, one.hi, calibrator=one.calibrator)
    weights = {name: Scales(()) for name in enabled}
    wise = any(
        content[name].get("weight_quant_params", {}).get("channel_wise", True) for name in enabled
    )
    said = Said("amct", "op", ranges, weights, floats, whole=True, per_channel=wise)
    return to_recipe(said, path, graph, base)


def _layers(path: Path, content: Any) -> tuple[list[str], list[str]]:  # noqa: ANN401 - JSON
    """Layers that a config enables, and those that it does not."""
    if not _is_config(content):
        raise wrong(path, "is not an AMCT config: no layer in it has quant_enable")
    if content["version"] != 1:
        raise wrong(path, f"is a config of version {content['version']!r}; 1 is read")
    layers = {k: v for k, v in content.items() if isinstance(v, dict) and "quant_enable" in v}
    for name, value in layers.items():
        for part in ("activation_quant_params", "weight_quant_params"):
            if not isinstance(value.get(part, {}), dict):
                raise wrong(path, f"{part} of {name} is not an object")
            bits = value.get(part, {}).get("num_bits", 8)
            if whole(path, bits, f"num_bits of {name}") != 8:
                raise wrong(path, f"{name} has {bits} bits; 8 are read")
    enabled = [n for n, v in layers.items() if v["quant_enable"]]
    return enabled, [n for n in layers if n not in enabled]


def _span(path: Path, name: str, scale: float, offset: int, base: Recipe) -> Span:
    if not -128 <= offset <= 127:
        raise wrong(path, f"offset_d of {name} is {offset}, not from -128 to 127")
    return span_of(scale, -128 - offset, 8, base)


def _records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and fields of each record."""
    tokens = _tokens(path, text)
    for field, value in _message(path, tokens, nested=False):
        if field != "record":
            continue  # prune records and the like
        fields = dict(value) if isinstance(value, list) else {}
        key, inner = fields.get("key"), fields.get("value")
        if not isinstance(key, str):
            raise wrong(path, "a record has no key")
        if inner is None:
            continue  # of a cache of keys and values
        if not isinstance(inner, list):
            raise wrong(path, f"the value of {key} is not a message")
        found: dict[str, Any] = {name: v for name, v in inner if name not in _REPEATED}
        for name in _REPEATED:
            found[name] = [v for n, v in inner if n == name]
        for name in ("scale_d", "offset_d", *_REPEATED):
            for v in found[name] if name in _REPEATED else [found.get(name, 1)]:
                number(path, v, f"{name} of {key}")
        yield key, found


def _tokens(path: Path, text: str) -> Iterator[str]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            line = text.count("\n", 0, position) + 1
            raise wrong(path, f"cannot be understood in line {line}")
        position = found.end()
        yield found["token"]


def _message(path: Path, tokens: Iterator[str], *, nested: bool) -> list[tuple[str, Any]]:
    """Fields of a message in their order; messages in it likewise."""
    fields: list[tuple[str, Any]] = []
    for name in tokens:
        if name in ",;":
            continue
        if name == "}" and nested:
            return fields
        token = next(tokens, None)
        if token == ":":
            token = next(tokens, None)
        if token is None or not re.fullmatch(r"\w+", name):
            raise wrong(path, "ends in the middle of a record" if token is None
                        else f"{name} is not the name of a field")  # fmt: skip
        if token == "{":
            fields.append((name, _message(path, tokens, nested=True)))
        else:
            fields.append((name, _scalar(path, name, token)))
    if nested:
        raise wrong(path, "ends in the middle of a record")
    return fields


def _scalar(path: Path, name: str, token: str) -> object:
    if token.startswith('"'):
        try:
            return json.loads(token)
        except ValueError:
            raise wrong(path, f"the text of {name} cannot be understood") from None
    if token in ("true", "false"):
        return token == "true"
    try:
        return float(token)
    except ValueError:
        return token
