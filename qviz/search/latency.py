"""Seconds of each layer at each width, from the times of programs at those widths.

``qviz bench`` times one program. The times of a checkpoint at 8 bits, one at 4 and so on make the
table that a limit on latency needs. qviz's own kernels compute narrower codes as int8, so there the
times differ little; on an engine with 4-bit kernels they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qviz.bench import Bench
from qviz.errors import TuneError
from qviz.search.allocation_problem import Times
from qviz.search.widths import Layer, Width


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
