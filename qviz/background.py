"""The verbs of a Session as work for a Job: each publishes what there is so far.

    job = worker.submit("sensitivity", background.sensitivity(session, recipe))

What is published and what is returned have the same type, so that whoever shows a job shows a
running, a cancelled and a finished one alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qviz.auto import AutoResult, Strategy
from qviz.calibration import CalibratorRow
from qviz.evaluate import Evaluation
from qviz.jobs import Job
from qviz.recipe import Recipe
from qviz.search.skip import Method, SearchResult, SkipPoint
from qviz.sensitivity import Granularity, Mode, Operands, Sensitivity
from qviz.session import Session
from qviz.tune.qat_options import Epoch, QATOptions
from qviz.tune.remedy import Remedies
from qviz.tune.result import Tuning


def calibrators(session: Session) -> Callable[[Job], tuple[CalibratorRow, ...]]:
    """Measure every candidate calibrator on the evaluation data."""
    return lambda job: session.best_calibrator(progress=job.tell)


def evaluation(session: Session, recipe: Recipe | None) -> Callable[[Job], Evaluation]:
    """Measure one recipe on all evaluation data; None is the float model."""
    return lambda job: session.evaluate(recipe, progress=job.tell)


def sensitivity(
    session: Session,
    recipe: Recipe,
    *,
    mode: Mode = "only_this",
    operands: Operands = "both",
    granularity: Granularity = "op",
) -> Callable[[Job], Sensitivity]:
    """Rank ops or operands; publishes a ``Sensitivity`` after each measured part."""

    def work(job: Job) -> Sensitivity:
        return session.sensitivity(
            recipe,
            mode=mode,
            operands=operands,
            granularity=granularity,
            on_rows=job.publish,
            progress=job.tell,
        )

    return work


def remedies(
    session: Session,
    recipe: Recipe,
    *,
    sites: int | Sequence[str] = 3,
    sensitivity: Sensitivity | None = None,
    methods: Sequence[str] | None = None,
) -> Callable[[Job], Remedies]:
    """Try what costs seconds on the worst ops; publishes ``Remedies`` after each attempt."""

    def work(job: Job) -> Remedies:
        return session.remedies(
            recipe,
            sites=sites,
            sensitivity=sensitivity,
            methods=methods,
            on_rows=job.publish,
            progress=job.tell,
        )

    return work


def search(
    session: Session,
    recipe: Recipe,
    *,
    max_drop: float = 0.01,
    method: Method = "greedy",
    sensitivity: Sensitivity | None = None,
) -> Callable[[Job], SearchResult]:
    """Search the fewest ops to leave in float; publishes a tuple of ``SkipPoint`` as they come."""

    def work(job: Job) -> SearchResult:
        points: list[SkipPoint] = []

        def note(point: SkipPoint) -> None:
            points.append(point)
            job.publish(tuple(points))

        return session.search(
            recipe,
            max_drop=max_drop,
            method=method,
            sensitivity=sensitivity,
            on_point=note,
            progress=job.tell,
        )

    return work


def tune(
    session: Session,
    method: str,
    recipe: Recipe | None = None,
    *,
    ops: Sequence[str] | None = None,
    name: str | None = None,
    **options: float | int | str | bool,
) -> Callable[[Job], Tuning]:
    """Apply one method of ``qviz.tune`` and measure it: arguments of ``Session.tune``."""
    return lambda job: session.tune(
        method, recipe, ops=ops, name=name, progress=job.tell, **options
    )


def qat(
    session: Session, recipe: Recipe, options: QATOptions | None = None
) -> Callable[[Job], Tuning]:
    """Train under a recipe; publishes a tuple of ``Epoch`` as they come."""

    def work(job: Job) -> Tuning:
        epochs: list[Epoch] = []

        def note(epoch: Epoch) -> None:
            epochs.append(epoch)
            job.publish(tuple(epochs))

        return session.qat(recipe, options, on_epoch=note, progress=job.tell)

    return work


def auto(
    session: Session,
    *,
    max_drop: float = 0.01,
    strategy: Strategy = "guided",
    time_budget: float | None = None,
    weight_bits: int = 8,
    activation_bits: int = 8,
) -> Callable[[Job], AutoResult]:
    """Escalate until the target is met; publishes an ``AutoEvent`` as steps begin and end."""
    return lambda job: session.auto(
        max_drop=max_drop,
        strategy=strategy,
        time_budget=time_budget,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        on_event=job.publish,
        progress=job.tell,
    )


def export(
    session: Session,
    recipe: Recipe,
    folder: Path,
    formats: Sequence[str] = ("checkpoint",),
    *,
    nearest_recipe: bool = False,
) -> Callable[[Job], dict[str, Any]]:
    """Write a recipe in the formats asked for; publishes a copy of the results as they come.

    A format that is refused is in the result with its reason, not raised.
    """

    def work(job: Job) -> dict[str, Any]:
        made: dict[str, Any] = {}

        def note(name: str, result: dict[str, Any]) -> None:
            made[name] = result
            job.publish(dict(made))

        return session.export(
            recipe,
            folder,
            formats=formats,
            nearest_recipe=nearest_recipe,
            refuse="report",
            on_result=note,
            progress=job.tell,
        )

    return work
