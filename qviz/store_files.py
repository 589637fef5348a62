"""Files that a killed process or a full disk cannot leave half written.

A whole file is written beside the old one and takes its place in one step. A row is added as one
line; what half a line at the end may be is not read, and is cut off before the next one is added.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

from qviz.errors import RunFolderError

#: How the name of a file that is being written begins.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what the disk says into one line."""
    try:
        yield
    except OSError as failure:
        why = (failure.strerror or str(failure) or type(failure).__name__).lower()
        raise RunFolderError(
            str(path),
            f"it cannot be read or written ({why})",
            "Free some space or name another run folder; what was finished is kept",
        ) from failure
    except (ValueError, EOFError, zipfile.BadZipFile) as failure:
        raise RunFolderError(
            str(path), "the file is damaged", "Delete it to compute it again"
        ) from failure


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file in one step: afterwards it holds either the old or the new content.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    beside = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append_line(path: Path, line: bytes, *, known_whole: bool) -> None:
    """Add a line and flush it to disk.

    Args:
        path: of the file, made if there is none.
        line: with its line break.
        known_whole: the file is known to end with a whole line; otherwise half a line at its end
            is looked for and cut off.

    Raises:
        OSError: it cannot be written; the lines before it are as they were.
    """
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = os.lseek(handle, 0, os.SEEK_END)
        if not known_whole:
            end = _whole(path.read_bytes())
            os.ftruncate(handle, end)
        _write_at(handle, line, end)
    finally:
        os.close(handle)
    if new:
        _sync_folder(path.parent)


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file without their breaks, without half a line at the end."""
    content = path.read_bytes() if path.exists() else b""
    return content[: _whole(content)].split(b"\n")[:-1]


def _write_at(handle: int, line: bytes, end: int) -> None:
    """Write ``line`` at ``end`` and flush it; on failure the file is as it was."""
    try:
        os.lseek(handle, end, os.SEEK_SET)
        left = memoryview(line)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, end)
        raise


def _whole(content: bytes) -> int:
    """Length of the content up to the last whole line."""
    end = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    # A power cut may leave a last line of the right length with nothing in it.
    if end and content[last:end].strip(b"\0\n") == b"":
        return last
    return end


def _sync_folder(folder: Path) -> None:
    """Flush the new directory entry; some systems cannot open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
