"""Data as arrays in one file: ``.npz``, ``.safetensors`` or a PyTorch checkpoint.

The inputs are called ``images``, ``inputs`` or ``x``; the targets ``labels``, ``targets`` or ``y``.
Arrays of any other name are keyword arguments of the model (``input_ids``, ``attention_mask``).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qviz.errors import DataError
from qviz.loading_weights import CHECKPOINTS, read_tensors

INPUT_NAMES = ("images", "inputs", "x")
TARGET_NAMES = ("labels", "targets", "label", "target", "y")
#: Endings of files that hold arrays.
ARRAY_FILES = (".npz", ".safetensors", *CHECKPOINTS)
#: An archive that unpacks to more is refused.
UNPACKED_BYTES = 64 << 30
_NAME_THEM = "Name them: np.savez(path, inputs=..., labels=...)"

Inputs = Tensor | dict[str, Tensor]


def read_arrays(path: Path) -> tuple[Inputs, Tensor | None]:
    """Inputs and targets of all samples in a file.

    Returns:
        The inputs ``[n, ...]``, one tensor or by keyword, and the targets ``[n, ...]`` or None.

    Raises:
        DataError: the file is missing, empty, damaged, holds Python objects, or no inputs.
    """
    if path.suffix == ".npz":
        return split_arrays(_read_npz(path), str(path))
    values = read_tensors(path, DataError)
    if isinstance(values, Mapping):
        return split_arrays({str(k): v for k, v in values.items()}, str(path))
    if isinstance(values, Tensor):
        return values, None
    if isinstance(values, list | tuple) and len(values) == 2:
        return split_arrays({"inputs": values[0], "targets": values[1]}, str(path))
    raise DataError(
        str(path),
        f"it holds a {type(values).__name__}, not arrays",
        "Save a dict of tensors: inputs, and labels if there are any",
    )


def split_arrays(arrays: Mapping[str, object], name: str) -> tuple[Inputs, Tensor | None]:
    """Tell inputs from targets by their names (see the module docstring)."""
    for key, value in arrays.items():
        if not isinstance(value, Tensor):
            raise DataError(
                name, f"{key} is a {type(value).__name__}, not an array", "Save arrays only"
            )
    tensors = {k: v for k, v in arrays.items() if isinstance(v, Tensor)}
    targets = [k for k in tensors if k in TARGET_NAMES]
    inputs = [k for k in tensors if k not in TARGET_NAMES]
    there = ", ".join(tensors) or "nothing"
    if not inputs:
        raise DataError(
            name, f"it has no inputs (it holds {there})", f"Name them {' or '.join(INPUT_NAMES)}"
        )
    if len(targets) > 1:
        raise DataError(name, f"{' and '.join(targets)} are both targets", "Keep one of them")
    if any(k.startswith("arr_") for k in inputs):
        raise DataError(name, f"its arrays have no names ({there})", _NAME_THEM)
    labels = tensors[targets[0]] if targets else None
    if len(inputs) == 1 and inputs[0] in INPUT_NAMES:
        return tensors[inputs[0]], labels
    return {k: tensors[k] for k in inputs}, labels


def _read_npz(path: Path) -> dict[str, object]:
    name = str(path)
    if not path.is_file():
        raise DataError(name, "there is no such file", "Check the path")
    if path.stat().st_size == 0:
        raise DataError(name, "the file is empty", "Save or download it again")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(m.file_size for m in archive.infolist())
        if unpacked > UNPACKED_BYTES:
            raise DataError(name, f"it unpacks to {unpacked / 2**30:.0f} GiB", "Give fewer samples")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: _array(arrays, key, name) for key in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, MemoryError) as failure:
        raise DataError(
            name, "the file is damaged or cut short", "Save, copy or download it again"
        ) from failure


def _array(arrays: Mapping[str, np.ndarray], key: str, name: str) -> Tensor:
    try:
        value = arrays[key]
    except ValueError as failure:
        if "allow_pickle" not in str(failure):
            raise
        raise DataError(
            name,
            f"{key} is an array of Python objects, and loading those would run code",
            "Save numbers: all samples of one shape in one array",
        ) from failure
    if value.dtype.kind not in "biuf":
        raise DataError(name, f"{key} is of dtype {value.dtype}, not numbers", "Save numbers only")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(value.shape))
