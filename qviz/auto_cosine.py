"""AMCT's ranking: how far each op's output turns when its own operands are int8.

Every op gets the float model's inputs, so one float pass and one more of each op are all it costs.
It says how large an op's own error is, not what becomes of it on the way to the output; the
sensitivity of ``sensitivity.py`` measures that.

Source: AMCT, ``sensitivity="CosineSimilarity"`` of ``accuracy_based_auto_calibration``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qviz.data import Data
from qviz.execute import apply_edits, fill
from qviz.progress import OnProgress, Reporter
from qviz.recipe import Recipe
from qviz.sensitivity import targets_of
from qviz.simulate import Simulator

#: Elements that are summed in double precision at a time.
_CHUNK = 1 << 20


def similarities(
    simulator: Simulator,
    recipe: Recipe,
    data: Data,
    *,
    batch_size: int,
    progress: OnProgress | None = None,
) -> dict[str, float]:
    """``0.5 + 0.5 cos`` of float and fake-quantized output, mean over the batches.

    Args:
        simulator: of the model with the recipe's weights.
        recipe: which operands are int8.
        data: calibration samples; never the evaluation data.
        batch_size: samples whose outputs make one vector.
        progress: told after each batch.

    Returns:
        Op with int8 operands -> 0 (opposite) to 1 (the same direction), in execution order.
    """
    program, edits = simulator.program, simulator.edits(recipe)
    ops = list(targets_of(recipe, simulator.graph, operands="both", granularity="op"))
    sums = dict.fromkeys(ops, 0.0)
    report = Reporter("similarity", data.count, progress)
    batches = 0
    for batch in data.batches(batch_size):
        values = program.inputs(batch)
        program.run(values, keep=True)
        for name in ops:
            index = program.step_of_op[name]
            step = program.steps[index]
            args, kwargs = fill(step, values)
            with torch.no_grad():
                made = step.target(*apply_edits(args, edits[index]), **kwargs)
            sums[name] += similarity(values[step.slot], made)
        batches += 1
        report.step("", batch.size)
    return {name: total / batches for name, total in sums.items()}


def similarity(original: Tensor, quantized: Tensor) -> float:
    """``0.5 + 0.5 cos`` of two tensors taken as vectors.

    A float output of zeros cannot be made worse: 1. Zeros instead of a float output: 0.

    Args:
        original: float output, any shape.
        quantized: the same shape.
    """
    if not original.any():
        return 1.0
    if not quantized.any():
        return 0.0
    product = _dot(original, quantized)
    return 0.5 + 0.5 * product / math.sqrt(_dot(original, original) * _dot(quantized, quantized))


def _dot(a: Tensor, b: Tensor) -> float:
    pairs = zip(a.reshape(-1).split(_CHUNK), b.reshape(-1).split(_CHUNK), strict=True)
    return sum(float(torch.dot(x.double(), y.double())) for x, y in pairs)
