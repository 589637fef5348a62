"""Which tile sizes a kernel runs with: measured once per shape and GPU, and remembered on disk.

The first call of a kernel with a new shape runs every candidate for some milliseconds (and compiles
it, a second or two). What was found lies in ``$XDG_CACHE_HOME/qviz/int8_tiles.json`` (by default
in ``~/.cache``) with the name of the GPU and the version of Triton, and holds for all processes.
``QVIZ_INT8_TUNE=0`` measures nothing and takes the first candidate, as does a call while a CUDA
graph is being captured.

Sizes that vary from batch to batch are rounded up to a power of two in the key.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qviz.errors import QvizError
from qviz.store_files import replace_file

VARIABLE = "QVIZ_INT8_TUNE"
#: Of the file: another number is not read.
VERSION = 1
#: Milliseconds per candidate: before and while it is timed.
WARM, TIMED = 10, 30

log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """Sizes of a block of work and how many warps and pipeline stages share it."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    warps: int
    stages: int

    @property
    def sizes(self) -> dict[str, int]:
        """As the kernel's constants."""
        return dict(zip(self.names, self.values, strict=True))


def rounded_up(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()


def cache_file() -> Path:
    """Where measured tiles lie."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "qviz" / "int8_tiles.json"


_KNOWN: dict[str, tuple[int, ...]] = {}
_READ: set[Path] = set()


def forget() -> None:
    """Read the file again at the next use."""
    _KNOWN.clear()
    _READ.clear()


def _stored(path: Path) -> dict[str, tuple[int, ...]]:
    """The file's entries; none if it is not there, or not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["tiles"] if content["version"] == VERSION else {}
        return {str(k): tuple(int(n) for n in v) for k, v in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s: cannot be read (%s); tiles are measured again", path, error)
        return {}


def _write(path: Path) -> None:
    """Add what is known to the file; a cache that cannot be written is no reason to stop."""
    merged = {**_stored(path), **_KNOWN}
    text = json.dumps({"version": VERSION, "tiles": merged}, indent=1, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except (OSError, QvizError) as error:
        log.warning("%s: cannot be written (%s); tiles are measured again next time", path, error)


@cache
def _machine(index: int) -> str:
    import triton

    return f"{torch.cuda.get_device_name(index)}|triton {triton.__version__}"


def _line(tile: Tile) -> tuple[int, ...]:
    return (*tile.values, tile.warps, tile.stages)


def best(kernel: str, key: str, tiles: tuple[Tile, ...], run: Callable[[Tile], None]) -> Tile:
    """The fastest tile for a call on the current GPU.

    Args:
        kernel: its name.
        key: what of the call the choice depends on.
        tiles: candidates.
        run: runs the call with one of them; several times, so it must not change its own input.

    Returns:
        One of ``tiles``.
    """
    if len(tiles) == 1 or os.environ.get(VARIABLE) == "0":
        return tiles[0]
    path = cache_file()
    if path not in _READ:
        _READ.add(path)
        _KNOWN.update(_stored(path))
    name = f"{_machine(torch.cuda.current_device())}|{kernel}|{key}"
    known = _KNOWN.get(name)
    found = next((t for t in tiles if _line(t) == known), None)
    if found is not None:
        return found
    if torch.cuda.is_current_stream_capturing():
        return tiles[0]
    times = {tile: _time(run, tile) for tile in tiles}
    found = min(times, key=lambda t: times[t])
    if times[found] < float("inf"):
        _KNOWN[name] = _line(found)
        _write(path)
    return found


def _time(run: Callable[[Tile], None], tile: Tile) -> float:
    """Median milliseconds of a call; infinite if this GPU cannot hold the tile."""
    import triton
    from triton.runtime.errors import OutOfResources, PTXASError

    bench: Any = triton.testing.do_bench
    with contextlib.suppress(OutOfResources, PTXASError, torch.OutOfMemoryError):
        return float(bench(lambda: run(tile), warmup=WARM, rep=TIMED, return_mode="median"))
    return float("inf")
