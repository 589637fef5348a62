"""Bias tuning: the quantized model learns the float model's outputs with nothing but its biases.

CalibTIP (Hubara et al. 2021; ``main.py --bias-tuning --kld_loss`` of its code) trains the biases on
the calibration set by the KL divergence from the float model's logits (Hinton et al. 2015); no
labels. Weights keep their codes, so this costs nothing at inference and cannot move far from the
float model. Part of the calibration samples is held out: training stops when they no longer gain,
and the best biases on them are kept, or none if none was better than those it began with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qviz.errors import TuneError
from qviz.progress import Reporter
from qviz.tune.bias_fit import BiasFit, Samples
from qviz.tune.lockstep import correctable
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import NOTHING, with_bias

OPTIONS = (
    Option("optimizer", "adam", "adam, or sgd with momentum 0.9", choices=("adam", "sgd")),
    Option(
        "rate",
        0.002,
        "learning rate; with adam in units of the standard deviation of each op's output",
        1e-8,
        100.0,
    ),
    Option("epochs", 20, "passes over the samples at most", 1),
    Option("patience", 3, "stop after so many passes without gain on the held-out samples", 1),
    Option("held_out", 0.25, "part of the samples that is not trained on", 0.05, 0.9),
    Option("batch", 32, "samples per step", 1),
    Option("samples", 1024, "calibration samples to use", 4),
)

TITLE = "bias tuning"


def sites(subject: Subject) -> tuple[str, ...]:
    """Int8 ops with a stored weight, in execution order."""
    return correctable(subject)


def apply(
    subject: Subject,
    *,
    optimizer: str = "adam",
    rate: float = 0.002,
    epochs: int = 20,
    patience: int = 3,
    held_out: float = 0.25,
    batch: int = 32,
    samples: int = 1024,
) -> Step:
    """Train the biases of int8 ops on the float model's outputs; ops without one get one.

    Args:
        subject: what to tune; weights and ranges stay as they are.
        optimizer: ``adam`` or ``sgd``.
        rate: learning rate; it falls to nothing along half a cosine.
        epochs: passes at most.
        patience: passes without gain before it stops.
        held_out: part of the samples that is not trained on.
        batch: samples per step.
        samples: calibration samples at most.

    Raises:
        TuneError: no bias can be trained, there are too few samples to hold some out, or the loss
            becomes NaN.
    """
    names = sites(subject)
    if not names:
        raise TuneError(
            TITLE,
            "no int8 op has a stored weight and a bias of its own",
            "Leave ops=None, or make a conv or linear int8",
        )
    train, judge, generator = _split(subject, samples, held_out)
    fit = BiasFit(subject, names, relative=optimizer == "adam")
    trainer = _optimizer(optimizer, fit.parameters, rate)
    steps = math.ceil(train.count / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trainer, epochs * steps)
    report = Reporter(TITLE, epochs * steps, subject.progress)
    curve = [(fit.loss(train, batch), fit.loss(judge, batch))]
    best, chosen = fit.state(), 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(train.count, generator=generator).split(batch):
            trainer.zero_grad()
            fit.divergence(train, rows, grad=True).mean().backward()
            trainer.step()
            schedule.step()
            report.step(f"held-out loss {curve[-1][1]:.4g}")
        curve.append((fit.loss(train, batch), fit.loss(judge, batch)))
        _check(curve[-1], optimizer, rate)
        if curve[-1][1] < curve[chosen][1]:
            best, chosen = fit.state(), epoch
        elif epoch - chosen >= patience:
            break
    return _step(subject, fit, best, curve, chosen, (train.count, judge.count))


def _split(
    subject: Subject, samples: int, held_out: float
) -> tuple[Samples, Samples, torch.Generator]:
    count = min(samples, subject.calibration.count)
    kept = round(held_out * count)
    if kept < 2 or count - kept < 2:
        raise TuneError(
            TITLE,
            f"{count} calibration samples are too few to train on some and judge by the others",
            "Give more calibration samples",
        )
    generator = torch.Generator().manual_seed(subject.seed)
    order = torch.randperm(count, generator=generator)
    every = Samples.of(subject, count)
    return every.rows(order[kept:]), every.rows(order[:kept]), generator


def _optimizer(name: str, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    return torch.optim.Adam(parameters, lr=rate)


def _check(losses: tuple[float, float], optimizer: str, rate: float) -> None:
    if not all(math.isfinite(loss) for loss in losses):
        raise TuneError(
            TITLE,
            f"the loss became NaN or infinite with {optimizer} at a learning rate of {rate:g}; "
            "nothing is changed",
            "Use a smaller rate",
        )


def _step(
    subject: Subject,
    fit: BiasFit,
    best: Sequence[Tensor],
    curve: Sequence[tuple[float, float]],
    chosen: int,
    counts: tuple[int, int],
) -> Step:
    before, after = curve[0], curve[chosen]
    record: dict[str, float | int | str] = {
        "samples": counts[0],
        "held_out_samples": counts[1],
        "epochs": len(curve) - 1,
        "chosen_epoch": chosen,
        "biases": sum(b.numel() for b in best),
        "held_out_before": before[1],
        "held_out_after": after[1],
        "trained_losses": " ".join(f"{train:.6g}" for train, _ in curve),
        "held_out_losses": " ".join(f"{judge:.6g}" for _, judge in curve),
    }
    if chosen == 0:
        note = f"no pass lowered the loss on the {counts[1]} held-out samples: nothing is changed"
        return Step(subject.recipe, None, (), (note,), record)
    tuned, changes = NOTHING, []
    for op, bias, start, spread in zip(fit.names, best, fit.start, fit.spreads, strict=True):
        tuned = tuned.then(with_bias(subject.graph, op, bias))
        moved = float((bias - start).square().mean().sqrt())
        changes.append(Change(op, "bias", 0.0, moved / spread, "moved by / output std"))
    note = (
        f"{fit.unit} from float on {counts[1]} held-out samples {before[1]:.4g} -> {after[1]:.4g}, "
        f"on the {counts[0]} it trained on {before[0]:.4g} -> {after[0]:.4g}"
    )
    return Step(subject.recipe, tuned, tuple(changes), (note,), record)
