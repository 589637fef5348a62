"""What a training run gave: the best epoch as a step, in numbers and in words."""

from __future__ import annotations

from dataclasses import replace

from qviz.tune.qat_finish import finish
from qviz.tune.qat_options import LEARNED_LABELS, Epoch, QATResult
from qviz.tune.qat_trainer import Trainer
from qviz.tune.step import Step, Subject


def result_of(subject: Subject, trainer: Trainer) -> QATResult:
    """What a finished run gave, from its best epoch.

    Raises:
        TuneError: a weight or range of that epoch is NaN.
    """
    options, source, position = trainer.options, trainer.source, trainer.position
    first, best = position.epochs[0], trainer.best_epoch
    made = Step(subject.recipe, None, ())
    if best.number:
        trainer.model.load_state_dict(trainer.best)
        made = finish(trainer.model)
    forwards = source.held_out_samples * len(position.epochs) + (3 * position.samples)
    if options.distill > 0:
        forwards += source.held_out_samples * len(position.epochs) + position.samples
    result = QATResult(
        step=made,
        epochs=tuple(position.epochs),
        best=best.number,
        options=options,
        seconds=position.epochs[-1].seconds,
        macs=forwards * subject.graph.macs,
        steps=position.step,
        samples=position.samples,
        train_samples=source.samples,
        held_out_samples=source.held_out_samples,
        warnings=source.warnings,
    )
    learned = () if options.distill == 1 or not best.number else (LEARNED_LABELS,)
    notes = (_told(result, first, best), *result.warnings, *made.notes, *learned)
    return replace(result, step=replace(made, notes=notes, record=_record(result, first, best)))


def _told(result: QATResult, first: Epoch, best: Epoch) -> str:
    trained = f"{result.steps} steps on {result.samples} samples in {result.seconds:.1f} s"
    if best.held_out_loss is None or first.held_out_loss is None:
        return f"{trained}; no samples were held out, so the last epoch is kept"
    if not result.helped:
        return (
            f"{trained}; no epoch had a lower loss on the {result.held_out_samples} held-out "
            f"training samples than the recipe it began with ({first.held_out_loss:.4g}), so "
            "nothing is changed"
        )
    return (
        f"{trained}; epoch {best.number} of {result.epochs[-1].number} is kept: loss on "
        f"{result.held_out_samples} held-out training samples {first.held_out_loss:.4g} -> "
        f"{best.held_out_loss:.4g}"
    )


def _record(result: QATResult, first: Epoch, best: Epoch) -> dict[str, float | int | str]:
    options = result.options
    found: dict[str, float | int | str] = {
        "steps": result.steps,
        "samples": result.samples,
        "held_out_samples": result.held_out_samples,
        "seconds": result.seconds,
        "macs": result.macs,
        "epochs": options.epochs,
        "best_epoch": result.best,
        "first_lr": options.first_lr,
        "ranges": options.ranges,
        "distill": options.distill,
    }
    if result.train_samples is not None:
        found["train_samples"] = result.train_samples
    if first.held_out_loss is not None and best.held_out_loss is not None:
        found["held_out_loss_before"] = first.held_out_loss
        found["held_out_loss_after"] = best.held_out_loss
    return found
