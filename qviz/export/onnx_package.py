"""The onnx and onnxruntime packages, imported when a file of that format is written or run."""

from __future__ import annotations

import importlib
from typing import Any

from qviz.errors import MissingExtraError


def onnx() -> Any:  # noqa: ANN401 - a module
    """The onnx package.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _package("onnx")


def onnxruntime() -> Any:  # noqa: ANN401 - a module without types
    """The onnxruntime package.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _package("onnxruntime")


def _package(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        module = importlib.import_module(name)
        if name == "onnx":
            for part in ("helper", "numpy_helper", "checker"):
                importlib.import_module(f"onnx.{part}")
    except ImportError as failure:
        raise MissingExtraError(
            "ONNX", f"{name} is not installed", "Run pip install 'qviz[onnx]'"
        ) from failure
    return module
