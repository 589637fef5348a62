"""``file.py:name`` and ``package.module:name``: import the user's code and call what it names.

Importing is running code, so a specification of this kind comes from the command line or from
Python, never from a field in a browser.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from qviz.errors import InputError, QvizError

#: Which error a failure is: of a model, of data or of a metric.
ErrorType = type[InputError]


def is_factory(spec: str) -> bool:
    """Whether ``spec`` names an object in Python code."""
    head, colon, name = spec.rpartition(":")
    return bool(colon) and name.isidentifier() and len(head) > 1  # `C:model` is a Windows path


def named(spec: str, error: ErrorType) -> object:
    """The object that ``spec`` names.

    Raises:
        InputError: of the type ``error``: no such file or module, it cannot be imported, or it has
            no such name.
    """
    head, _, name = spec.rpartition(":")
    with import_path(spec):
        module = _module(head, spec, error)
    if not hasattr(module, name):
        here = [
            k
            for k, v in vars(module).items()
            if callable(v) and not k.startswith("_") and v.__module__ == module.__name__
        ]
        there = f"it has {', '.join(here[:8])}" if here else "it has no functions at all"
        raise error(spec, f"{Path(head).name} has no {name}; {there}", "Name one that is there")
    found: object = getattr(module, name)
    return found


def made(spec: str, error: ErrorType) -> object:
    """What the factory ``spec`` returns; an object that is not a factory is returned itself.

    Raises:
        InputError: of the type ``error``: as ``named``, or the factory wants arguments or raised.
    """
    factory = named(spec, error)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    wanted = _required(factory)
    if wanted:
        raise error(
            spec,
            f"it is called without arguments, but needs {', '.join(wanted)}",
            "Give them defaults, or name a function that needs none",
        )
    with import_path(spec):
        try:
            return factory()
        except QvizError:
            raise
        except (Exception, SystemExit) as failure:
            raise _raised(spec, "calling it", failure, error) from failure


@contextmanager
def import_path(spec: str) -> Iterator[None]:
    """Put the folder of the file (or the working folder, for a module) on the import path.

    Afterwards exactly this entry is taken off again; what the user's code added stays.
    """
    head = spec.rpartition(":")[0]
    folder = str(Path(head).resolve().parent) if head.endswith(".py") else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _module(head: str, spec: str, error: ErrorType) -> ModuleType:
    if not head.endswith(".py"):
        try:
            return importlib.import_module(head)
        except ModuleNotFoundError as failure:
            if failure.name and f"{head}.".startswith(f"{failure.name}."):
                raise error(
                    spec,
                    f"there is no module {head}",
                    "Check its name, or give the file: path/to/file.py:name",
                ) from failure
            raise _raised(spec, "importing it", failure, error) from failure
        except (Exception, SystemExit) as failure:
            raise _raised(spec, "importing it", failure, error) from failure
    path = Path(head)
    if not path.is_file():
        raise error(spec, f"there is no file {head}", "Check the path")
    # The same file gives the same module, so that data it caches is made once; after a change of
    # the file it is another.
    state = f"{path.resolve()} {path.stat().st_mtime_ns} {path.stat().st_size}"
    name = f"qviz_user_{path.stem}_{hashlib.blake2b(state.encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    loader_spec = importlib.util.spec_from_file_location(name, path)
    assert loader_spec is not None  # a .py file always has a loader
    assert loader_spec.loader is not None
    module = importlib.util.module_from_spec(loader_spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up while it is made
    try:
        loader_spec.loader.exec_module(module)
    except (Exception, SystemExit) as failure:
        del sys.modules[name]
        raise _raised(spec, "importing it", failure, error) from failure
    return module


def _required(factory: Callable[..., object]) -> list[str]:
    """Names of the arguments that the factory cannot be called without."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _raised(spec: str, doing: str, failure: BaseException, error: ErrorType) -> InputError:
    """One line of an exception in the user's code: its type, message, file and line."""
    head = Path(spec.rpartition(":")[0])
    frames = traceback.extract_tb(failure.__traceback__)
    own = [f for f in frames if Path(f.filename).name == head.name] or list(frames)
    message = " ".join(str(failure).split()).rstrip(".")
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(failure, SyntaxError):  # its message names file and line
        where = ""
    what = f"{type(failure).__name__}: {message}" if message else type(failure).__name__
    return error(spec, f"{doing} raised {what}{where}", "Correct the code, or what it needs")
