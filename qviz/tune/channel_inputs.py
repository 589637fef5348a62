"""What linear ops read in the float model: a few rows of each input, and how large channels get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qviz.tune.channel_groups import Group
from qviz.tune.samples import drawn
from qviz.tune.scaled_weight import absolute_max
from qviz.tune.step import Subject
from qviz.weights import weight_of


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of linear ops over some calibration samples.

    Attributes:
        samples: how many.
        rows: some rows of each op's input, drawn evenly from all samples, ``[n, C]``.
        maxima: largest magnitude of each of its channels over all rows, ``[C]``.
    """

    samples: int
    rows: Mapping[str, Tensor]
    maxima: Mapping[str, Tensor]

    def largest(self, group: Group) -> Tensor:
        """Largest magnitude of each channel of a group, float64 ``[channels]``."""
        found = torch.zeros(group.channels, dtype=torch.float64)
        for reader, where in group.readers:
            mine = where >= 0
            seen = self.maxima[reader.op][mine].double()
            found.scatter_reduce_(0, where[mine], seen, "amax")
        return found


def inputs_of(
    subject: Subject, groups: Sequence[Group], *, samples: int, rows: int = 2048
) -> Inputs:
    """Run the float model and keep what the readers of some groups read.

    Args:
        subject: its calibration data, drawn by its seed.
        groups: whose readers, all of them linear.
        samples: at most this many.
        rows: of each input at most about this many are kept.
    """
    program, data = subject.simulator.program, subject.calibration
    count = min(samples, data.count)
    readers: dict[int, list[str]] = {}
    for op in dict.fromkeys(r.op for g in groups for r, _ in g.readers):
        weight = weight_of(subject.graph, op)
        assert weight is not None
        operands = subject.graph.ops[op].operands
        position = next(o.position for o in operands if o.kind == "activation")
        slot = program.steps[program.step_of_op[op]].args[position].index
        readers.setdefault(slot, []).append(op)
    kept: dict[int, list[Tensor]] = {slot: [] for slot in readers}
    maxima: dict[int, Tensor] = {}
    generator = torch.Generator().manual_seed(subject.seed)
    share = rows / count
    size = 0

    def watch(slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        if slot not in readers:
            return
        flat = value.reshape(-1, value.shape[-1])
        most = absolute_max(flat, 1)
        maxima[slot] = torch.maximum(most, maxima.get(slot, most))
        some = torch.randperm(len(flat), generator=generator)[: max(1, round(share * size))]
        kept[slot].append(flat[some].clone())

    for batch in drawn(data, count, seed=subject.seed, size=subject.batch_size):
        size = batch.size
        program.run(program.inputs(batch), watch=watch)
    every = [(op, slot) for slot, ops in readers.items() for op in ops]
    return Inputs(
        count,
        {op: torch.cat(kept[slot]) for op, slot in every},
        {op: maxima[slot] for op, slot in every},
    )
