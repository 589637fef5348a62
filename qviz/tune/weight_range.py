"""Weight range search: the clip range of each output channel with the least squared error.

A weight's range is its largest magnitude unless something better is known. With many codes that is
best or nearly so (Wu et al. 2020, section 3.3); with few, a smaller range that clips the largest
weights leaves less error. The search minimizes ||W - Q(W)||^2 per channel over the range, as the
starting grids of AdaRound (Nagel et al. 2020) and LAPQ (Nahshan et al. 2021) do. With
``weighing=inputs`` it minimizes the error of the output under independent inputs, sum_i E[x_i^2] (W - Q(W))_i^2: an input
channel that is mostly zero may be rounded badly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qviz.affine import Grid, QuantParams, fake_quantize, symmetric_params, weight_params
from qviz.errors import TuneError
from qviz.graph import Operand
from qviz.progress import Reporter
from qviz.recipe import resolve
from qviz.rewrite import get_attr
from qviz.tune.lockstep import output_axis
from qviz.tune.samples import drawn
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import TunedWeights

OPTIONS = (
    Option(
        "weighing",
        "equal",
        "every weight counts the same, or by the mean square of the input it multiplies",
        choices=("equal", "inputs"),
    ),
    Option("samples", 128, "calibration samples for the mean squares of the inputs", 1),
)

_COARSE = torch.linspace(0.2, 1.0, 33, dtype=torch.float64)
_FINE = torch.linspace(-1.0, 1.0, 11, dtype=torch.float64) * 0.8 / 32
#: A range is only changed if that takes at least this part off the error.
_WORTH = 1e-3
UNIT = "error / weight power"


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with an int8 weight, those that lose most under their range of now first."""
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
    error = channel_errors(value, _params(subject, operand), None)
    return float(error.sum() / value.double().square().sum().clamp(min=1e-30))


def _params(subject: Subject, operand: Operand) -> QuantParams:
    bits = resolve(subject.recipe, subject.graph)[operand.name].bits
    return subject.simulator.weight(operand, bits, subject.recipe.per_channel)[0]


def apply(subject: Subject, *, weighing: str = "equal", samples: int = 128) -> Step:
    """Search the range of every int8 weight at its bit width.

    Args:
        subject: what to tune; weights and activation ranges stay as they are.
        weighing: ``equal`` or ``inputs``.
        samples: calibration samples at most, for ``inputs``.

    Raises:
        TuneError: no weight is int8.
    """
    found = _weights(subject)
    if not found:
        raise TuneError("weight range search", "no weight is int8", "Make a conv or linear int8")
    powers = _input_powers(subject, found, samples) if weighing == "inputs" else {}
    decisions = resolve(subject.recipe, subject.graph)
    limits: dict[str, dict[int, Tensor]] = {}
    changes, kept = [], 0
    report = Reporter("weight ranges", len(found), subject.progress)
    for operand in found:
        value = get_attr(subject.graph.module, operand.tensor)
        now = _params(subject, operand)
        weight = None
        if operand.name in powers:
            weight = by_input(powers[operand.name], value, operand.axis or 0)
        amax, before, after = search(value, now, weight)
        power = value.double().square()
        scale = float((power if weight is None else power * weight).sum().clamp(min=1e-30))
        if after < (1 - _WORTH) * before:
            limits[operand.name] = {decisions[operand.name].bits: amax.float()}
            changes.append(Change(operand.name, "limit", before / scale, after / scale, UNIT))
        else:
            kept += 1
        report.step(operand.op)
    notes = (f"{kept} of {len(found)} weights already have the range of least error",)
    weights = TunedWeights(limits=limits) if limits else None
    return Step(subject.recipe, weights, tuple(changes), notes if kept else ())


def search(
    value: Tensor, now: QuantParams, importance: Tensor | None
) -> tuple[Tensor, float, float]:
    """The range of least squared error, per channel where ``now`` is per channel.

    33 ranges from a fifth of the largest magnitude to all of it, then 11 finer ones around the
    best; the range of now is one of them, so the error never grows.

    Args:
        value: the weight.
        now: its grid as it is.
        importance: what each weight's error counts, broadcastable; None is 1.

    Returns:
        Amax float64 ``[C]`` or 0-d, and the summed error before and after.
    """
    grid = Grid(_bits(now), narrow=True)
    top = weight_params(value, grid.bits, now.axis)
    most = top.scale.double() * top.quant_max
    best = now.scale.double() * now.quant_max
    least = before = channel_errors(value, now, importance)

    def attempt(amax: Tensor) -> None:
        nonlocal best, least
        error = channel_errors(value, symmetric_params(amax, grid, now.axis), importance)
        better = error < least
        best, least = torch.where(better, amax, best), torch.where(better, error, least)

    for factor in _COARSE:
        attempt(most * factor)
    centre = best
    for shift in _FINE:
        attempt((centre + most * shift).clamp(min=0.0))
    return best, float(before.sum()), float(least.sum())


def channel_errors(value: Tensor, params: QuantParams, importance: Tensor | None) -> Tensor:
    """Summed squared rounding error, float64: ``[C]`` if the grid is per channel, else 0-d."""
    error = (fake_quantize(value, params) - value).double().square()
    if importance is not None:
        error = error * importance
    if params.axis is None:
        return error.sum()
    return error.movedim(params.axis, 0).reshape(error.shape[params.axis], -1).sum(1)


def _bits(params: QuantParams) -> int:
    return (2 * params.quant_max + 1).bit_length()


def _input_powers(
    subject: Subject, operands: tuple[Operand, ...], samples: int
) -> dict[str, Tensor]:
    """Mean square of each input channel of the ops in the float graph, ``[I]``, by operand."""
    program = subject.simulator.program
    readers: dict[int, list[Operand]] = {}
    for operand in operands:
        step = program.steps[program.step_of_op[operand.op]]
        # of what such an op reads, all but its input is stored
        slot = next(s for s in step.reads if s in program.tensor_of_slot)
        readers.setdefault(slot, []).append(operand)
    sums: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}

    def watch(slot: int, value: Any) -> None:  # noqa: ANN401 - a step may give a tuple
        for operand in readers.get(slot, ()):
            axis = output_axis(subject.graph, operand.op)
            rows = value.movedim(axis, 0).reshape(value.shape[axis], -1)
            sums[operand.name] = sums.get(operand.name, 0) + rows.double().square().sum(1)
            sizes[operand.name] = sizes.get(operand.name, 0) + rows.shape[1]

    data, size = subject.calibration, subject.batch_size
    for batch in drawn(data, samples, seed=subject.seed, size=size):
        program.run(program.inputs(batch), watch=watch)
    return {name: total / sizes[name] for name, total in sums.items()}


def by_input(power: Tensor, value: Tensor, axis: int) -> Tensor:
    """A number per input channel, ``[I]``, in the place of the weights that multiply it.

    Args:
        power: ``[I]``.
        value: a weight; ``[O, I / groups, ...]`` if ``axis`` is 0, ``[I, O, ...]`` if it is 1.
        axis: its output-channel axis.

    Returns:
        Broadcastable to ``value``.
    """
    kernel = [1] * (value.dim() - 2)
    if axis == 1:
        return power.reshape(-1, 1, *kernel)
    outputs, inputs = value.shape[:2]
    groups = power.numel() // inputs
    rows = power.reshape(groups, 1, inputs).expand(groups, outputs // groups, inputs)
    return rows.reshape(outputs, inputs, *kernel)
