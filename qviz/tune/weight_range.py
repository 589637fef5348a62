"""Weight range search: the clip range of each output channel with the least squared error.

A weight's range is its largest magnitude unless something better is known. With many codes that is
best or nearly so (Wu et al. 2020, section 3.3); with few, a smaller range that clips the largest
weights leaves less error. What error, is the question:

* ``weights``: ||W - Q(W)||^2, as in the starting grids of AdaRound (Nagel et al. 2020) and LAPQ
  (Nahshan et al. 2021). It takes every weight for independent, but clipping shrinks the largest
  weights of a channel all alike, and behind a ReLU that adds up in the output;
* ``outputs``: ||(W - Q(W)) x||^2 over calibration samples, the same with what the op really reads,
  where that has rows each by what it does to the model's output.
  This is the local loss of AdaRound (eq. 13) and AdaQuant, over the range alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qviz.affine import Grid, QuantParams, fake_quantize, symmetric_params, weight_params
from qviz.errors import TuneError
from qviz.graph import Operand, TensorInfo
from qviz.progress import Reporter
from qviz.recipe import resolve
from qviz.rewrite import get_attr
from qviz.tune.importance import Importance, rows_that_count
from qviz.tune.lockstep import Lockstep, batches_that_fit, counted_in, output_axis
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import TunedWeights

OPTIONS = (
    Option(
        "error",
        "outputs",
        "of the op's outputs over calibration samples, or of the weights themselves",
        choices=("outputs", "weights"),
    ),
    Option("samples", 32, "calibration samples for the error of the outputs", 1),
)

Errors = Callable[[QuantParams], Tensor]

#: Parts of the largest magnitude that are tried first, and how far around the best ones after.
_COARSE = tuple(0.05 * i for i in range(4, 21))
_FINE = tuple(0.01 * i for i in (-4, -3, -2, -1, 1, 2, 3, 4))
#: A range is only changed if that takes at least this part off the error.
_WORTH = 1e-3
UNIT = "error / power of the {}"


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with an int8 weight, those that lose most of it under their range of now first."""
    losses = {o.op: _loss(subject, o) for o in _weights(subject)}
    return tuple(sorted(losses, key=lambda op: -losses[op]))


def _weights(subject: Subject) -> tuple[Operand, ...]:
    decisions = resolve(subject.recipe, subject.graph)
    return tuple(
        o
        for o in subject.graph.operands.values()
        if o.kind == "weight" and decisions[o.name].int8 and subject.wants(o.op)
    )


def _loss(subject: Subject, operand: Operand) -> float:
    value = get_attr(subject.graph.module, operand.tensor)
    error = weight_error(value, _params(subject, operand))
    return float(error.sum() / value.double().square().sum().clamp(min=1e-30))


def _params(subject: Subject, operand: Operand) -> QuantParams:
    bits = resolve(subject.recipe, subject.graph)[operand.name].bits
    return subject.simulator.weight(operand, bits, subject.recipe.per_channel)[0]


def apply(subject: Subject, *, error: str = "outputs", samples: int = 32) -> Step:
    """Search the range of every int8 weight at its bit width.

    Args:
        subject: what to tune; weights and activation ranges stay as they are.
        error: ``outputs`` or ``weights``.
        samples: calibration samples at most, for ``outputs``.

    Raises:
        TuneError: no weight is int8.
    """
    found = _weights(subject)
    if not found:
        raise TuneError("weight range search", "no weight is int8", "Make a conv or linear int8")
    program, used = subject.simulator.program, 0
    notes: list[str] = []
    report = Reporter("weight ranges", len(found), subject.progress)
    if error == "outputs":
        batches, short = batches_that_fit(subject, samples)
        notes += [short] if short else []
        used = sum(b.size for b in batches)
        running = Lockstep(program, {}, batches)
        counted, alike = counted_in(subject, [o.op for o in found], batches, report)
        notes += [alike] if alike else []
    decisions = resolve(subject.recipe, subject.graph)
    limits: dict[str, dict[int, Tensor]] = {}
    changes, kept = [], 0
    for operand in found:
        value = program.parameter(operand.tensor)
        now, power = _params(subject, operand), float(value.double().square().sum())
        errors: Errors = partial(weight_error, value)
        if error == "outputs":
            rows = partial(
                _weighed,
                info=subject.graph.tensors[operand.op],
                importance=counted.get(operand.op),
            )
            axis = output_axis(subject.graph, operand.op)
            outputs = _Outputs(running, operand, value, axis, rows)
            errors, power = outputs.error, outputs.power
        bits = decisions[operand.name].bits
        amax, before, after = search(errors, now, bits, weight_params(value, bits, now.axis))
        if after < (1 - _WORTH) * before:
            limits[operand.name] = {bits: amax.float()}
            ends, unit = (before / power, after / power), UNIT.format(error)
            changes.append(Change(operand.name, "limit", *ends, unit))
        else:
            kept += 1
        report.step(operand.op)
    if kept:
        notes.append(f"{kept} of {len(found)} weights already have the range of least error")
    weights = TunedWeights(limits=limits) if limits else None
    return Step(subject.recipe, weights, tuple(changes), tuple(notes), {"samples": used})


