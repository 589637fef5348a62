"""The folder of a format: its files written whole, and reported with their sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from qviz.int8.folder import unwritable
from qviz.store_files import replace_file


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> dict[str, Any]:
    """Write files into a folder, made if it is not there, in their order.

    Returns:
        ``folder`` and ``files``, bytes by name: what an exporter returns.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    contents = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            replace_file(folder / name, content)
    except OSError as failure:
        raise unwritable(folder, failure) from failure
    return {"folder": str(folder), "files": {name: len(c) for name, c in contents.items()}}


def json_text(value: object) -> str:
    """JSON as formats write it; a NaN is a bug, not a value."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The file of named tensors; each gets storage of its own, which the format demands."""
    own = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    return save(own, metadata={"format": "pt", "producer": "qviz"})


def script(name: str) -> bytes:
    """A file of this package that is handed over."""
    return (Path(__file__).parent / name).read_bytes()
