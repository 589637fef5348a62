"""Check a step of tuning on calibration samples that no fit saw."""

from __future__ import annotations

from qviz.data import Batch, Data, as_data
from qviz.evaluate import outputs
from qviz.recipe import Recipe
from qviz.search.preparing import tuned_divergence
from qviz.tune.step import Subject
from qviz.weights import TunedWeights

#: Calibration samples, the last ones, that no fit sees and every step is checked on; at most a
#: quarter of them.
HELD_OUT = 128


class Check:
    """Divergence from float on calibration samples held out from every fit."""

    def __init__(self, subject: Subject, data: Data) -> None:
        self._subject, self._data = subject, data
        program = subject.original.program
        self._reference = outputs(program, data, batch_size=subject.batch_size)
        self.samples = data.count

    def __call__(self, recipe: Recipe, weights: TunedWeights) -> float:
        """Of a recipe with weights tuned relative to the subject's graph."""
        return tuned_divergence(self._subject, recipe, weights, self._data, self._reference)


def divided(data: Data, held_out: int = HELD_OUT) -> tuple[Data, Data]:
    """Samples to fit on and the last ones, at most a quarter, to check on.

    One sample alone cannot be divided and is both.
    """
    kept = min(held_out, max(1, data.count // 4))
    if data.count < 2:
        return data, data
    fit: list[Batch] = []
    check: list[Batch] = []
    for batch in data.batches(kept):
        left = data.count - kept - sum(b.size for b in fit)
        if left > 0:
            fit.append(batch.rows(0, left))
        if batch.size > left:
            check.append(batch.rows(max(0, left), batch.size))
    return as_data(fit, f"{data.name}, first"), as_data(check, f"{data.name}, last")
