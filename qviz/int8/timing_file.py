"""``bench.json`` in a checkpoint folder: what was timed or estimated of its program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from qviz.bench import FORMAT, VERSION, Bench
from qviz.errors import CheckpointError, TuneError
from qviz.int8.folder import unwritable
from qviz.search.allocation_problem import Times
from qviz.search.latency import times_of
from qviz.search.widths import Layer, Width
from qviz.store_files import replace_file

BENCH = "bench.json"


def write_benches(folder: Path, benches: Sequence[Bench]) -> None:
    """Keep benches in a folder beside those of other devices; those of another program are dropped.

    Raises:
        CheckpointError: the file cannot be written.
    """
    programs = {bench.program for bench in benches}
    anew = {_key(b): b for b in benches}
    known = {_key(b): b for b in _known(folder) if b.program in programs}
    kept = {key: b for key, b in known.items() if key not in anew} | anew  # the newest are last
    content = {
        "format": FORMAT,
        "version": VERSION,
        "benches": [bench.to_json() for bench in kept.values()],
    }
    path = folder / BENCH
    try:
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as failure:
        raise unwritable(path, failure) from failure


def read_benches(folder: Path) -> tuple[Bench, ...]:
    """The benches of a folder, oldest first; empty if there are none.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    path = folder / BENCH
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT or found["version"] != VERSION:
            raise ValueError(found["version"])
        return tuple(Bench.from_json(value) for value in found["benches"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise CheckpointError(
            str(path), "it is damaged, or of another version", "Delete it and run qviz bench again"
        ) from failure


def times_in(
    folders: Mapping[Width, Path], layers: Sequence[Layer], widths: Sequence[Width]
) -> Times:
    """The table from folders that ``qviz bench`` timed, one for each width.

    Args:
        folders: checkpoints with everything at that width.
        layers: what gets a width.
        widths: those offered; folders of others are not looked at any closer.

    Raises:
        TuneError: a folder does not exist, has no measured times or not those of a layer, or they
            were not timed on the same device.
    """
    found: dict[Width, dict[str, Bench]] = {}
    for width, folder in folders.items():
        if not folder.is_dir():
            raise TuneError(f"times at {width}", f"{folder} is no folder", "Name a checkpoint")
        benches = [bench for bench in read_benches(folder) if not bench.estimated]
        if not benches:
            raise TuneError(f"times in {folder}", "there are none", f"Run qviz bench {folder}")
        found[width] = {bench.device: bench for bench in benches}
    first, *others = found.values()
    shared = [device for device in first if all(device in other for other in others)]
    if not shared:
        names = ", ".join(f"{w} on {' and '.join(of)}" for w, of in found.items())
        raise TuneError("times", f"are of different devices: {names}", "Time all on the same one")
    newest = {w: found[w][shared[-1]] for w in widths if w in found}
    return times_of(newest, layers, first[shared[-1]].batches[0])


def _known(folder: Path) -> tuple[Bench, ...]:
    try:
        return read_benches(folder)
    except CheckpointError:
        return ()  # nothing in it can be kept; it is replaced


def _key(bench: Bench) -> tuple[object, ...]:
    return (bench.estimated, bench.device, bench.float_type, bench.threads)
