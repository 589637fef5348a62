"""The state of a training run as plain arrays: any place can keep them, and nothing is pickled.

Tensors become arrays of their exact bits; everything else an optimizer holds (numbers, flags,
tuples) becomes JSON with references to those arrays.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qviz.errors import TuneError

Arrays = Mapping[str, np.ndarray]

#: Key of the JSON text among the arrays.
_TEXT = "state"


@dataclass(frozen=True)
class Checkpoints:
    """Where the state of a training run is kept.

    Attributes:
        save: keeps the arrays in place of those before, in one step: whoever kills the process
            finds the old or the new ones.
        load: what was saved last, None if nothing was.
    """

    save: Callable[[Arrays], None]
    load: Callable[[], Arrays | None]


def to_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state of nested dicts, lists, tuples, numbers, texts and tensors as arrays.

    Raises:
        TuneError: it holds something else.
    """
    arrays: dict[str, np.ndarray] = {}
    arrays[_TEXT] = np.array(json.dumps(_plain(state, arrays)))
    return arrays


def from_arrays(arrays: Arrays) -> dict[str, Any]:
    """What ``to_arrays`` was given; tensors lie on the CPU."""
    state: dict[str, Any] = _restored(json.loads(str(arrays[_TEXT])), arrays)
    return state


def random_state() -> dict[str, Any]:
    """Where the random numbers of torch (on the CPU), NumPy and Python are."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put them back there."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def _plain(value: Any, arrays: dict[str, np.ndarray]) -> Any:  # noqa: ANN401 - a nested state
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        key = f"tensor{len(arrays)}"
        arrays[key] = value.detach().cpu().numpy().copy()  # training goes on with the tensor
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"items": [[_plain(k, arrays), _plain(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, arrays) for v in value]}
    if isinstance(value, list):
        return [_plain(v, arrays) for v in value]
    raise TuneError(
        "optimizer",
        f"its state holds a {type(value).__name__}, which cannot be kept in a checkpoint",
        "Use an optimizer of torch.optim, or train without a run folder",
    )


def _restored(value: Any, arrays: Arrays) -> Any:  # noqa: ANN401 - a nested state
    if isinstance(value, list):
        return [_restored(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.from_numpy(np.array(arrays[value["tensor"]]))
    if "tuple" in value:
        return tuple(_restored(v, arrays) for v in value["tuple"])
    return {_restored(k, arrays): _restored(v, arrays) for k, v in value["items"]}
