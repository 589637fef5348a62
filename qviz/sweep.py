"""Run many variants of a recipe that each differ from a base only from some op on.

The base runs once per shard of the data and leaves every value behind; a variant then starts at
the first op it changes, so it costs the suffix only. A shard is as many batches as fit the memory
budget. Within a shard the variants run in the order asked for, so the interesting ones come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from qviz.data import Batch, Data
from qviz.evaluate import first_output
from qviz.execute import Edits
from qviz.simulate import Simulator, first_difference


@dataclass(frozen=True, eq=False)
class Part:
    """Outputs of one variant for the samples ``start`` to ``start + len(values)``."""

    key: str
    start: int
    values: Tensor


@dataclass(frozen=True, eq=False)
class _Prefix:
    batch: Batch
    values: list[Any]
    outputs: Tensor


def sweep(
    simulator: Simulator,
    data: Data,
    base: Edits,
    variants: dict[str, Callable[[], Edits]],
    *,
    batch_size: int,
    budget: int,
    order: Callable[[], Sequence[str]],
    finished: Callable[[str, int], bool],
) -> Iterator[Part]:
    """Yield the outputs of every variant, shard by shard.

    Args:
        simulator: the captured model.
        data: the samples.
        base: edits the prefix is run with.
        variants: key -> its edits, made when needed.
        batch_size: samples per forward pass; smaller if one batch alone exceeds the budget.
        budget: bytes of kept values per shard.
        order: asked at the start of each shard for the keys in the order to run them.
        finished: (key, start) -> whether that part is known already and can be left out.
    """
    program = simulator.program
    size = _batch_size(simulator, data, base, batch_size, budget)
    start = 0
    for shard in _shards(simulator, data, base, size, budget):
        todo = [key for key in order() if not finished(key, start)]
        for key in todo:
            edits = variants[key]()
            first = first_difference(base, edits)
            rows = []
            for prefix in shard:
                if first is None:
                    rows.append(prefix.outputs)
                    continue
                made = program.run(list(prefix.values), edits, start=first)
                rows.append(first_output(made, prefix.batch.size, program))
            yield Part(key, start, torch.cat(rows))
        start += sum(p.batch.size for p in shard)


def _run_base(simulator: Simulator, batch: Batch, base: Edits) -> _Prefix:
    values = simulator.program.inputs(batch)
    made = simulator.program.run(values, base, keep=True)
    return _Prefix(batch, values, first_output(made, batch.size, simulator.program))


def _shards(
    simulator: Simulator, data: Data, base: Edits, size: int, budget: int
) -> Iterator[list[_Prefix]]:
    shard: list[_Prefix] = []
    room = 0
    for batch in data.batches(size):
        if shard and room <= 0:
            yield shard
            shard = []
        prefix = _run_base(simulator, batch, base)
        if not shard:
            room = budget
        shard.append(prefix)
        # room for another batch of the same size must be left, else the next would exceed it
        used = _bytes(prefix.values, simulator)
        room -= used
        if room < used:
            room = 0
    if shard:
        yield shard


def _batch_size(simulator: Simulator, data: Data, base: Edits, wanted: int, budget: int) -> int:
    """``wanted``, or as many samples as the budget holds, at least one."""
    one = next(iter(data.head(1).batches(1)))
    per_sample = _bytes(_run_base(simulator, one, base).values, simulator)
    return max(1, min(wanted, budget // max(1, per_sample)))


def _bytes(values: list[Any], simulator: Simulator) -> int:
    """Memory of the kept values; views share theirs, parameters are not counted."""
    seen: dict[int, int] = {}
    for step in simulator.program.steps:
        for leaf in pytree.tree_leaves(values[step.slot]):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())
