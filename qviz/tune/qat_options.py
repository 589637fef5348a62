"""What quantization-aware training is asked for, and what it gives: values only.

The defaults are the recipe of Wu et al. 2020 (arXiv 2004.09602, section 6): start from the best
calibrated recipe, train for 10 % of the original schedule, begin at 1 % of the original learning
rate and let it fall along a cosine, keep the ranges as they are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from qviz.errors import TuneError

if TYPE_CHECKING:
    from qviz.tune.step import Step

Ranges = Literal["fixed", "pact", "lsq"]
OptimizerName = Literal["sgd", "adam", "adamw"]

#: What a face says beside the choice of ranges (Wu et al. 2020, section 5.2).
LEARNED_RANGES = (
    "Learned ranges add nothing at 8 bits when the ranges come from a good calibrator; they help "
    "when training starts from max ranges, and below 8 bits"
)
#: What a face says about batch norm.
FROZEN_BATCH_NORM = (
    "Batch norm is folded into the weights, or its statistics are fixed: training never "
    "re-estimates them, and dropout stays off, so the model that is trained is the one exported"
)
#: What a face says about training on labels.
LEARNED_LABELS = (
    "Training on labels also learns from the samples: what the model scores above float has "
    "nothing to do with quantization"
)


@dataclass(frozen=True)
class QATOptions:
    """How to train.

    Attributes:
        schedule_epochs: epochs that the float model was trained for.
        fraction: part of that schedule to train for; the number of epochs may have a fraction.
        initial_lr: learning rate the float training began with.
        lr: the one to begin with here; None is 1 % of ``initial_lr``. It falls along half a cosine
            to 1 % of itself, step by step.
        optimizer: ``sgd`` with ``momentum``, ``adam`` or ``adamw``.
        momentum: of ``sgd``.
        weight_decay: of weights and biases, and of PACT's clipping limits (Choi et al. 2018).
        batch_size: training samples per step.
        ranges: ``fixed`` as calibrated; ``pact`` learns the clipping limits of activations;
            ``lsq`` the step sizes of activations and weights.
        distill: 0 trains on the labels, 1 on the float model's outputs alone and needs no labels,
            anything between is a mixture.
        held_out: part of the training data that is not trained on and chooses the epoch.
        seed: of the split and of the order of the samples.
        max_seconds: training ends after the step at which so many seconds are over, and the best
            epoch so far is kept; None sets no limit.
        device: where to train, ``cpu`` or ``cuda``; on a GPU the same seed need not give the same
            bits, and a resumed run need not equal an uninterrupted one.
        checkpoint_every: seconds between two checkpoints; 0 makes one after every step. There is
            one after each epoch in any case.
    """

    schedule_epochs: float = 100.0
    fraction: float = 0.10
    initial_lr: float = 0.1
    lr: float | None = None
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    ranges: Ranges = "fixed"
    distill: float = 0.0
    held_out: float = 0.1
    seed: int = 0
    max_seconds: float | None = None
    device: str = "cpu"
    checkpoint_every: float = 60.0

    def __post_init__(self) -> None:
        positive = ("schedule_epochs", "fraction", "initial_lr", "batch_size")
        wrong = [(n, "is not above 0") for n in positive if not _above_zero(getattr(self, n))]
        wrong += [
            (n, "is not above 0")
            for n in ("lr", "max_seconds")
            if getattr(self, n) is not None and not _above_zero(getattr(self, n))
        ]
        if not 0 <= self.distill <= 1:
            wrong.append(("distill", "is not from 0 to 1"))
        if not 0 <= self.held_out < 1:
            wrong.append(("held_out", "is not from 0 to below 1"))
        if self.fraction > 1:
            wrong.append(("fraction", "is above 1"))
        if not 0 <= self.momentum < 1:
            wrong.append(("momentum", "is not from 0 to below 1"))
        wrong += [(n, "is below 0") for n in ("weight_decay", "checkpoint_every")
                  if not getattr(self, n) >= 0]  # fmt: skip
        if wrong:
            name, reason = wrong[0]
            raise TuneError(f"{name} {getattr(self, name)}", reason, "Give another number")
        for name, kind in (("ranges", Ranges), ("optimizer", OptimizerName)):
            if getattr(self, name) not in get_args(kind):
                raise TuneError(
                    f"{name} {getattr(self, name)!r}",
                    "there is no such choice",
                    f"Choose one of {', '.join(get_args(kind))}",
                )

    @property
    def deciding(self) -> str:
        """The options that decide the result, as a text; not how far to go in one sitting."""
        beside = ("max_seconds", "checkpoint_every")
        return repr({k: v for k, v in asdict(self).items() if k not in beside})

    @property
    def epochs(self) -> float:
        """Epochs to train for."""
        return self.schedule_epochs * self.fraction

    @property
    def first_lr(self) -> float:
        """Learning rate of the first step."""
        return 0.01 * self.initial_lr if self.lr is None else self.lr

    def steps(self, batches: int) -> int:
        """Optimizer steps for so many batches in one epoch, at least one."""
        return max(1, math.ceil(round(self.epochs * batches, 6)))

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step 0, 1, ... ``steps - 1``: half a cosine down to 1 % of the first."""
        done = step / max(1, steps - 1)
        return self.first_lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


def _above_zero(value: float) -> bool:
    return math.isfinite(value) and value > 0


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training samples did; number 0 is the recipe before training.

    Attributes:
        number: 0, 1, 2 ...; the last pass may be a part of one.
        steps: optimizer steps so far.
        samples: samples trained on so far, each as often as it was seen.
        lr: learning rate of the last step.
        loss: mean training loss of this pass; None for number 0.
        held_out_loss: mean loss on the samples held out; None if none are.
        seconds: of training so far.
        best: whether this pass has the least held-out loss so far.
    """

    number: int
    steps: int
    samples: int
    lr: float
    loss: float | None
    held_out_loss: float | None
    seconds: float
    best: bool


@dataclass(frozen=True, eq=False)
class QATResult:
    """What training gave.

    Attributes:
        step: the weights and the recipe of the best epoch.
        epochs: every pass, number 0 first.
        best: number of the pass that was kept: the least held-out loss, or the last one if
            nothing was held out. 0 means that training did not help, and changes nothing.
        options: as asked for.
        seconds: of training, over all the processes that took part.
        macs: multiply-accumulates spent: 3 x forward for a sample trained on (forward, and
            backward to inputs and to weights), 1 x for one held out or run through the float model.
        steps: optimizer steps made.
        samples: samples trained on, each as often as it was seen.
        train_samples: different samples trained on; None if a loader does not say.
        held_out_samples: samples that chose the epoch.
        warnings: what is doubtful, in words.
    """

    step: Step
    epochs: tuple[Epoch, ...]
    best: int
    options: QATOptions
    seconds: float
    macs: int
    steps: int
    samples: int
    train_samples: int | None
    held_out_samples: int
    warnings: tuple[str, ...] = field(default=())

    @property
    def helped(self) -> bool:
        """Whether an epoch was better than the recipe that training began with."""
        return self.best > 0
