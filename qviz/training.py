"""Train a session's model under a recipe: state kept in the run folder, result like any tuning's.

The run folder holds ``qat-KEY.npz``, one file per recipe and options: model, optimizer, position in
the epoch. It is replaced in one step, so a process killed at any moment goes on from the last one
when the same verb is called again; of a finished run it keeps the best epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from qviz import tuning
from qviz.data import Data
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.tune.methods import method
from qviz.tune.qat import Checkpoints, QATOptions, train
from qviz.tune.qat_loss import Loss
from qviz.tune.qat_trainer import MakeOptimizer, OnEpoch
from qviz.tune.result import Tuning

if TYPE_CHECKING:
    from qviz.session import Session


def qat(
    session: Session,
    recipe: Recipe,
    options: QATOptions,
    *,
    ops: Sequence[str] | None = None,
    loader: Iterable[object] | None = None,
    held_out: Data | None = None,
    loss: Loss | None = None,
    optimizer: MakeOptimizer | None = None,
    on_epoch: OnEpoch | None = None,
    progress: OnProgress | None = None,
) -> Tuning:
    """Train, measure before and after: arguments and errors of ``Session.qat``."""
    subject = tuning.subject(session, recipe, ops, progress)
    before = tuning.measured(session, recipe, progress)
    result = train(
        subject,
        options,
        loader=loader,
        held_out=held_out,
        loss=loss,
        optimizer=optimizer,
        checkpoints=_kept(session, recipe, options),
        on_epoch=on_epoch,
    )
    session.warnings += [w for w in result.warnings if w not in session.warnings]
    return tuning.finished(
        session,
        method("qat"),
        result.step,
        recipe,
        before,
        _plain(options),
        ops,
        result.seconds,
        progress,
    )


def _plain(options: QATOptions) -> dict[str, float | int | str | bool]:
    return {name: value for name, value in asdict(options).items() if value is not None}


def _kept(session: Session, recipe: Recipe, options: QATOptions) -> Checkpoints | None:
    """The state of this training in the run folder; None if there is no folder."""
    run = session.run
    if run is None:
        return None
    text = f"{recipe.to_json()} {options.deciding}"
    name = f"qat-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    return Checkpoints(
        save=lambda arrays: run.write_arrays(name, arrays), load=lambda: run.read_arrays(name)
    )
