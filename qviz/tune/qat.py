"""Quantization-aware training: fine-tune the weights with the rounding in the forward pass.

Start from the best calibrated recipe, train for about 10 % of the original schedule from 1 % of its
learning rate down a cosine, with gradients straight through the rounding, everything else as in
the original training (Wu et al. 2020, arXiv 2004.09602, section 6 and eq. 13). Ranges stay as
calibrated by default; learned ones add nothing at 8 bits when the calibration is good.

    train(subject, QATOptions(schedule_epochs=200, initial_lr=0.1))      # the built-in trainer
    model = prepare(simulator, recipe); ...; finish(model)               # any other loop
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from qviz.collate import Batch
from qviz.data import Data
from qviz.errors import DeviceError, TuneError
from qviz.progress import OnProgress
from qviz.recipe import Recipe, resolve
from qviz.rewrite import get_attr
from qviz.tune.code_digest import code_digest
from qviz.tune.qat_data import Source, fingerprint, split, walked
from qviz.tune.qat_finish import finish
from qviz.tune.qat_loss import Loss, Objective, unlabelled
from qviz.tune.qat_model import QATModel, prepare
from qviz.tune.qat_options import LEARNED_RANGES, Epoch, QATOptions, QATResult
from qviz.tune.qat_parameters import read_by, trainable
from qviz.tune.qat_result import result_of
from qviz.tune.qat_state import Checkpoints
from qviz.tune.qat_trainer import MakeOptimizer, OnEpoch, Trainer
from qviz.tune.step import Option, Step, Subject

__all__ = [
    "OPTIONS",
    "Checkpoints",
    "Epoch",
    "QATModel",
    "QATOptions",
    "QATResult",
    "apply",
    "finish",
    "prepare",
    "sites",
    "train",
]

_DEFAULT = QATOptions()
#: Of a checkpoint; another number leaves those of before alone.
_LAYOUT = 1
OPTIONS: tuple[Option, ...] = (
    Option("schedule_epochs", _DEFAULT.schedule_epochs,
           "epochs the float model was trained for; a tenth of them is trained", 0.0),
    Option("initial_lr", _DEFAULT.initial_lr,
           "learning rate the float training began with; 1 % of it begins here", 0.0),
    Option("fraction", _DEFAULT.fraction, "part of the schedule to train for", 0.0, 1.0),
    Option("ranges", _DEFAULT.ranges, LEARNED_RANGES, choices=("fixed", "pact", "lsq")),
    Option("distill", _DEFAULT.distill,
           "0 trains on the labels, 1 on the float model's outputs and needs no labels", 0.0, 1.0),
    Option("optimizer", _DEFAULT.optimizer, "as in the float training",
           choices=("sgd", "adam", "adamw")),
    Option("weight_decay", _DEFAULT.weight_decay, "as in the float training", 0.0),
    Option("batch_size", _DEFAULT.batch_size, "training samples per step", 1),
    Option("held_out", _DEFAULT.held_out,
           "part of the training data that only chooses the best epoch", 0.0, 0.9),
    Option("device", _DEFAULT.device, "where to train", choices=("cpu", "cuda")),
)  # fmt: skip


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with weights that training changes, in execution order."""
    return tuple(op for op in read_by(subject.graph) if subject.wants(op))


def apply(subject: Subject, **options: float | int | str | bool) -> Step:
    """Train with the built-in trainer on the subject's training data.

    Raises:
        TuneError: there is no training data, or the loss became NaN.
    """
    given: dict[str, Any] = dict(options)
    return train(subject, QATOptions(seed=subject.seed, **given)).step


