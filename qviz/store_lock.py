"""One writer per run folder: a lock file that says who has it.

A process that is killed leaves its lock behind. The next one sees that the process of that number
is gone, or is another one started later, and takes the lock over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import uuid
from pathlib import Path

from qviz.errors import RunFolderError

NAME = "lock.json"
#: A lock without an owner in it is being written just now, unless it is older than this (seconds).
_WRITING = 10.0


def acquire(folder: Path) -> str:
    """Take the lock of ``folder``; returns the token to give it back with.

    Raises:
        RunFolderError: another process that is alive has it.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    token = uuid.uuid4().hex
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _started(os.getpid()),
        "token": token,
    }
    for _ in range(3):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _clear_stale(path, folder)
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(owner, file)
        return token
    raise RunFolderError(
        str(folder), "another process took its lock at the same time", "Try again in a moment"
    )


def release(folder: Path, token: str) -> None:
    """Give the lock back, if it is still ours."""
    path = folder / NAME
    owner = _owner(path)
    if owner.get("token") == token and owner.get("pid") == os.getpid():
        with contextlib.suppress(OSError):
            path.unlink()


def is_ours(folder: Path, token: str) -> bool:
    """Whether the lock is held with this token."""
    return _owner(folder / NAME).get("token") == token


def _clear_stale(path: Path, folder: Path) -> None:
    """Remove the lock if its owner is gone; raise if it is not."""
    owner = _owner(path)
    if not owner:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _WRITING:
                path.unlink()
                return
            time.sleep(0.05)
        return
    pid, host = owner.get("pid"), owner.get("host")
    if host == socket.gethostname():
        if not isinstance(pid, int) or not _alive(pid, owner.get("started")):
            # Between reading and removing, another process may have done the same and locked.
            if _owner(path) == owner:
                path.unlink(missing_ok=True)
            return
        cure = "Wait for it to end or stop it, or name another run folder"
    else:
        cure = f"Wait for it to end; if it is not running any more, delete {path}"
    raise RunFolderError(str(folder), f"process {pid} on {host} is writing to it", cure)


def _owner(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _alive(pid: int, started: object) -> bool:
    if sys.platform == "win32":  # os.kill(pid, 0) ends the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's, so it exists
        pass
    now = _started(pid)
    return started is None or now is None or started == now


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where /proc does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        # The command in parentheses may contain spaces; what follows it does not.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
