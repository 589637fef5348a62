"""The run folder on disk: what a run has found so far, safe against being killed.

    run/
      manifest.json       which model, which data, which versions, which command
      lock.json           who is writing (``store_lock.py``)
      NAME.json / .npz / .txt ...   whole files, replaced in one step
      TABLE.jsonl         rows, appended one by one

A whole file is written beside the old one, flushed to disk, and takes its place in one step. A row
is one line, flushed before ``append`` returns. Killing the process at any moment loses at most the
row in flight: half a line at the end is not read, and is cut off before the next row is written. A
folder belongs to one model and one set of data; another's is refused by name.
"""

from __future__ import annotations

import io
import re
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from qviz import store_codec, store_lock
from qviz.errors import RunFolderError
from qviz.store_files import TEMPORARY, append_line, replace_file, reported, whole_lines
from qviz.store_manifest import Manifest, Source, read_manifest, reconciled

__all__ = ["Manifest", "RunFolder", "Source"]

_NAME = re.compile(r"\w[\w.-]*")


class RunFolder:
    """A run folder: open it, append rows, write files, close it.

    One process writes at a time. Opening a folder again in the same process closes the earlier
    ``RunFolder``, as running a notebook cell twice does.

    Attributes:
        path: of the folder.
        manifest: what it belongs to.
    """

    def __init__(self, path: Path, manifest: Manifest, token: str | None) -> None:
        """Use ``open`` or ``view`` instead."""
        self.path = path
        self.manifest = manifest
        self._token = token
        self._appending = threading.Lock()
        self._clean: set[str] = set()  # tables whose last line is known to be whole
        self._release = weakref.finalize(self, store_lock.release, path, token or "")

    @classmethod
    def open(cls, path: str | Path, manifest: Manifest) -> RunFolder:
        """Create a run folder, or go on with one of the same model and data.

        Args:
            path: of the folder; it may not exist yet, or be empty.
            manifest: what is to be run.

        Raises:
            RunFolderError: the folder belongs to another model or other data, is something else,
                is in use by another process, or cannot be written.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(str(folder), "it is a file, not a folder", "Name a folder")
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stored = read_manifest(folder)
            if stored is None:
                _refuse_foreign(folder)
            merged = manifest if stored is None else reconciled(stored, manifest, folder)
            _close_earlier(folder)
            token = store_lock.acquire(folder)
            for left in folder.glob(f"{TEMPORARY}*"):  # of a process that was killed
                left.unlink(missing_ok=True)
        run = cls(folder, merged, token)
        _OPEN[folder.resolve()] = run
        if merged != stored:
            run.write_json("manifest", merged.to_json())
        return run

    @classmethod
    def view(cls, path: str | Path) -> RunFolder:
        """Look at an existing run folder, also while another process writes to it.

        Raises:
            RunFolderError: there is no run folder at ``path``.
        """
        folder = Path(path)
        with reported(folder):
            stored = read_manifest(folder) if folder.is_dir() else None
        if stored is None:
            raise RunFolderError(
                str(folder), "there is no run in it", "Name the folder that a run was given"
            )
        return cls(folder, stored, None)

    def close(self) -> None:
        """Give the folder free for other processes. Closing twice does nothing."""
        self._token = None
        self._release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, table: str, row: Mapping[str, object]) -> None:
        """Add a row; it is on disk when this returns.

        Args:
            table: name of the table, the file without its ending.
            row: numbers, texts, arrays, tensors and containers of those.

        Raises:
            RunFolderError: it cannot be written; the rows before it are untouched.
            TypeError: something in the row cannot be saved.
        """
        path = self._file(table, "jsonl")
        line = store_codec.dumps(row).encode() + b"\n"
        self._check_open()
        with self._appending, reported(path):
            append_line(path, line, known_whole=table in self._clean)
            self._clean.add(table)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table in the order they were added; none if there is no such table.

        Raises:
            RunFolderError: a line other than the last is damaged.
        """
        path = self._file(table, "jsonl")
        with reported(path):
            lines = whole_lines(path)
        return [_row(line, number, path) for number, line in enumerate(lines, 1)]

    def write_json(self, name: str, value: object) -> None:
        """Write ``NAME.json`` in one step; arrays are allowed in it."""
        self._replace(
            self._file(name, "json"), (store_codec.dumps(value, indent=2) + "\n").encode()
        )

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - whatever was saved
        """What ``NAME.json`` holds; None if there is none.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self._file(name, "json")
        with reported(path):
            if not path.exists():
                return None
            return store_codec.loads(path.read_bytes())

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write ``NAME.npz`` in one step."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **dict(arrays))
        self._replace(self._file(name, "npz"), buffer.getvalue())

    def read_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of ``NAME.npz``; None if there is none.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self._file(name, "npz")
        with reported(path):
            if not path.exists():
                return None
            with np.load(path, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}

    def write_text(self, filename: str, text: str) -> None:
        """Write a text file in one step; ``filename`` with its ending."""
        stem, _, ending = filename.rpartition(".")
        self._replace(self._file(stem, ending), text.encode())

    def _file(self, name: str, ending: str) -> Path:
        if not _NAME.fullmatch(name) or not _NAME.fullmatch(ending):
            raise RunFolderError(
                str(self.path),
                f"{name}.{ending} is not a plain file name",
                "Use letters, digits, dots, dashes and underscores",
            )
        return self.path / f"{name}.{ending}"

    def _check_open(self) -> None:
        if self._token is None or not store_lock.is_ours(self.path, self._token):
            raise RunFolderError(
                str(self.path),
                "it is not open for writing here (any more)",
                "Open it again; what was finished is kept",
            )

    def _replace(self, path: Path, content: bytes) -> None:
        self._check_open()
        with reported(path):
            replace_file(path, content)


#: Folders this process has open for writing, by their resolved path.
_OPEN: weakref.WeakValueDictionary[Path, RunFolder] = weakref.WeakValueDictionary()


def _close_earlier(folder: Path) -> None:
    earlier = _OPEN.pop(folder.resolve(), None)
    if earlier is not None:
        earlier.close()


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that has something in it but no run."""
    others = sorted(
        p.name
        for p in folder.iterdir()
        if p.name != store_lock.NAME and not p.name.startswith(TEMPORARY)
    )
    if others:
        raise RunFolderError(
            str(folder),
            f"there is no run in it, but other files ({others[0]})",
            "Name a new or an empty folder",
        )


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = store_codec.loads(line)
    except ValueError as failure:
        raise RunFolderError(
            str(path), f"line {number} is damaged", "Delete that line to compute it again"
        ) from failure
    return row
