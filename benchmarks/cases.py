"""Models and data that a script is told of: ``NAME=FILE.py:MODEL,CAL,EVAL``."""

from __future__ import annotations

import importlib.util
from typing import Any


def factories(text: str) -> tuple[str, list[Any]]:
    """A name, and what each factory named in a Python file gives."""
    name, spec = text.split("=", 1)
    path, names = spec.rsplit(":", 1)
    found = importlib.util.spec_from_file_location("cases_of_user", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return name, [getattr(module, factory)() for factory in names.split(",")]
