"""What each way to win accuracy back is worth: the metric on the whole evaluation data, per model.

    python benchmarks/accuracy.py [--models resnet,vit] [--also NAME=FILE.py:MODEL,CAL,EVAL[,TRAIN]]
                                  [--metric FILE.py:FUNCTION] [--parts calibrators,fixes,...]
                                  [--settings 8W8A,4W8A,4W4A]

Parts, each a set of rows of ``results/accuracy.json``:

    calibrators     every candidate calibrator, all ops int8; and max with per-tensor weights
    fixes           every method of seconds on the best calibrator's recipe, one by one
    partial         leaving ops in float until within 1 % of float
    reconstruction  AdaRound, AdaQuant parallel and sequential
    qat             a short run of quantization-aware training, fixed and learned ranges; only for
                    a model with training data
    allocation      below 8 bits: the frontier of the integer programme with greed beside it, and
                    the light and the advanced pipeline at three quarters of 8 bits

Below 8 bits the first and last layers keep 8. ``change`` is relative to float and ``gain`` to the
row's start, each with its 95 % paired bootstrap interval. Replaces the rows it measures again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cases import factories
from timing import RESULTS, report, write

import qviz
from qviz import allocating
from qviz.allocating_pipeline import StageResult, pipeline
from qviz.auto_ends import recipe_for
from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.errors import TuneError
from qviz.evaluate import Evaluation
from qviz.recipe import Recipe, resolve
from qviz.search.allocation_problem import Problem
from qviz.search.pipelines import PipelineName
from qviz.search.widths import BASE, FrontierPoint, Limit, Width
from qviz.session import Session
from qviz.tune.methods import METHODS
from qviz.tune.qat_options import QATOptions, Ranges
from qviz.tune.result import Tuning

SAMPLES = ("resnet", "efficientnet", "vit")
SETTINGS = {"8W8A": Width(8, 8), "4W8A": Width(4, 8), "4W4A": Width(4, 4)}
#: Methods that make the file smaller, or are another row on the whole model.
OTHERWISE = ("codebook", "nuq", "pruning", "calibrator", "more_bits")
RECONSTRUCTION = (
    ("adaround", "parallel"),
    ("adaround", "sequential"),
    ("adaquant", "parallel"),
    ("adaquant", "sequential"),
)
#: Size of the allocated weights as a share of float32: three quarters of 8 bits.
SIZE = 0.1875

Row = dict[str, Any]
Part = Callable[[Session, Recipe, Width, argparse.Namespace], Iterator[Row]]


def opened(text: str, metric: str | None) -> tuple[str, Session]:
    """A name and a session, of a sample or of factories in a file."""
    if "=" not in text:
        return text, qviz.open(f"sample:{text}")
    name, (model, *data) = factories(text)
    training = data[2] if len(data) > 2 else None
    return name, qviz.open(model, data[0], data[1], metric, training=training)


def start_of(session: Session, width: Width, calibrators: tuple[str, ...]) -> Recipe:
    """The recipe of the calibrator with the least divergence, first and last layers at 8 bits."""
    tried = [recipe_at(session, spec, width) for spec in calibrators]
    return min(tried, key=lambda recipe: session.evaluate(recipe).divergence)


def recipe_at(session: Session, calibrator: str, width: Width, *, each: bool = True) -> Recipe:
    """Everything at a width but the ends, one calibrator's ranges."""
    return recipe_for(
        session, calibrator, weight_bits=width.weights, activation_bits=width.activations,
        per_channel=each, ends_at_8=True,
    )  # fmt: skip


def measured(session: Session, what: str, recipe: Recipe, found: Evaluation | None = None) -> Row:
    """A recipe beside float."""
    result = found or session.evaluate(recipe)
    return {
        "what": what,
        "metric": result.metric.name,
        "float": result.reference.value,
        "value": result.value,
        "change": result.change,
        "interval": [result.interval.low, result.interval.high],
        "divergence": result.divergence,
        "calibrator": recipe.calibrator,
        "float_macs": float_macs(session, recipe),
    }


def float_macs(session: Session, recipe: Recipe) -> float:
    """Share of multiply-accumulates in ops that are float."""
    decisions = resolve(recipe, session.graph)
    left = [
        op.macs
        for op in session.graph.quantizable
        if not any(decisions[o.name].int8 for o in op.operands)
    ]
    return sum(left) / max(1, session.graph.macs)


def tuned(session: Session, what: str, made: Tuning) -> Row:
    """A tuning, beside float and beside where it started."""
    limits = made.interval
    return measured(session, what, made.recipe) | {
        "gain": made.gain,
        "gain_interval": None if limits is None else [limits.low, limits.high],
        "noise": made.noise,
        "changes": len(made.changes),
        "seconds": made.seconds,
        "record": dict(made.record),
    }


