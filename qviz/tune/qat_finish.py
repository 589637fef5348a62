"""From a trained QATModel back to weights and a recipe."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qviz.errors import TuneError
from qviz.execute import Program
from qviz.graph import Graph
from qviz.recipe import TensorRange
from qviz.tune.qat_model import QATModel
from qviz.tune.qat_options import FROZEN_BATCH_NORM, LEARNED_RANGES
from qviz.tune.qat_ranges import WeightStep
from qviz.tune.step import Change, Step
from qviz.weights import TunedWeights


def finish(model: QATModel) -> Step:
    """What training changed: weights, biases, and ranges and weight limits if they were learned.

    Simulating the recipe with the weights gives what ``model`` gives without gradients, bit for
    bit; so does everything that is exported and certified from it.

    Returns:
        Weights relative to ``model.graph``, and ``model.recipe`` with the learned ranges. The model
        can be trained on afterwards.

    Raises:
        TuneError: a weight or a range is NaN, or a range is none.
    """
    before = Program(model.graph, plain=True)
    values = {n: _copied(n, v) for n, v in model.tuned().items()}
    changed = {n: v for n, v in values.items() if not torch.equal(v, before.parameter(n).cpu())}
    ranges, limits = model.ranges(), model.limits()
    recipe = replace(
        model.recipe, ranges=tuple(ranges.get(r.tensor, r) for r in model.recipe.ranges)
    )
    readers = _readers(model.graph)
    changes = [
        _weight_row(readers.get(n, n), n, v, before.parameter(n)) for n, v in changed.items()
    ]
    changes += [_range_row(model.recipe.range_of[t], r) for t, r in ranges.items()]
    changes += [_limit_row(m) for m in model.learned.values() if isinstance(m, WeightStep)]
    graph = model.graph
    normed = graph.folded or any(op.type == "batch_norm" for op in graph.ops.values())
    notes = [FROZEN_BATCH_NORM] if normed else []
    notes += [LEARNED_RANGES] if ranges else []
    return Step(recipe, TunedWeights(changed, {}, limits) or None, tuple(changes), tuple(notes))


def _copied(name: str, value: Tensor) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise TuneError(
            f"parameter {name}", "training made it NaN or infinite", "Lower the learning rate"
        )
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()


def _readers(graph: Graph) -> dict[str, str]:
    """Weight -> the first op that multiplies with it."""
    found: dict[str, str] = {}
    for operand in graph.operands.values():
        if operand.kind == "weight":
            found.setdefault(operand.tensor, operand.op)
    return found


def _weight_row(target: str, name: str, after: Tensor, before: Tensor) -> Change:
    norm = float(torch.linalg.vector_norm(before.double()))
    moved = float(torch.linalg.vector_norm(after.double() - before.double()))
    what = "bias" if name.endswith("bias") else "weight"
    return Change(target, what, 0.0, moved / norm if norm else moved, "relative change", name)


def _range_row(before: TensorRange, after: TensorRange) -> Change:
    return Change(before.tensor, "range", _amax(before), _amax(after), "amax", after.calibrator)


def _amax(chosen: TensorRange) -> float:
    return max(abs(chosen.lo), abs(chosen.hi))


def _limit_row(module: WeightStep) -> Change:
    return Change(module.operand, "limit", module.start, float(module.limit.max()), "amax", "lsq")
