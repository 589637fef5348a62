"""Values of a run folder as strict JSON: arrays, tensors, NaN and Inf included.

Plain JSON has no arrays and no NaN. An array becomes ``{"__array__": base64, "dtype", "shape"}``
with its exact bytes, a float that is not finite becomes ``{"__float__": "nan"}``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np


def dumps(value: object, *, indent: int | None = None) -> str:
    """``value`` as JSON on one line, or indented.

    Raises:
        TypeError: something in it is neither a number, text, array, mapping nor sequence.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(
        _plain(value), indent=indent, separators=separators, allow_nan=False, ensure_ascii=False
    )


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - whatever was saved
    """What ``dumps`` was given; tuples come back as lists, tensors as arrays.

    Raises:
        ValueError: it is not JSON, or an array in it is damaged.
    """
    return json.loads(text, object_hook=_restored)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else {"__float__": repr(float(value))}
    if hasattr(value, "detach"):  # a tensor; looking at a run need not wait for torch's import
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {
            "__array__": base64.b64encode(little.tobytes()).decode("ascii"),
            "dtype": little.dtype.str,
            "shape": list(value.shape),
        }
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be saved as JSON")


def _restored(value: dict[str, Any]) -> object:
    if "__float__" in value:
        return float(value["__float__"])
    if "__array__" not in value:
        return value
    try:
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"arrays of dtype {dtype} are not saved")
        flat = np.frombuffer(base64.b64decode(value["__array__"], validate=True), dtype)
        return flat.reshape(value["shape"]).astype(dtype.newbyteorder("="))
    except (KeyError, TypeError, ValueError) as failure:
        raise ValueError(f"a saved array is damaged ({failure})") from failure
