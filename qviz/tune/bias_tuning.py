"""Bias tuning: the quantized model learns the float model's outputs with nothing but its biases.

CalibTIP (Hubara et al. 2021; ``main.py --bias-tuning --kld_loss`` of its code) trains the biases on
the calibration set by the KL divergence from the float model's logits (Hinton et al. 2015); no
labels. Weights keep their codes, so this costs nothing at inference and cannot move far from the
float model. Part of the calibration samples is held out: training stops when they no longer gain,
and the best biases on them are kept, if the 95 % interval of their gain there excludes none at all.
Few samples tell little at low bit widths, where one flipped rounding moves the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.errors import TuneError
from qviz.intervals import paired_bootstrap
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
    Option("epochs", 10, "passes over the samples at most", 1),
    Option("patience", 4, "stop after so many passes without gain on the held-out samples", 1),
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
    epochs: int = 10,
    patience: int = 4,
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
    curve = [_Point.of(fit, train, judge, batch)]
    best, chosen = fit.state(), 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(train.count, generator=generator).split(batch):
            trainer.zero_grad()
            fit.divergence(train, rows, grad=True).mean().backward()
            trainer.step()
            schedule.step()
            report.step(f"held-out loss {curve[-1].held_out:.4g}")
        curve.append(_Point.of(fit, train, judge, batch))
        _check(curve[-1], optimizer, rate)
        if curve[-1].held_out < curve[chosen].held_out:
            best, chosen = fit.state(), epoch
        elif epoch - chosen >= patience:
            break
    return _step(subject, fit, best, curve, chosen)


@dataclass(frozen=True, eq=False)
class _Point:
    """Losses after one pass, per sample: of those trained on and of those held out."""

    trained: Tensor
    judged: Tensor

    @staticmethod
    def of(fit: BiasFit, train: Samples, judge: Samples, batch: int) -> _Point:
        return _Point(fit.losses(train, batch), fit.losses(judge, batch))

    @property
    def train(self) -> float:
        """Mean over the samples it trained on."""
        return float(self.trained.mean())

    @property
    def held_out(self) -> float:
        """Mean over the others."""
        return float(self.judged.mean())


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


def _check(point: _Point, optimizer: str, rate: float) -> None:
    if not (math.isfinite(point.train) and math.isfinite(point.held_out)):
        raise TuneError(
            TITLE,
            f"the loss became NaN or infinite with {optimizer} at a learning rate of {rate:g}; "
            "nothing is changed",
            "Use a smaller rate",
        )


def _step(
    subject: Subject, fit: BiasFit, best: Sequence[Tensor], curve: Sequence[_Point], chosen: int
) -> Step:
    before, after = curve[0], curve[chosen]
    samples, judges = len(before.trained), len(before.judged)
    gain = paired_bootstrap(after.judged, before.judged, seed=subject.seed)
    record: dict[str, float | int | str] = {
        "samples": samples,
        "held_out_samples": judges,
        "epochs": len(curve) - 1,
        "chosen_epoch": chosen,
        "biases": sum(b.numel() for b in best),
        "held_out_before": before.held_out,
        "held_out_after": after.held_out,
        "held_out_change_low": gain.low,
        "held_out_change_high": gain.high,
        "trained_losses": " ".join(f"{p.train:.6g}" for p in curve),
        "held_out_losses": " ".join(f"{p.held_out:.6g}" for p in curve),
    }
    if chosen == 0:
        note = f"no pass lowered the loss on the {judges} held-out samples: nothing is changed"
        return Step(subject.recipe, None, (), (note,), record)
    note = (
        f"{fit.unit} from float on {judges} held-out samples {before.held_out:.4g} -> "
        f"{after.held_out:.4g} (95 % {gain.low:+.0%} to {gain.high:+.0%}), on the {samples} it "
        f"trained on {before.train:.4g} -> {after.train:.4g}"
    )
    if gain.high >= 0:
        return Step(subject.recipe, None, (), (f"{note}: noise, nothing is changed",), record)
    tuned, changes = NOTHING, []
    for op, bias, start, spread in zip(fit.names, best, fit.start, fit.spreads, strict=True):
        tuned = tuned.then(with_bias(subject.graph, op, bias))
        moved = float((bias - start).square().mean().sqrt())
        changes.append(Change(op, "bias", 0.0, moved / spread, "moved by / output std"))
    return Step(subject.recipe, tuned, tuple(changes), (note,), record)
