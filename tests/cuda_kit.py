"""The CUDA operators on CPU tensors: their Triton kernels run by Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import triton
from torch import fx

from qviz.int8 import twin

PACKAGE = "qviz.int8.cuda"
#: Of those that hold kernels, operators.py imports some only when it needs them.
KERNELS = ("operators", "triton_kernels", "elementwise", "pooling", "int_mm")


def _taken() -> dict[str, ModuleType]:
    """The package's modules, after which they are no longer imported."""
    package = importlib.import_module(PACKAGE)
    found = {n: m for n, m in sys.modules.items() if n.startswith(f"{PACKAGE}.")}
    for name in found:
        del sys.modules[name]
        delattr(package, name.rpartition(".")[2])
    return found


def _put(modules: dict[str, ModuleType]) -> None:
    package = importlib.import_module(PACKAGE)
    for name, module in modules.items():
        sys.modules[name] = module
        setattr(package, name.rpartition(".")[2], module)


@cache
def _copies() -> dict[str, ModuleType]:
    """A second copy of the modules, whose kernels are interpreted."""
    # Whether a kernel is interpreted is decided when its module is imported. Set for the whole
    # process, TRITON_INTERPRET would also reach torch.compile and the tests that compile kernels.
    kept = _taken()
    triton.knobs.runtime.interpret = True
    try:
        for name in KERNELS:
            importlib.import_module(f"{PACKAGE}.{name}")
        return _taken()
    finally:
        triton.knobs.runtime.interpret = False
        _put(kept)


@contextmanager
def interpreted() -> Iterator[ModuleType]:
    """``operators`` with interpreted kernels; importing any of the package gives the same copy."""
    copies = _copies()
    kept = _taken()
    _put(copies)
    try:
        yield copies[f"{PACKAGE}.operators"]
    finally:
        _taken()
        _put(kept)


class OnKernels(fx.Interpreter):
    """Runs a program, its integer ops on the interpreted kernels."""

    def __init__(self, module: fx.GraphModule, operators: ModuleType) -> None:
        super().__init__(module)
        self._operators = operators

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - any value
        if n.op == "call_function" and twin.is_integer_call(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return getattr(self._operators, twin.kernel_of(n))(*args, **kwargs)
        return super().run_node(n)
