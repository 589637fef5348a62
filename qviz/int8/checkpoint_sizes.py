"""What a checkpoint holds in bytes, and what its weights would take packed and entropy-coded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from qviz.errors import CheckpointError
from qviz.int8.checkpoint import WEIGHTS
from qviz.int8.folder import EXPORT_AGAIN, check_file, read_manifest
from qviz.int8.int4 import unpack_int4
from qviz.int8.stored import PACKED, SCALE
from qviz.progress import OnProgress, Reporter
from qviz.tune.sizes import WeightSize, decoded, encoded, total, weight_size


@dataclass(frozen=True)
class CheckpointSizes:
    """Sizes of a checkpoint.

    Attributes:
        weights: one row per integer weight, in the order of the file.
        rest_bytes: tensors that are no integer weight or its scale: biases, float weights.
        float_bytes: parameters of the float model.
        files: bytes of each file.
    """

    weights: tuple[WeightSize, ...]
    rest_bytes: int
    float_bytes: int
    files: Mapping[str, int]

    @property
    def total(self) -> WeightSize:
        """All integer weights together."""
        return total(self.weights)


def form_bytes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all stored tensors as float32, with int8 codes, and as they are stored.

    Args:
        manifest: of a checkpoint. ``int4`` is there only where something is packed.
    """
    stored = int(manifest["files"][WEIGHTS]["bytes"])
    saved = sum(
        count - (count + 1) // 2
        for count, packed in (_counted(entry) for entry in manifest["weights"].values())
        if packed
    )
    found = {"float": int(manifest["float_bytes"]), "int8": stored + saved}
    return {**found, "int4": stored} if saved else found


def _counted(entry: Mapping[str, Any]) -> tuple[int, bool]:
    return int(np.prod(entry["shape"])), entry.get("packing") == "int4"


def checkpoint_sizes(
    folder: Path, *, proven: bool = True, progress: OnProgress | None = None
) -> CheckpointSizes:
    """Measure a checkpoint.

    Args:
        folder: written by ``qviz export``.
        proven: write every Huffman stream, decode it and compare, so that each size is that of
            bytes that give the codes back; otherwise streams are only counted.
        progress: told weight by weight.

    Raises:
        CheckpointError: the folder is no checkpoint, or damaged.
    """
    manifest = read_manifest(folder)
    check_file(folder, manifest, WEIGHTS)
    reporter = Reporter("sizes", len(manifest["weights"]), progress)
    rows = []
    held = 0
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for name, entry, codes, scale in _weights(file, manifest, folder):
            row = weight_size(name, codes.numpy(), int(entry["bits"]), scale.numel())
            if proven:
                _prove(row, codes, scale.nbytes)
            rows.append(row)
            held += row.packed_bytes
            reporter.step(name)
        every = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    return CheckpointSizes(
        tuple(rows),
        every - held,
        int(manifest["float_bytes"]),
        {name: int(one["bytes"]) for name, one in manifest["files"].items()},
    )


def _weights(
    file: Any,  # noqa: ANN401 - safetensors has no types
    manifest: Mapping[str, Any],
    folder: Path,
) -> Iterator[tuple[str, Mapping[str, Any], Tensor, Tensor]]:
    """Name, manifest entry, int8 codes and scale of each integer weight."""
    names = set(file.keys())
    for name, entry in manifest["weights"].items():
        stored = f"{name}{PACKED}" if entry.get("packing") == "int4" else name
        missing = [n for n in (stored, f"{name}{SCALE}") if n not in names]
        if missing:
            raise CheckpointError(
                str(folder / WEIGHTS), f"it is damaged: {missing[0]} is missing", EXPORT_AGAIN
            )
        tensor = file.get_tensor(stored)
        codes = tensor if stored == name else unpack_int4(tensor, entry["shape"])
        yield name, entry, codes, file.get_tensor(f"{name}{SCALE}")


def _prove(row: WeightSize, codes: Tensor, scales: int) -> None:
    """That the bytes counted are bytes that give the codes back."""
    data = encoded(codes.numpy(), row.form)
    same = np.array_equal(decoded(data, row.form), codes.numpy().ravel())
    if not same or len(data) + scales != row.coded_bytes:
        raise CheckpointError(row.name, "its codes do not survive entropy coding", "Report this")
