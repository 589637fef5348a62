"""What tells two functions of the caller's apart: a digest of their code that every process gives.

A training that was interrupted goes on only with the loss, optimizer and loader that it began with;
these are Python, and their names say nothing about what they do.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import (
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)

import numpy as np
import torch
from torch import Tensor

from qviz.scan import update

#: Folders of installed packages, whose code counts by its name.
_INSTALLED = {"site-packages", "dist-packages"}
#: What was looked at already: identity -> its number, and itself, which keeps the identity its own.
_Seen = dict[int, tuple[int, object]]


def code_digest(value: object) -> str:
    """Digest of what a function or object of the caller's does: its code and what it was given.

    Code and values of the caller's that it uses count as well, what is installed by its name. Where
    the file lies, when it was written and where things lie in memory do not count.
    """
    return hashlib.blake2b(repr(_told(value, {})).encode(), digest_size=16).hexdigest()


def _told(value: object, seen: _Seen) -> object:
    """What tells a value from others, as plain values whose repr is the same in every process."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if isinstance(value, torch.device | torch.dtype | PurePath):
        return str(value)
    if isinstance(value, ModuleType):
        return value.__name__
    # Equal constants may be one object or two, as Python likes, so these get no number.
    if isinstance(value, tuple):
        return tuple(_told(v, seen) for v in value)
    if isinstance(value, CodeType):
        return value.co_code, value.co_names, _told(value.co_consts, seen)
    if id(value) in seen and not isinstance(value, frozenset):
        return f"number {seen[id(value)][0]}"
    if not isinstance(value, frozenset):
        seen[id(value)] = (len(seen), value)
    if isinstance(value, set | frozenset):  # in no order, so each for itself
        return sorted(repr(_told(v, dict(seen))) for v in value)
    if isinstance(value, list):
        return [_told(v, seen) for v in value]
    if isinstance(value, dict):
        return [(_told(k, seen), _told(v, seen)) for k, v in value.items()]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _told_array(value, seen)
    return _told_code(value, seen)


def _told_array(value: Tensor | np.ndarray | np.generic, seen: _Seen) -> object:
    if isinstance(value, Tensor):
        digest = hashlib.blake2b(digest_size=16)
        update(digest, value.detach().to_dense())
        return str(value.dtype), tuple(value.shape), digest.hexdigest()
    content = _told(value.tolist(), seen) if value.dtype.hasobject else value.tobytes()
    return str(value.dtype), value.shape, content


def _told_code(value: object, seen: _Seen) -> object:
    if isinstance(value, functools.partial):
        return "partial", _told((value.func, value.args, value.keywords), seen)
    if isinstance(value, MethodType):
        return _told((value.__func__, value.__self__), seen)
    if isinstance(value, staticmethod | classmethod):
        return type(value).__name__, _told(value.__func__, seen)
    if isinstance(value, property):
        return _told((value.fget, value.fset), seen)
    if isinstance(value, FunctionType):
        given = (value.__defaults__, value.__kwdefaults__, tuple(_cells(value)))
        own = (value.__code__, *given, *_used(value))
        return value.__qualname__, [_told(v, seen) for v in own]
    if isinstance(value, type):
        return _told_type(value, seen)
    kind = type(value)
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names and not isinstance(
        value, Namespace | SimpleNamespace
    ):  # locks, loggers, iterators ...; of a cached function the function
        named = getattr(value, "__qualname__", None)
        return kind.__qualname__, named, _told(getattr(value, "__wrapped__", None), seen)
    theirs = [c for c in kind.__mro__ if not _is_installed(c.__module__)]
    slots = [n for c in theirs for n, m in vars(c).items() if isinstance(m, MemberDescriptorType)]
    state = (getattr(value, "__dict__", None), [(n, getattr(value, n, None)) for n in slots])
    return _told(kind, seen), _told(state, seen)


def _told_type(value: type, seen: _Seen) -> object:
    if _is_installed(value.__module__):
        return f"{value.__module__}.{value.__qualname__}"
    own = {
        name: one
        for name, one in vars(value).items()
        if not name.startswith("__") or isinstance(one, FunctionType)
    }
    return value.__qualname__, _told(value.__bases__, seen), _told(own, seen)


def _cells(function: FunctionType) -> Iterator[object]:
    """What a function holds of the functions around it."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not given a value yet
            yield None


def _used(function: FunctionType) -> Iterator[object]:
    """Globals of a function of the caller's that its code names, also in the caller's modules."""
    if _is_installed(function.__module__):
        return
    names = sorted(set(_names(function.__code__)))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name
        yield value
        if isinstance(value, ModuleType) and not _is_installed(value.__name__):
            yield [(n, vars(value)[n]) for n in names if n in vars(value)]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _is_installed(module: str | None) -> bool:
    """Whether a module comes with Python, with qviz or with an installed package."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == "qviz":
        return True
    found = sys.modules.get(module or "") or sys.modules.get(top)
    return bool(_INSTALLED & set(Path(getattr(found, "__file__", None) or "").parts))
