"""The built-in trainer: epochs over training data, a checkpoint now and then, the best epoch kept.

Everything that decides a step follows from the options, the data and the state, so a run that was
killed and started again gives the bits of one that was not. Learning rates fall along half a cosine
from 1 % of the original training's (Wu et al. 2020, arXiv 2004.09602, section 6).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qviz.collate import Batch
from qviz.errors import Cancelled, TuneError
from qviz.progress import OnProgress, Reporter
from qviz.tune.qat_data import Source, seeded
from qviz.tune.qat_loss import Objective
from qviz.tune.qat_model import QATModel
from qviz.tune.qat_options import Epoch, QATOptions
from qviz.tune.qat_state import (
    Checkpoints,
    from_arrays,
    random_state,
    set_random_state,
    to_arrays,
)

#: What the caller may give in place of the built-in optimizers.
MakeOptimizer = Callable[[QATModel], Optimizer]
OnEpoch = Callable[[Epoch], None]


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        step: optimizer steps made.
        samples: samples trained on.
        epoch: number of the epoch that is running.
        batch: batches of it that are done.
        loss: sum of its batches' losses times their sizes.
        seen: samples of it.
        seconds: of training in earlier sittings.
        epochs: the finished ones.
    """

    step: int = 0
    samples: int = 0
    epoch: int = 1
    batch: int = 0
    loss: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)


