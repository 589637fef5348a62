"""The verb that trains: the epochs as they come, then measured before and after like any method."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from qviz import cli_print as show
from qviz.cli_open import Job, chosen, keep
from qviz.cli_tune import free_name, of_run, text_of
from qviz.cli_verbs import work
from qviz.errors import TuneError

if TYPE_CHECKING:
    from qviz.tune.qat import Epoch, QATOptions

#: Options of the command by the name that training gives them.
_NAMES = {
    "schedule_epochs": "schedule_epochs",
    "initial_lr": "initial_lr",
    "fraction": "fraction",
    "lr": "lr",
    "ranges": "ranges",
    "distill": "distill",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "train_batch": "batch_size",
    "held_out": "held_out",
    "max_time": "max_seconds",
    "checkpoint_every": "checkpoint_every",
    "device": "device",
    "seed": "seed",
}


def qat(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Train.

    Raises:
        InputError: an option has no meaning, there is no training data, or the loss became NaN.
    """
    asked(options)
    with of_run(options):
        if not (options.train or options.loader):
            raise TuneError(
                "training data", "are missing", "Give some with --train, or a --loader of your own"
            )
        return work(_qat, options, command)


def asked(options: argparse.Namespace) -> QATOptions:
    """How to train, by the options of the command.

    Raises:
        TuneError: one has no meaning.
    """
    from qviz.tune.qat import QATOptions

    given: dict[str, Any] = {
        name: getattr(options, said)
        for said, name in _NAMES.items()
        if getattr(options, said) is not None
    }
    if options.optimizer and not _is_code(options.optimizer):
        given["optimizer"] = options.optimizer
    return QATOptions(**given)


def _is_code(spec: str) -> bool:
    from qviz.loading_factory import is_factory

    return is_factory(spec)


def _qat(job: Job) -> tuple[str, dict[str, object], int]:
    options, session = job.options, job.session
    recipe = chosen(job)
    name = options.name or free_name("qat", tuple(session.variants))
    epochs: list[Epoch] = []
    made = session.qat(
        recipe,
        asked(options),
        ops=[part.strip() for part in options.ops.split(",")] if options.ops else None,
        loader=_loader(options.loader),
        loss=_function(options.loss),
        optimizer=_function(options.optimizer) if _is_code(options.optimizer or "") else None,
        on_epoch=epochs.append,
        progress=job.meter.tell,
    )
    path = keep(job, name, made.recipe)
    result = {
        **made.row(),
        "start": None,
        "variant": name,
        "recipe": str(path),
        "weights": made.recipe.weights,
        "noise": made.noise,
        "epochs": epochs,
        "changed": made.changes,
    }
    return f"{epochs_table(epochs)}\n\n{text_of(job, made, name, path)}", result, 0


def epochs_table(epochs: Sequence[Epoch]) -> str:
    """The epochs, the one that is kept marked; number 0 is before training."""
    kept = max((e.number for e in epochs if e.best), default=0)
    return show.table(
        ("epoch", "steps", "samples", "learning rate", "loss", "held-out loss", "<"),
        (
            (
                str(e.number),
                str(e.steps),
                str(e.samples),
                show.number(e.lr),
                show.number(e.loss),
                show.number(e.held_out_loss),
                "* kept" if e.number == kept else "",
            )
            for e in epochs
        ),
        indent="",
    )


def _loader(spec: str | None) -> Iterable[object] | None:
    if spec is None:
        return None
    from qviz.loading_factory import made

    found = made(spec, TuneError)
    if not hasattr(found, "__iter__"):
        raise TuneError(
            spec,
            f"gives a {type(found).__name__}, which cannot be walked",
            "Return a DataLoader, or a list of (inputs, targets) batches",
        )
    return cast("Iterable[object]", found)


def _function(spec: str | None) -> Any:  # noqa: ANN401 - the caller's code
    if spec is None:
        return None
    from qviz.loading_factory import named

    found = named(spec, TuneError)
    if not callable(found):
        raise TuneError(spec, f"is a {type(found).__name__}, no function", "Name a function")
    return found
