"""Frozen dataclasses to plain JSON values and back, every value checked against its type.

What is not finite has no JSON: an infinite float becomes null, and null where a float must be is
read as infinity.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class WrongValueError(Exception):
    """A value is missing or of another type; the text names it."""


def number(value: float) -> float | None:
    """A float as JSON has it."""
    return value if math.isfinite(value) else None


def values(item: object) -> Any:  # noqa: ANN401 - any JSON value
    """A dataclass, its tuples and mappings as plain values."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {f.name: values(getattr(item, f.name)) for f in dataclasses.fields(item)}
    if isinstance(item, tuple):
        return [values(one) for one in item]
    if isinstance(item, Mapping):
        return {str(key): values(one) for key, one in item.items()}
    return number(item) if isinstance(item, float) else item


def made(kind: type[T], found: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain values; values it does not know are left out.

    Raises:
        WrongValueError: a value is missing or of another type.
    """
    hints = typing.get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = f"{where}{field.name}"
        if field.name not in found:
            raise WrongValueError(f'"{name}" is missing')
        given[field.name] = _read(hints[field.name], found[field.name], name)
    return kind(**given)


def _read(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type and a JSON value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _read(next(one for one in inner if one is not types.NoneType), value, name)
    if origin is typing.Literal:
        return _checked(value in inner, value, name)
    if origin is tuple:
        _checked(isinstance(value, list), value, name)
        return tuple(_read(inner[0], one, f"{name}[{i}]") for i, one in enumerate(value))
    if origin is not None:  # a mapping from names
        _checked(isinstance(value, dict), value, name)
        return {key: _read(inner[1], one, f"{name}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(hint):
        _checked(isinstance(value, dict), value, name)
        return made(hint, value, f"{name}.")  # type: ignore[arg-type]
    if hint is float:
        if value is None:
            return math.inf
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_checked(fits, value, name))
    return _checked(type(value) is hint, value, name)


def _checked(fits: bool, value: Any, name: str) -> Any:  # noqa: ANN401 - a JSON value
    if not fits:
        raise WrongValueError(f'"{name}" is {str(value)[:40]!r}')
    return value
