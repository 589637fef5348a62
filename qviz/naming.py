"""Names that a person recognises: an op is called by the module that makes it.

``conv1`` where a module makes one op, ``layer1.0:add`` where it makes its own op beside its
children's, ``blocks.3.attn:matmul.1`` for the second of its kind (design: names).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from torch import fx

from qviz.optypes import label

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
# a Sequential sliced in forward shows as "features.slice(0, 3, None)"
_NOISE = re.compile(r"@\d+|\.?slice\([^)]*\)")


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that made the node, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values() if "_metadata_hook" not in str(path)]
    return _NOISE.sub("", paths[-1]).strip(".") if paths else ""


def source_line(node: fx.Node) -> str:
    """``file.py:12``: the innermost frame outside torch's own layers, "" if unknown."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return f"{PurePath(own[-1][0]).name}:{own[-1][1]}" if own else ""


def op_names(nodes: Sequence[fx.Node]) -> dict[fx.Node, str]:
    """A unique name for every op node, in execution order."""
    paths = {node: module_path(node) for node in nodes}
    count = Counter(paths.values())
    parents = {prefix for path in count for prefix in _prefixes(path)}
    names: dict[fx.Node, str] = {}
    used: Counter[str] = Counter()
    taken = {path for path in count if _alone(path, count, parents)}
    for node in nodes:
        path = paths[node]
        if _alone(path, count, parents):
            names[node] = path
            continue
        base = f"{path}:{label(node)}".lstrip(":")
        if not path and base in count:  # an op of the model itself named like a module
            base = f":{base}"
        name = base
        while name in taken:
            used[base] += 1
            name = f"{base}.{used[base]}"
        taken.add(name)
        names[node] = name
    return names


def input_names(nodes: Sequence[fx.Node], ops: Iterable[str]) -> dict[fx.Node, str]:
    """The argument's name for every model input; ``input:x`` where an op has that name."""
    taken = set(ops)
    plain = {node: str(node.target) for node in nodes}
    return {node: f"input:{name}" if name in taken else name for node, name in plain.items()}


def _alone(path: str, count: Mapping[str, int], parents: set[str]) -> bool:
    """Whether a module makes a single op, which then has the module's name."""
    return bool(path) and count[path] == 1 and path not in parents


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
