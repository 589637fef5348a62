"""Statistics tuning: batch norm is put back behind quantized ops, re-estimated, and folded again.

Quantization changes mean and variance of what an op makes. CalibTIP (Hubara et al. 2021, "BN
tuning"; ``utils/absorb_bn.py`` of its code) puts a batch norm that is an identity on the float
model behind every op whose own was folded: running mean beta, running variance gamma^2, weight
sqrt(gamma^2 + eps), bias beta. It lets the quantized model run over the calibration set in train
mode, so that mean m and variance v are those under quantization and later ops see normalized
inputs, and folds it into weight, bias and the limits of the weight's grid:

    s = sqrt((gamma^2 + eps) / (v + eps)),   W' = s W,   b' = s (b - m) + beta,   limits' = s limits

A weight and its limit that grow together keep their codes, so s acts on the quantized op as well.
What differs from the code: the batch is the whole set at once, where the code averages batches of
200 with momentum 0.1 (``strength`` is what that comes to).

Ops without a batch norm (*para-normalization*) take mean and variance measured on the float model,
over rows weighed as ``importance.py`` says; against a known gamma and beta all rows count alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qviz.errors import TuneError
from qviz.graph import Operand
from qviz.progress import Reporter
from qviz.recipe import resolve
from qviz.rewrite import get_attr, has_attr
from qviz.tune.bias_correction import current_bias
from qviz.tune.lockstep import Moments, Pair, correctable
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import NOTHING, TunedWeights, shared, weight_of, with_bias

OPTIONS = (
    Option(
        "where",
        "folded",
        "ops whose batch norm was folded, or all",
        choices=("folded", "all"),
        sites=True,
    ),
    Option(
        "target",
        "measured",
        "what the statistics are brought back to: those of the float model measured on the same "
        "samples, or gamma and beta of the folded batch norm where they are known",
        choices=("measured", "folded"),
    ),
    Option("strength", 1.0, "how much of the way to go; 1 is all of it", 0.0, 1.0),
    Option("samples", 512, "calibration samples to estimate on", 2),
)

EPS = 1e-5  # torch's, and so CalibTIP's
#: A channel whose variance falls below this part of what it was has nothing left to scale.
_DEAD = 1e-3
UNIT = "error of mean and std / output std"


def sites(subject: Subject, *, where: str = "folded") -> tuple[str, ...]:
    """Int8 ops whose batch norm was folded into them, or all, in execution order."""
    hosts = set(subject.graph.folded.values())
    able = correctable(subject)
    return able if where == "all" else tuple(op for op in able if op in hosts)


def apply(
    subject: Subject,
    *,
    where: str = "folded",
    target: str = "measured",
    strength: float = 1.0,
    samples: int = 512,
) -> Step:
    """Re-estimate mean and variance of quantized ops and fold them into weights and biases.

    Args:
        subject: what to tune; activation ranges stay as they are.
        where: ``folded`` or ``all``.
        target: ``folded`` or ``measured``.
        strength: 0 to 1.
        samples: calibration samples at most; fewer if their values do not fit in memory.

    Raises:
        TuneError: the model has no folded batch norm, or a single sample is all there is.
    """
    wanted = sites(subject, where=where)
    if not wanted:
        raise TuneError(
            "statistics tuning",
            "no int8 op had a batch norm folded into it"
            if where == "folded"
            else "no int8 op has a stored weight and a bias of its own",
            "Use where=all to bring every op back to the statistics measured on the float model"
            if where == "folded"
            else "Make a conv or linear int8",
        )
    if subject.calibration.count < 2:
        raise TuneError(
            "statistics tuning",
            f"{subject.calibration.name} is one sample, which has no statistics",
            "Give more calibration samples",
        )
    report = Reporter("statistics tuning", len(wanted), subject.progress)
    known = _folded(subject) if target == "folded" else {}
    # gamma and beta are of all rows that the batch norm saw, whatever came of them
    pair = Pair(subject, samples, report, known)
    scaled = {op: _own_grid(subject, op) for op in wanted}
    tuned, changes, dead = NOTHING, [], 0
    for op in wanted:
        reference, own = pair.through(op)
        goal = known.get(op, reference)
        factor, killed = _factor(own, goal, strength, scaled[op])
        dead += killed
        shift = strength * (goal.mean - own.mean) + own.mean * (1 - factor)
        after = pair.affine(op, factor, shift)
        tuned = tuned.then(_absorbed(subject, op, factor, shift))
        changes.append(Change(op, "weight", _distance(own, goal), _distance(after, goal), UNIT))
        report.step(op)
    notes = _notes(pair, known, wanted, target, [op for op in wanted if not scaled[op]], dead)
    return Step(subject.recipe, tuned, tuple(changes), notes, {"samples": pair.samples})


def _factor(own: Moments, goal: Moments, strength: float, able: bool) -> tuple[Tensor, int]:
    """S of every channel, and how many channels have no variance left to scale."""
    if not able:
        return torch.ones_like(own.mean), 0
    # the running variance after that part of the way
    running = (1 - strength) * goal.variance + strength * own.variance
    factor = ((goal.variance + EPS) / (running + EPS)).sqrt()
    dead = own.variance < _DEAD * goal.variance
    return torch.where(dead, torch.ones_like(factor), factor), int(dead.sum())


def _absorbed(subject: Subject, op: str, factor: Tensor, shift: Tensor) -> TunedWeights:
    """The op with ``factor * output + shift``, in its weight, bias and limits."""
    graph = subject.graph
    operand = weight_of(graph, op)
    assert operand is not None
    bias = current_bias(subject, op, factor) * factor + shift
    made = with_bias(graph, op, bias.float())
    if bool((factor == 1).all()):
        return made
    weight = get_attr(graph.module, operand.tensor)
    shape = [1] * weight.dim()
    shape[operand.axis or 0] = -1
    value = (weight.double() * factor.reshape(shape)).float()
    limits = {
        bits: (amax * (factor if amax.dim() else factor.max())).float()
        for bits, amax in _limits(subject, operand).items()
    }
    return made.then(TunedWeights({operand.tensor: value}, {}, {operand.name: limits}))


def _limits(subject: Subject, operand: Operand) -> Mapping[int, Tensor]:
    """The operand's limits; at the recipe's width the largest magnitude where it has none."""
    known = dict(subject.graph.limits.get(operand.name, {}))
    decision = resolve(subject.recipe, subject.graph)[operand.name]
    if decision.int8 and decision.bits not in known:
        # stored, so that the scaled weight has exactly the codes that were measured
        params, _ = subject.simulator.weight(operand, decision.bits, True)
        known[decision.bits] = params.scale.double() * params.quant_max
    return known


def _own_grid(subject: Subject, op: str) -> bool:
    """Whether each output channel of the op's weight has a scale of its own to absorb a factor."""
    operand = weight_of(subject.graph, op)
    assert operand is not None
    return subject.recipe.per_channel and not shared(subject.graph, operand.tensor)


