"""Seconds of each layer at each width, from the times of programs at those widths.

``qviz bench`` times one program. The times of a checkpoint at 8 bits, one at 4 and so on make the
table that a limit on latency needs. qviz's own kernels compute narrower codes as int8, so there the
times differ little; on an engine with 4-bit kernels they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qviz.bench import Bench
from qviz.errors import TuneError
from qviz.int8.timing_file import read_benches
from qviz.search.allocation_problem import Times
from qviz.search.widths import Layer, Width


def times_in(
    folders: Mapping[Width, Path], layers: Sequence[Layer], widths: Sequence[Width]
) -> Times:
    """The table from folders that ``qviz bench`` timed, one for each width.

    Args:
        folders: checkpoints with everything at that width.
        layers: what gets a width.
        widths: those offered; folders of others are not looked at any closer.

    Raises:
        TuneError: a folder has no measured times, or not those of a layer.
    """
    found: dict[Width, Bench] = {}
    for width, folder in folders.items():
        benches = [bench for bench in read_benches(folder) if not bench.estimated]
        if not benches:
            raise TuneError(f"times in {folder}", "there are none", f"Run qviz bench {folder}")
        found[width] = benches[-1]
    batch = next(iter(found.values())).batches[0]
    return times_of({w: found[w] for w in widths if w in found}, layers, batch)


def times_of(benches: Mapping[Width, Bench], layers: Sequence[Layer], batch: int = 1) -> Times:
    """The table of seconds for one batch of samples.

    Args:
        benches: the times of a program with everything at that width.
        layers: what gets a width.
        batch: samples per run.

    Raises:
        TuneError: a program was not timed at that batch size, or a layer has no row in it.
    """
    found: dict[str, dict[Width, float]] = {layer.name: {} for layer in layers}
    for width, bench in benches.items():
        if batch not in bench.batches:
            sizes = ", ".join(map(str, bench.batches)) or "none"
            raise TuneError(
                f"times at {width}",
                f"are not of batch {batch} but of {sizes}",
                f"Run qviz bench --batch {batch}",
            )
        micros: dict[str, float] = {}
        for row in bench.of(batch):
            micros[row.op] = micros.get(row.op, 0.0) + row.cost_us
        for layer in layers:
            missing = [op for op in layer.ops if op not in micros]
            if missing:
                raise TuneError(
                    f"times at {width}",
                    f"have no row for {missing[0]}",
                    "Bench a checkpoint of this model with that op quantized",
                )
            found[layer.name][width] = sum(micros[op] for op in layer.ops) * 1e-6
    return found