def search(
    errors: Errors, now: QuantParams, bits: int, widest: QuantParams
) -> tuple[Tensor, float, float]:
    """The range of least error, for every channel by itself where ``now`` is per channel.

    Parts of the widest range from a fifth to all of it, then finer steps around the best; the range
    of now is one of them, so no channel's error grows.

    Args:
        errors: squared error under a grid, ``[C]`` or 0-d.
        now: the grid as it is.
        bits: its width.
        widest: the grid up to the largest magnitude.

    Returns:
        Amax float64 ``[C]`` or 0-d, and the summed error before and after.
    """
    grid = Grid(bits, narrow=True)
    most = widest.scale.double() * widest.quant_max
    best = now.scale.double() * now.quant_max
    least = before = errors(now)
    for factors in (_COARSE, _FINE):
        centre = torch.zeros_like(best) if factors is _COARSE else best
        for factor in factors:
            amax = (centre + most * factor).clamp(min=0.0)
            error = errors(symmetric_params(amax, grid, now.axis))
            better = error < least
            best, least = torch.where(better, amax, best), torch.where(better, error, least)
    return best, float(before.sum()), float(least.sum())


def weight_error(value: Tensor, params: QuantParams) -> Tensor:
    """Summed squared rounding error of a weight, float64: ``[C]`` per channel, else 0-d."""
    return _by_channel([fake_quantize(value, params) - value], params.axis, params.axis)


class _Outputs:
    """The error that rounding one weight makes in its op's outputs.

    Attributes:
        power: summed squared outputs, without the bias.
    """

    def __init__(
        self,
        running: Lockstep,
        operand: Operand,
        value: Tensor,
        axis: int,
        rows: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    ) -> None:
        self._rows = rows
        self._calls = running.arguments(operand.op)
        self._target = running.target(operand.op)
        self._position, self._value, self._axis = operand.position, value, axis
        # a product with nothing is the bias, which has no part in the error
        self._bias = self._made(torch.zeros_like(value))
        outputs = (y - b for y, b in zip(self._made(value), self._bias, strict=True))
        self.power = max(float(_by_channel(list(outputs), axis, None)), 1e-30)

    def error(self, params: QuantParams) -> Tensor:
        """Summed squared error over the samples, float64: ``[C]`` per channel, else 0-d."""
        made = self._made(fake_quantize(self._value, params) - self._value)
        lost = [y - b for y, b in zip(made, self._bias, strict=True)]
        return _by_channel(lost, self._axis, params.axis)

    def _made(self, weight: Tensor) -> Sequence[Tensor]:
        outputs = []
        with torch.no_grad():
            for args, kwargs in self._calls:
                changed: list[Any] = list(args)
                changed[self._position] = weight
                outputs.append(self._target(*changed, **kwargs))
        return self._rows(outputs)


def _weighed(
    outputs: Sequence[Tensor], info: TensorInfo, importance: Sequence[Importance] | None
) -> Sequence[Tensor]:
    """Rows whose squares are what they count."""
    rows, weights = rows_that_count(outputs, info, importance)
    if weights is None:
        return rows
    return [r * w.sqrt()[:, None] for r, w in zip(rows, weights, strict=True)]


def _by_channel(parts: Sequence[Tensor], axis: int | None, kept: int | None) -> Tensor:
    """Summed squares over all parts: of every channel along ``axis`` if one is kept, else all."""
    if kept is None or axis is None:
        return torch.stack([p.square().sum(dtype=torch.float64) for p in parts]).sum()
    sums = []
    for part in parts:
        others = [d for d in range(part.dim()) if d != axis % part.dim()]
        sums.append(part.square().sum(others, dtype=torch.float64))
    return torch.stack(sums).sum(0)
