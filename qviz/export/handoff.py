"""The folder of a hand-off: tensors, a config, and a script that runs without qviz."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from qviz.int8.folder import unwritable
from qviz.store_files import replace_file


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write files into a folder, made if it is not there, in their order.

    Returns:
        ``folder`` and ``files``, bytes by name: what an exporter returns.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_file(folder / name, content)
    except OSError as failure:
        raise unwritable(folder, failure) from failure
    return {"folder": str(folder), "files": {name: len(c) for name, c in files.items()}}


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The file of named tensors; each gets storage of its own, which the format demands."""
    own = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    return save(own, metadata={"format": "pt", "producer": "qviz"})


def script(name: str) -> bytes:
    """A file of this package that is handed over."""
    return (Path(__file__).parent / name).read_bytes()
