"""Read another tool's file: text, JSON and numbers, with what is wrong said in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from qviz.errors import FormatError

AGAIN = "Write it again with the tool it came from"


def wrong(path: Path, reason: str) -> FormatError:
    """A file that cannot be used."""
    return FormatError(str(path), reason, AGAIN)


def text_of(path: Path) -> str:
    """The content of a text file.

    Raises:
        FormatError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise FormatError(str(path), f"cannot be read ({why})", "Name a file") from failure
    except UnicodeDecodeError:
        raise wrong(path, "is not text") from None


def json_of(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Raises:
        FormatError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise wrong(path, f"is not JSON: {error.msg} (line {error.lineno})") from None
    except RecursionError:
        raise wrong(path, "is nested too deeply") from None


def json_or_none(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The same, None for anything else than JSON: for guessing a format."""
    try:
        return json_of(path)
    except FormatError:
        return None


def number(path: Path, value: object, what: str) -> float:
    """A finite number.

    Raises:
        FormatError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong(path, f"{what} is {value!r}, not a number")
    return float(value)


def step(path: Path, value: object, what: str) -> float:
    """A scale: a number above 0.

    Raises:
        FormatError: it is none.
    """
    found = number(path, value, what)
    if found <= 0:
        raise wrong(path, f"{what} is {found:g}, not above 0")
    return found


def whole(path: Path, value: object, what: str) -> int:
    """A whole number, also written as 8.0.

    Raises:
        FormatError: it is none.
    """
    found = number(path, value, what)
    if found != int(found):
        raise wrong(path, f"{what} is {found:g}, not a whole number")
    return int(found)