def train(
    subject: Subject,
    options: QATOptions = _DEFAULT,
    *,
    loader: Iterable[object] | None = None,
    held_out: Data | None = None,
    loss: Loss | None = None,
    optimizer: MakeOptimizer | None = None,
    checkpoints: Checkpoints | None = None,
    on_epoch: OnEpoch | None = None,
    progress: OnProgress | None = None,
) -> QATResult:
    """Train a subject's weights under its recipe and keep the best epoch.

    The best epoch is the one with the least loss on the held-out part of the training data; the
    evaluation data is never looked at. Where no epoch beats the recipe it began with, nothing is
    changed.

    Args:
        subject: the model, the recipe to start from (the best calibrated one) and training data.
        options: how.
        loader: batches of the caller's in place of ``subject.training``: shuffled, augmented and
            cut by whoever made it, and walked once per epoch.
        held_out: training samples that choose the epoch; None takes a part of ``subject.training``,
            or keeps the last epoch of a ``loader``.
        loss: ``(what the model returns, targets) -> mean over the samples``; None is the cross
            entropy with class labels.
        optimizer: ``(QATModel) -> torch.optim.Optimizer``; the schedule scales the learning rates
            it comes with.
        checkpoints: where the state is kept, so that a run that was killed goes on from there.
        on_epoch: told each epoch when it is measured; those of an earlier sitting first.
        progress: told after each step; what it raises stops training.

    Raises:
        TuneError: there is no training data or no label, nothing is int8, nothing can be trained,
            or the loss became NaN. The subject is as it was.
        DeviceError: there is no such device.
    """
    _check(subject, options)
    source = _source(subject, options, loader, held_out)
    if source.labelled is False and loss is None and options.distill < 1:
        raise unlabelled(source.name)
    device = torch.device(options.device)
    model = prepare(subject.simulator, subject.recipe, options.ranges, ops=subject.ops).to(device)
    objective = Objective(
        subject.simulator.program, _teacher(subject, device), options.distill, loss
    )
    identity = ""
    if checkpoints is not None:
        samples = fingerprint(source, loader, options.seed)
        identity = _identity(subject, source, samples, loss, optimizer)
    trainer = Trainer(
        model,
        source,
        objective,
        options,
        optimizer=optimizer,
        identity=identity,
        checkpoints=checkpoints,
        foreign=source.foreign or loss is not None,
    )
    trainer.run(on_epoch, progress or subject.progress)
    return result_of(subject, trainer)


def _check(subject: Subject, options: QATOptions) -> None:
    if not any(d.int8 for d in resolve(subject.recipe, subject.graph).values()):
        raise TuneError(
            "recipe",
            "leaves every op in float, so there is no rounding to train for",
            "Start from a recipe with int8 ops",
        )
    kind = options.device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise DeviceError(f"device {options.device}", "is not there", "Train on the cpu")


def _source(
    subject: Subject, options: QATOptions, loader: Iterable[object] | None, held_out: Data | None
) -> Source:
    if loader is not None:
        return walked(loader, held_out, options.batch_size)
    if subject.training is None:
        raise TuneError(
            "training data", "are missing", "Give some with training= or --train, or a loader"
        )
    return split(
        subject.training,
        held_out=options.held_out,
        batch_size=options.batch_size,
        seed=options.seed,
        chooses=held_out,
    )


def _teacher(subject: Subject, device: torch.device) -> Callable[[Batch], Any]:
    """The float model, as it was before anything was tuned."""
    rounds_nothing = Recipe(profile=subject.recipe.profile, int8=False)
    model = prepare(subject.original, rounds_nothing).to(device).eval()
    return lambda batch: model(*batch.args, **batch.kwargs)


def _identity(
    subject: Subject,
    source: Source,
    samples: str,
    loss: Loss | None,
    optimizer: MakeOptimizer | None,
) -> str:
    """What the bits of a training run depend on beside its options, and how it is kept.

    Args:
        subject: what is trained.
        source: samples.
        samples: their ``fingerprint``.
        loss: of the caller's.
        optimizer: of the caller's.
    """
    graph, digest = subject.graph, hashlib.blake2b(digest_size=16)
    for name in trainable(graph):
        digest.update(name.encode())
        digest.update(get_attr(graph.module, name).detach().cpu().contiguous().numpy().tobytes())
    code = [None if f is None else code_digest(f) for f in (loss, optimizer)]
    data = None if source.foreign or subject.training is None else subject.training.digest
    return repr((
        _LAYOUT, digest.hexdigest(), subject.recipe.to_json(), subject.ops, data, samples,
        source.samples, source.steps, source.held_out_samples, code, torch.__version__,
    ))  # fmt: skip
