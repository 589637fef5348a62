"""One pass over the data -> the histogram of every activation tensor that an int8 op reads.

The samples run in chunks of a fixed size, whatever batches the user made, and the last chunk is
filled up by repeating samples that are then not counted: a kernel may round a sample differently
in a batch of another size, and ranges must not depend on that. Histograms merge exactly, so the
result is also the same for any order of the samples and any number of workers. Where a tensor
cannot be cut into samples (two batches stacked into one), the samples run one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from qviz.data import Batch, Data
from qviz.errors import DataError, NotFiniteError
from qviz.execute import Program
from qviz.graph import Graph, TensorInfo
from qviz.histogram import Collector, Histogram, merge
from qviz.progress import OnProgress, Reporter

# Few enough for an activation to be in the cache still when it is counted and read by the next op,
# and below the size from which the C library gets each block fresh from the system, to be cleared.
CHUNK = 16


def observe(
    program: Program,
    data: Data,
    *,
    chunk: int = CHUNK,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> dict[str, Histogram]:
    """Run the float model over ``data`` and collect the histogram of each observed tensor.

    Args:
        program: the captured model.
        data: calibration samples; targets are ignored.
        chunk: samples per forward pass. Part of the result's identity: kernels may round
            differently at another size.
        workers: threads that collect; None is one per torch thread. Does not change the result.
        progress: told after each chunk.

    Returns:
        Tensor name -> histogram, in execution order.

    Raises:
        DataError: there are no samples, or the model has nothing to quantize.
        NotFiniteError: an activation is NaN or infinite; the first such tensor is named.
    """
    graph = program.graph
    _check_quantizable(graph)
    workers = workers or torch.get_num_threads()
    watched = {program.slot_of_tensor[name]: graph.tensors[name] for name in graph.observed}
    parts = {
        name: [_collector(graph.tensors[name]) for _ in range(workers)] for name in graph.observed
    }
    if any(info.batch_dim is None for info in watched.values()):
        chunk = 1
    report = Reporter("calibrate", data.count, progress)
    with _pool(workers) as pool:
        for batch in data.batches(chunk):
            full = _filled(batch, chunk) if data.count > chunk else batch

            def watch(slot: int, value: Tensor, size: int = batch.size) -> None:
                info = watched.get(slot)
                if info is not None:
                    _collect(value, info, size, parts[info.name], pool)

            program.run(program.inputs(full), watch=watch)
            report.step(data.name, batch.size)
    result = {}
    for name, collectors in parts.items():
        histogram = collectors[0].histogram()
        for other in collectors[1:]:
            histogram = merge(histogram, other.histogram())
        result[name] = histogram
    _check_finite(result)
    return result


def _collector(info: TensorInfo) -> Collector:
    return Collector(info.channel_dim, info.batch_dim)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor | None]:
    if workers == 1:
        yield None
        return
    with ThreadPoolExecutor(workers) as pool:
        yield pool


def _collect(
    value: Tensor,
    info: TensorInfo,
    samples: int,
    collectors: list[Collector],
    pool: ThreadPoolExecutor | None,
) -> None:
    axis, multiple = info.batch_dim, info.batch_multiple
    if axis is None or pool is None:
        kept = value if axis is None else value.narrow(axis, 0, samples * multiple)
        collectors[0].update(kept)
        return
    bounds = [samples * i // len(collectors) for i in range(len(collectors) + 1)]
    tasks = [
        pool.submit(c.update, value.narrow(axis, a * multiple, (b - a) * multiple))
        for c, a, b in zip(collectors, bounds, bounds[1:], strict=False)
        if b > a
    ]
    for task in tasks:
        task.result()


def _filled(batch: Batch, size: int) -> Batch:
    """The batch with its samples repeated up to ``size``."""
    if batch.size == size:
        return batch
    rows = torch.arange(size) % batch.size
    args = tuple(x[rows] for x in batch.args)
    return Batch(args, {k: v[rows] for k, v in batch.kwargs.items()}, None, size)


def _check_quantizable(graph: Graph) -> None:
    if not graph.observed:
        raise DataError(
            graph.name,
            "it has no op that int8 arithmetic exists for",
            "Look at its coverage with qviz info",
        )


def _check_finite(histograms: dict[str, Histogram]) -> None:
    for name, histogram in histograms.items():
        bad = histogram.nans + histogram.infs
        if bad:
            raise NotFiniteError(
                f"tensor {name}",
                f"{bad} of {histogram.size} values are NaN or infinite in the float model",
                "Find the op that makes them; a range needs finite values",
            )
