"""Read a run folder while another process writes to it, as the app does while it is open."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qviz import store_lock
from qviz.cli_progress import Meter
from qviz.errors import RunFolderError


@contextlib.contextmanager
def free(folder: Path, meter: Meter) -> Iterator[Path]:
    """The run folder itself, or a copy of it while another process has it.

    Everything measured is in the copy; what is measured on top of it is not kept.
    """
    try:
        store_lock.release(folder, store_lock.acquire(folder))
    except OSError:  # whoever opens it says why
        yield folder
        return
    except RunFolderError:
        pass
    else:
        yield folder
        return
    meter.warn(
        [f"{folder}: another process, perhaps the app, has it open; this works on a copy of it"]
    )
    with tempfile.TemporaryDirectory(prefix="qviz-") as beside:
        copy = Path(beside) / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            if path.is_file() and path.name != store_lock.NAME:
                with contextlib.suppress(FileNotFoundError):  # a temporary file of the other
                    shutil.copy2(path, copy)
        yield copy
