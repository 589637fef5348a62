"""Some of the samples, spread over all of them: data is often stored class after class."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from qviz.collate import Batch
from qviz.data import Data


def drawn(data: Data, count: int, *, seed: int, size: int) -> Iterator[Batch]:
    """``count`` samples chosen at random, all if there are no more, in their order.

    Args:
        data: samples.
        count: how many.
        seed: of the choice.
        size: samples per batch; batches may be smaller.
    """
    if count >= data.count:
        yield from data.batches(size)
        return
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(data.count, dtype=torch.bool)
    chosen[torch.randperm(data.count, generator=generator)[:count]] = True
    first = 0
    # read in larger pieces, so that what remains of a piece is a batch
    for batch in data.batches(-(-size * data.count // count)):
        rows = chosen[first : first + batch.size].nonzero().flatten()
        first += batch.size
        if len(rows):
            yield rows_of(batch, rows)


def rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    """The samples of the given numbers, without targets."""
    args = tuple(x[rows] for x in batch.args)
    return Batch(args, {k: x[rows] for k, x in batch.kwargs.items()}, None, len(rows))
