"""The files of a small text format: written whole, and reported with their sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qviz.int8.folder import unwritable
from qviz.store_files import replace_file


def write_texts(folder: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Write files into a folder, made if it is not there.

    Returns:
        ``folder`` and ``files``, bytes by name: what an exporter returns.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    contents = {name: text.encode() for name, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            replace_file(folder / name, content)
    except OSError as failure:
        raise unwritable(folder, failure) from failure
    return {
        "folder": str(folder),
        "files": {name: len(content) for name, content in contents.items()},
    }


def json_text(value: object) -> str:
    """JSON as formats write it; a NaN is a bug, not a value."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