def _folded(subject: Subject) -> dict[str, Moments]:
    """Mean beta and variance gamma^2 of each folded batch norm, in the units of the graph."""
    module, found = subject.original.graph.module, {}
    for norm, op in subject.original.graph.folded.items():
        if has_attr(module, f"{norm}.bias") and has_attr(module, f"{norm}.weight"):
            beta, gamma = (get_attr(module, f"{norm}.{n}").double() for n in ("bias", "weight"))
            own = Moments(beta, gamma.square())
            factor = subject.graph.rescaled.get(op)
            found[op] = own if factor is None else own.scaled(factor)
    return found


def _notes(
    pair: Pair,
    known: Mapping[str, Moments],
    wanted: tuple[str, ...],
    target: str,
    unscaled: list[str],
    dead: int,
) -> tuple[str, ...]:
    notes = list(pair.notes)
    measured = [op for op in wanted if op not in known]
    if target == "folded" and measured:
        notes.append(
            f"gamma and beta of {len(measured)} of {len(wanted)} ops are not known: their "
            "statistics are measured on the float model"
        )
    if unscaled:
        notes.append(
            f"{len(unscaled)} ops keep their weights, which are shared or have one scale per "
            "tensor: only their means are corrected"
        )
    if dead:
        notes.append(f"channels constant once quantized, only their mean is corrected: {dead}")
    return tuple(notes)


def _distance(own: Moments, goal: Moments) -> float:
    error = (own.mean - goal.mean).square() + (own.variance.sqrt() - goal.variance.sqrt()).square()
    size = float(error.mean().sqrt())
    return size / goal.spread if goal.spread > 0 else size