class Trainer:
    """One training run: a model, its optimizer, and how far they have come.

    Args:
        model: what is trained.
        source: samples.
        objective: the loss.
        options: how.
        optimizer: of the caller's, None is the one the options name.
        identity: text that tells this run from others whose checkpoints may lie in the same place.
        checkpoints: where the state is kept, None keeps none.
        foreign: the caller's code runs in the loop and may draw random numbers.
    """

    def __init__(
        self,
        model: QATModel,
        source: Source,
        objective: Objective,
        options: QATOptions,
        *,
        optimizer: MakeOptimizer | None,
        identity: str,
        checkpoints: Checkpoints | None,
        foreign: bool,
    ) -> None:
        self.model, self.source, self.options = model, source, options
        self.objective, self.foreign = objective, foreign
        self.optimizer = (optimizer or _optimizer(options))(model)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.steps = options.steps(source.steps)
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self._checkpoints = checkpoints
        self._identity = _digest(f"{identity} {options.deciding} {self.steps}")
        self._random: dict[str, Any] | None = None
        self._started = self._saved = time.monotonic()

    @property
    def best_epoch(self) -> Epoch:
        """The one that is kept."""
        return [e for e in self.position.epochs if e.best][-1]

    def run(self, on_epoch: OnEpoch | None, progress: OnProgress | None) -> None:
        """Train to the end, from where an earlier sitting stopped.

        Raises:
            TuneError: the loss is NaN or infinite.
            Cancelled: ``progress`` raised it; the state is kept.
        """
        self._resume()
        if on_epoch is not None:
            for row in self.position.epochs:
                on_epoch(row)
        if not self.position.epochs:
            self._end_epoch(on_epoch)
        report = Reporter("qat", self.steps, progress, known=self.position.step)
        # what an earlier sitting began is measured even if no time is left to go on with it
        while self.position.step < self.steps and (self.position.batch or not self._over()):
            with seeded(self.options.seed, self.position.epoch) if self.foreign else nullcontext():
                self._epoch(report)
            self._end_epoch(on_epoch)

    def _epoch(self, report: Reporter) -> None:
        position = self.position
        self.model.train()
        if self._over():
            return
        for batch in self._left():
            self._step(batch)
            if position.step == self.steps:
                report.step("done")
                return
            try:
                report.step(f"epoch {position.epoch}, loss {position.loss / position.seen:.4g}")
            except Cancelled:
                self._save()
                raise
            if self._over():
                self._save()  # with more time it goes on from here
                return
            if time.monotonic() - self._saved >= self.options.checkpoint_every:
                self._save()
        if not position.batch:
            raise TuneError(
                self.source.name, "gave no batch", "Give one that can be walked once per epoch"
            )

    def _left(self) -> Iterator[Batch]:
        """The batches of this epoch that are not done yet."""
        batches = self.source.epoch(self.position.epoch)
        for _ in range(self.position.batch):
            next(batches, None)
        if self._random is not None:
            set_random_state(self._random)
            self._random = None
        yield from batches

    def _step(self, batch: Batch) -> None:
        position = self.position
        factor = self.options.lr_at(position.step, self.steps) / self.options.first_lr
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        loss = self.objective(self.model, batch)
        self._check(float(loss.detach()), f"step {position.step + 1} of {self.steps}")
        loss.backward()
        self.optimizer.step()
        position.step += 1
        position.batch += 1
        position.samples += batch.size
        position.seen += batch.size
        position.loss += float(loss.detach()) * batch.size

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TuneError(
                "quantization-aware training",
                f"the loss became {loss} at {where}; the recipe before is untouched",
                f"Start from a lower learning rate than {self.rates[0]:g}",
            )

    def _end_epoch(self, on_epoch: OnEpoch | None) -> None:
        """Measure the held-out samples, keep the model if it is the best, save, tell."""
        position, started = self.position, not self.position.epochs
        held_out = self._held_out(0 if started else position.epoch)
        before = [e.held_out_loss for e in position.epochs if e.held_out_loss is not None]
        best = held_out is None or not before or held_out < min(before)
        row = Epoch(
            number=0 if started else position.epoch,
            steps=position.step,
            samples=position.samples,
            lr=self.options.lr_at(max(0, position.step - 1), self.steps),
            loss=position.loss / position.seen if position.seen else None,
            held_out_loss=held_out,
            seconds=self._seconds(),
            best=best,
        )
        position.epochs.append(row)
        if best:
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if not started:
            position.epoch, position.batch = position.epoch + 1, 0
            position.loss, position.seen = 0.0, 0
            if position.step == self.steps or not self._over():
                self._save()
        if on_epoch is not None:
            on_epoch(row)

    def _held_out(self, epoch: int) -> float | None:
        batches = self.source.held_out
        if not batches:
            return None
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for batch in batches:
                loss = float(self.objective(self.model, batch))
                self._check(loss, f"the held-out samples after epoch {epoch}")
                total += loss * batch.size
        return total / self.source.held_out_samples

    def _seconds(self) -> float:
        return self.position.seconds + time.monotonic() - self._started

    def _over(self) -> bool:
        limit = self.options.max_seconds
        return limit is not None and self._seconds() >= limit

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        position = replace(self.position, seconds=self._seconds())
        ended = position.step == self.steps
        state = {
            "identity": self._identity,
            "position": asdict(position),
            "best": self.best,
            "model": {} if ended else self.model.state_dict(),
            "optimizer": {} if ended else self.optimizer.state_dict(),
            "random": random_state() if self.foreign and position.batch else None,
        }
        self._checkpoints.save(to_arrays(state))
        self._saved = time.monotonic()

    def _resume(self) -> None:
        arrays = None if self._checkpoints is None else self._checkpoints.load()
        if arrays is None:
            return
        state = from_arrays(arrays)
        if state["identity"] != self._identity:
            return
        stored = state["position"]
        self.position = Position(**{**stored, "epochs": [Epoch(**e) for e in stored["epochs"]]})
        self.best = state["best"]
        if self.position.step < self.steps:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self._random = state["random"]


def _optimizer(options: QATOptions) -> MakeOptimizer:
    def make(model: QATModel) -> Optimizer:
        decay = options.weight_decay
        groups: list[dict[str, Any]] = [{"params": list(model.weights.parameters())}]
        if ranges := list(model.learned.parameters()):
            groups.append({"params": ranges, "weight_decay": decay * (options.ranges == "pact")})
        rate = options.first_lr
        if options.optimizer == "sgd":
            return torch.optim.SGD(groups, rate, momentum=options.momentum, weight_decay=decay)
        kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, rate, weight_decay=decay)

    return make


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
