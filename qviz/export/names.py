"""Whose name is it: names of another tool's file matched with those of a graph.

Tried in this order, each for what is still unmatched, and only where it is unambiguous on both
sides: the same name; the same module path (``/layer1/layer1.0/conv1/Conv_output_0`` of an ONNX file
is ``layer1.0.conv1``); the same but for punctuation and case (``layer1_0_conv1``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from qviz.graph import Graph

#: Names listed in a note or refusal; the rest is counted.
LISTED = 3

_ONNX_OUTPUT = re.compile(r"_output_\d+$")
_ENDINGS = re.compile(r"([._](output|input|weight)(_quantizer)?)+$")


def match(given: Iterable[str], known: Mapping[str, str | None]) -> dict[str, str]:
    """Given name -> known name, for those that can be told.

    Args:
        given: names of a file.
        known: names of a graph, each with its module path, None if that would be ambiguous.
    """
    found: dict[str, str] = {}
    own: tuple[Callable[[str], str | None], ...] = (
        lambda name: name,
        known.get,
        lambda name: _plain(name),
        lambda name: _plain(known[name] or name),
    )
    theirs: tuple[Callable[[str], str | None], ...] = (
        lambda name: name,
        module_path,
        _plain,
        lambda name: _plain(module_path(name)),
    )
    left = list(dict.fromkeys(given))
    for key_of_own, key_of_theirs in zip(own, theirs, strict=True):
        taken = set(found.values())
        mine = _unique(key_of_own, (name for name in known if name not in taken))
        others = _unique(key_of_theirs, (name for name in left if name not in found))
        found |= {name: mine[key] for key, name in others.items() if key in mine}
    return {name: found[name] for name in left if name in found}


def module_path(name: str) -> str:
    """The module that a name of an ONNX file or of a module's quantizer speaks of."""
    if not name.startswith("/"):
        return _ENDINGS.sub("", name)
    *parts, last = name.strip("/").split("/")
    if not _ONNX_OUTPUT.search(last):
        parts.append(last)
    path = ""
    for part in parts:  # each scope repeats the path so far, or adds a name to it
        path = part if not path or part == path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path


def tensors(graph: Graph) -> dict[str, str | None]:
    """Every tensor with the module that makes it, if the module makes nothing else."""
    made: dict[str, list[str]] = {}
    for op in graph.ops.values():
        made.setdefault(op.module, []).append(op.name)
    inner = {path.rpartition(".")[0] for path in made}
    alone = {
        names[0]: path for path, names in made.items() if len(names) == 1 and path not in inner
    }
    return {name: alone.get(name) for name in graph.tensors}


def ops(graph: Graph) -> dict[str, str | None]:
    """Every quantizable op with its module, if the module has no other."""
    count: dict[str, int] = {}
    for op in graph.quantizable:
        count[op.module] = count.get(op.module, 0) + 1
    return {op.name: op.module if count[op.module] == 1 else None for op in graph.quantizable}


def parameters(graph: Graph) -> dict[str, str | None]:
    """Every weight with the path of the module that holds it."""
    return {name: name.rpartition(".")[0] or None for name in graph.weights}


def several(names: Iterable[str]) -> str:
    """``a, b, c and 4 more``."""
    found = list(names)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(found[:LISTED]) + more


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _unique(key: Callable[[str], str | None], names: Iterable[str]) -> dict[str, str]:
    """Names by key, where no two names have the same."""
    found: dict[str, list[str]] = {}
    for name in names:
        if (k := key(name)) is not None:
            found.setdefault(k, []).append(name)
    return {k: n[0] for k, n in found.items() if len(n) == 1}
