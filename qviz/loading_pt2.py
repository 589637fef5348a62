"""``.pt2`` files: exported programs, checked before PyTorch reads them.

``torch.export.load`` is not safe by itself. It falls back to ``weights_only=False`` for pickles,
evaluates shape expressions, and looks operators up by any path below ``torch``. So everything in
the archive that could run code is looked at first: pickles must load with ``weights_only=True``,
shape expressions may be arithmetic only, and operators must be operators.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from qviz.errors import ModelError

_EXPORT_AGAIN = (
    "Export the model again with this version of torch: torch.export.save(program, path)"
)
_OPERATORS = re.compile(
    r"torch\.ops(\.(?!__)\w+){2,3}"
    r"|torch\.(sym_|_sym_)\w+"
    r"|math\.[a-z]\w*"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|getitem"
    r"|and_|or_|xor|not_|lshift|rshift|index|invert)"
)
#: Node types of arithmetic on symbols; calls and texts are looked at one by one.
_ARITHMETIC = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Tuple,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)
#: Constructors of symbols and numbers, whose first argument is a text.
_TAKES_TEXT = {"Symbol", "Dummy", "Float", "Integer"}


def load_exported(path: Path) -> ExportedProgram:
    """Read a ``.pt2`` file.

    Raises:
        ModelError: it is missing, empty, damaged, not an exported program, of a version that this
            torch cannot read, or reading it would run code of its own.
    """
    if not path.is_file():
        raise ModelError(str(path), "there is no such file", "Check the path")
    if path.stat().st_size == 0:
        raise ModelError(str(path), "the file is empty", _EXPORT_AGAIN)
    try:
        archive: Any = torch._C.PyTorchFileReader(str(path))
        records = list(archive.get_all_records())
    except Exception as failure:
        raise ModelError(
            str(path), "the file is damaged, or not an archive", _EXPORT_AGAIN
        ) from failure
    if not any(name.startswith("models/") for name in records):
        raise ModelError(str(path), "there is no exported program in it", _EXPORT_AGAIN)
    try:
        _refuse_code(archive, records, str(path))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as failure:
        raise ModelError(str(path), "its contents are damaged", _EXPORT_AGAIN) from failure
    del archive
    return _load(path)


def _load(path: Path) -> ExportedProgram:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs the traceback of what becomes one line here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as failure:
        detail = " ".join(str(failure).split())[:120] or type(failure).__name__
        raise ModelError(
            str(path), f"this version of torch cannot read it ({detail})", _EXPORT_AGAIN
        ) from failure
    finally:
        logger.setLevel(level)
    # Guards are Python source that would be compiled and run; they only re-check input shapes.
    program._guards_code = []
    return program


def _refuse_code(archive: Any, records: list[str], name: str) -> None:  # noqa: ANN401 - a C++ class
    """Refuse whatever in the archive could run code when it is loaded or run."""
    if len(records) != len(set(records)):
        raise ModelError(name, "it has two entries of one name", _EXPORT_AGAIN)
    if any(r.startswith("data/aotinductor") for r in records):
        raise ModelError(
            name, "it holds compiled code", "Save the program with torch.export.save, uncompiled"
        )
    pickles = [r for r in records if r.endswith(".pt")]
    for record in (r for r in records if r.endswith("_config.json")):
        for entry in json.loads(archive.get_record(record))["config"].values():
            stored = str(entry["path_name"])
            if stored.startswith(("custom_obj", "opaque_obj")):
                raise ModelError(
                    name,
                    f"it holds a Python or C++ object ({stored}), which would run code",
                    "Export a model that consists of tensors only",
                )
            if entry["use_pickle"]:
                pickles.append(f"{record.rpartition('/')[0]}/{stored}")
    for record in pickles:
        _refuse_pickle(archive.get_record(record), record, name)
    for record in (r for r in records if r.startswith("models/")):
        for key, value in _texts(json.loads(archive.get_record(record))):
            _refuse_text(key, value, name)


def _refuse_pickle(content: bytes, record: str, name: str) -> None:
    if not content:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as failure:
        raise ModelError(
            name,
            f"{record} in it is damaged, or would run code of its own",
            "Export a model whose weights and example inputs are plain tensors",
        ) from failure


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a JSON value, with the key each stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for k, v in value.items():
            if key == "range_constraints":
                yield "expr_str", str(k)
            yield from _texts(v, str(k))
    elif isinstance(value, list):
        for v in value:
            yield from _texts(v, key)


def _refuse_text(key: str, value: str, name: str) -> None:
    if key == "target" and not _OPERATORS.fullmatch(value):
        raise ModelError(
            name,
            f"it calls {value[:80]}, which is not a tensor operator",
            "Export a model that consists of tensor operators only",
        )
    if key == "expr_str" and not is_arithmetic(value):
        raise ModelError(
            name, f"the shape expression {value[:80]} is not arithmetic", _EXPORT_AGAIN
        )


def is_arithmetic(expression: str) -> bool:
    """Whether evaluating a shape expression can only do arithmetic on symbols.

    ``Mul(Integer(2), Symbol('s77', positive=True))`` and ``2*s77`` are; anything with attributes,
    indexing, other texts, or calls of lower-case functions (Python's own) is not.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    texts: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _ARITHMETIC):
            return False
        if isinstance(node, ast.Name) and "__" in node.id:
            return False
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and node.func.id[:1].isupper()):
                return False
            if node.func.id in _TAKES_TEXT and node.args:
                texts.add(id(node.args[0]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            plain = isinstance(node.value, str) and re.fullmatch(r"[\w.+-]+", node.value)
            if not plain or "__" in str(node.value) or id(node) not in texts:
                return False
    return True
