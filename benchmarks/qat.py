"""Quantization-aware training at a short budget: fixed against learned ranges, by width and start.

    python benchmarks/qat.py NAME=FILE.py:MODEL,CAL,EVAL,TRAIN [--epochs 1] [--rate 0.001]
                             [--widths 8W8A,4W4A]

FILE.py has factories of a model and of calibration, evaluation and training samples. For each width
the start is the best calibrated recipe, and ``max``; each row trains from one of them and is
measured on all evaluation samples. Below 8 bits the first and last layers keep 8. ``change`` is
relative to float, ``gain`` to the row's start, each with its 95 % paired bootstrap interval;
``macs`` are those of training (3 forwards per sample trained on, one per sample held out),
``seconds`` do not count the measuring. Writes ``results/qat.json``.

``distill 1`` trains towards the float model alone, so it shows what is won back. With labels a
model may become better than float because it learns from these samples, which has nothing to do
with quantization: the row ``float, trained alike`` says how much of a gain that is.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from accuracy import SETTINGS, opened, recipe_at, start_of
from timing import report

from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.evaluate import Evaluation
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tune.qat import QATOptions, finish, prepare
from qviz.tune.qat_data import split
from qviz.tune.qat_loss import cross_entropy
from qviz.tune.qat_options import Ranges

#: Ranges and distillation of each row, from the best calibrated recipe.
FROM_BEST: tuple[tuple[Ranges, float], ...] = (
    ("fixed", 1.0),
    ("pact", 1.0),
    ("lsq", 1.0),
    ("fixed", 0.0),
    ("lsq", 0.0),
)
#: The same from ``max``, below 8 bits.
FROM_MAX = FROM_BEST[:3]


def scored(result: Evaluation) -> dict[str, Any]:
    """What a measurement says."""
    return {
        result.metric.name: result.value,
        "change": result.change,
        "change_low": result.interval.low,
        "change_high": result.interval.high,
        result.divergence_name: result.divergence,
    }


def rows(name: str, session: Session, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run of one model."""
    data, training = session.evaluation_data, session.training_data
    assert data is not None
    assert training is not None
    said = {"model": name, "evaluation": data.count, "training": training.count}
    found = [
        {**said, "width": "float", **scored(session.evaluate(None))},
        {**said, "width": "float, trained alike", **control(session, options)},
    ]
    report("qat", found, keep=False)
    for setting in options.widths.split(","):
        width = SETTINGS[setting]
        best = start_of(session, width, DEFAULT_CANDIDATES)
        starts = [(best, FROM_BEST)]
        if setting != "8W8A":
            starts.append((recipe_at(session, "max", width), FROM_MAX))
        for recipe, runs in starts:
            here = {**said, "width": setting, "start": recipe.calibrator}
            found.append({**here, "ranges": "not trained", **scored(session.evaluate(recipe))})
            report("qat", found[-1:], keep=False)
            for ranges, distill in runs:
                asked = QATOptions(
                    schedule_epochs=options.epochs, fraction=1.0, lr=options.rate,
                    batch_size=options.batch, ranges=ranges, distill=distill,
                )  # fmt: skip
                found.append({**here, **trained(session, recipe, asked)})
                report("qat", found[-1:], keep=False)
    return found


def control(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """The float model trained on the same labels, by the same schedule, in a loop of its own."""
    asked = QATOptions(schedule_epochs=options.epochs, fraction=1.0, lr=options.rate)
    assert session.training_data is not None
    source = split(session.training_data, held_out=0.1, batch_size=options.batch, seed=0)
    model = prepare(session.simulator, Recipe(int8=False))
    optimizer = torch.optim.SGD(
        model.parameters(), asked.first_lr, momentum=asked.momentum, weight_decay=asked.weight_decay
    )
    step, steps = 0, asked.steps(source.steps)
    while step < steps:
        for batch in source.epoch(step // source.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = asked.lr_at(step, steps)
            optimizer.zero_grad()
            cross_entropy(model(*batch.args), batch.targets).backward()
            optimizer.step()
            step += 1
    weights = finish(model).weights
    assert weights is not None
    return scored(session.evaluate(Recipe(int8=False, weights=session.add_weights(weights))))


def trained(session: Session, recipe: Recipe, asked: QATOptions) -> dict[str, Any]:
    """One run."""
    clock = [time.process_time()]
    made = session.qat(recipe, asked, on_epoch=lambda _: clock.append(time.process_time()))
    assert made.after is not None
    assert made.interval is not None
    record = made.record
    return {
        "ranges": asked.ranges,
        "distill": asked.distill,
        "epochs": asked.epochs,
        "rate": asked.first_lr,
        **scored(made.after),
        "gain": made.gain,
        "gain_low": made.interval.low,
        "gain_high": made.interval.high,
        "noise": made.noise,
        "held_out_before": record["held_out_loss_before"],
        "held_out_after": record["held_out_loss_after"],
        "steps": record["steps"],
        "samples": record["samples"],
        "macs": record["macs"],
        "seconds": made.seconds,
        "cpu_seconds": clock[-1] - clock[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="NAME=FILE.py:MODEL,CAL,EVAL,TRAIN")
    parser.add_argument("--widths", default="8W8A,4W4A")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, session = opened(options.model, None)
    report("qat", rows(name, session, options))


if __name__ == "__main__":
    main()
