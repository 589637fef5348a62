"""A program with all samples in memory, advanced op by op.

The untouched float model and the subject go side by side, so one pass serves every unit. In
sequential mode each unit reads what the units tuned before it make (Hubara et al. 2021, section 3,
``--seq_adaquant`` in CalibTIP), in parallel mode what the float model gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qviz.collate import Batch
from qviz.execute import Edit, Edits, Program, fill


class Walk:
    """One program over all batches, up to a step.

    Attributes:
        program: what runs.
        values: of each batch, by slot.
        samples: in all batches.
    """

    def __init__(self, program: Program, edits: Edits, batches: Sequence[Batch]) -> None:
        self.program = program
        self.values = [program.inputs(b) for b in batches]
        self.samples = sum(b.size for b in batches)
        self._edits: dict[int, list[tuple[int, Edit]]] = {k: list(v) for k, v in edits.items()}
        self._next = 0

    def reach(self, stop: int) -> None:
        """Run every step before ``stop`` that has not run."""
        with torch.no_grad():
            while self._next < stop:
                step = self.program.steps[self._next]
                for values in self.values:
                    args, kwargs = fill(step, values)
                    args = edited(args, self._edits.get(self._next, ()))
                    values[step.slot] = step.target(*args, **kwargs)
                    for slot in step.frees:
                        if slot != step.slot:
                            values[slot] = None
                self._next += 1

    def replace(self, step: int, position: int, edit: Edit) -> None:
        """Edit an argument of a step that has not run."""
        kept = [(p, e) for p, e in self._edits.get(step, ()) if p != position]
        self._edits[step] = [*kept, (position, edit)]


def edited(args: Sequence[Any], edits: Sequence[tuple[int, Edit]]) -> list[Any]:
    """Arguments with some replaced; a bias may be one that the call does not give."""
    new = list(args)
    for position, edit in edits:
        new += [None] * (position + 1 - len(new))
        new[position] = edit if isinstance(edit, Tensor) else edit(new[position])
    return new