def calibrators(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    for spec in DEFAULT_CANDIDATES:
        yield measured(session, spec, recipe_at(session, spec, width))
    per_tensor = recipe_at(session, "max", width, each=False)
    yield measured(session, "max, weights per tensor", per_tensor)


def fixes(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    for name, method in METHODS.items():
        if method.cost == "seconds" and name not in OTHERWISE:
            yield tried(session, name, start)
    for name in ("equalization", "bias_correction"):
        per_tensor = recipe_at(session, "max", width, each=False)
        yield tried(session, name, per_tensor, f"{name}, weights per tensor")


def tried(
    session: Session, name: str, start: Recipe, what: str | None = None, **given: str | int
) -> Row:
    """A method on a recipe, or why it does not apply."""
    try:
        return tuned(session, what or name, session.tune(name, start, **given))
    except TuneError as refusal:
        return {"what": what or name, "refused": str(refusal)}


def partial(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    if session.metric.needs_reference or session.evaluate(None).value == 0:
        return
    began = time.monotonic()
    found = session.search(start, max_drop=0.01)
    yield measured(session, "partial quantization", found.recipe) | {
        "reached": found.reached,
        "skipped": list(found.best.skipped),
        "quantizable": found.quantizable,
        "seconds": time.monotonic() - began,
    }


def reconstruction(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    for name, mode in RECONSTRUCTION:
        yield tried(session, name, start, f"{name}, {mode}", mode=mode)


def qat(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    if session.training_data is None:
        return
    kinds: tuple[Ranges, ...] = ("fixed", "lsq")
    for ranges in kinds:
        # towards the float model alone: with labels it may learn what has nothing to do with int8
        wanted = QATOptions(schedule_epochs=options.schedule_epochs, ranges=ranges, distill=1.0)
        yield tuned(session, f"qat, {ranges} ranges", session.qat(start, wanted))


def allocation(
    session: Session, start: Recipe, width: Width, options: argparse.Namespace
) -> Iterator[Row]:
    if width == BASE:
        return
    whole = start_of(session, BASE, options.calibrators)
    widths = [Width(b, min(8, b if width.activations < 8 else 8)) for b in (4, 5, 6, 7)]
    prepared = allocating.networks(session, whole, widths)
    losses = allocating.layer_losses(session, prepared)
    found = allocating.frontier(session, prepared, Problem.of(losses), with_greedy=True)
    yield {
        "what": "frontier",
        "loss": found.loss,
        "loss_samples": found.loss_samples,
        "spearman": found.spearman,
        "spearman_drop": found.spearman_drop,
        "points": [point(p) for p in found.points],
        "greedy": [point(p) for p in found.greedy],
    }
    names: tuple[PipelineName, ...] = ("light", "advanced")
    for name in names:
        began = time.monotonic()
        stages: list[StageResult] = []
        offered = [w for w in widths if name == "light" or w.weights == 4]
        made = pipeline(
            session, name, Limit("size", SIZE), whole, widths=offered, on_stage=stages.append
        )
        yield measured(session, f"{name} pipeline at {SIZE:g} of float32", made.last.recipe) | {
            "widths": made.pipeline.allocation.summary,
            "stages": [
                {
                    "stage": s.stage.title,
                    "kept": s.stage.kept,
                    "divergence": s.stage.divergence,
                    "value": None if s.evaluation is None else s.evaluation.value,
                }
                for s in stages
            ],
            "seconds": time.monotonic() - began,
        }


def point(found: FrontierPoint) -> Row:
    """One point of a frontier."""
    return {
        "size": found.allocation.costs.size,
        "widths": found.allocation.summary,
        "predicted": found.allocation.loss,
        "divergence": found.divergence,
        "drop": found.drop,
        "interval": [found.low, found.high],
    }


PARTS: dict[str, Part] = {
    "calibrators": calibrators,
    "fixes": fixes,
    "partial": partial,
    "reconstruction": reconstruction,
    "qat": qat,
    "allocation": allocation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SAMPLES))
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--metric")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--calibrators", type=lambda t: tuple(t.split(",")),
                        default=DEFAULT_CANDIDATES)  # fmt: skip
    parser.add_argument("--schedule-epochs", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / "accuracy.json"
    for text in (*filter(None, options.models.split(",")), *options.also):
        name, session = opened(text, options.metric)
        assert session.evaluation_data is not None
        for setting in options.settings.split(","):
            width = SETTINGS[setting]
            start = start_of(session, width, options.calibrators)
            for part in options.parts.split(","):
                for row in PARTS[part](session, start, width, options):
                    where = {"model": name, "setting": setting, "part": part, "what": row["what"]}
                    found = where | row | {"samples": session.evaluation_data.count}
                    report("accuracy", [found], keep=False)
                    before = json.loads(path.read_text())["rows"] if path.exists() else []
                    # at once: a part on a large model is an hour, and what it measured is kept
                    kept = [r for r in before if {k: r[k] for k in where} != where]
                    write("accuracy", [*kept, found])


if __name__ == "__main__":
    main()
