"""Bit allocation in a session: losses measured once and kept, allocations measured and kept.

    widths   = offered((8, 4))
    prepared = allocating.networks(session, recipe, widths)
    losses   = allocating.layer_losses(session, prepared)
    best     = allocate(Problem.of(losses), Limit("size", 0.15))
    result   = session.evaluate(allocating.recipe_of(session, prepared, best))

``allocating_pipeline.py`` does all of it and tunes what comes out. The run folder keeps measured
parts of losses (``layer_losses.jsonl``) and the last frontier (``frontier.json``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from qviz import records
from qviz.errors import MetricError, RunFolderError
from qviz.evaluate import Evaluation, compare, outputs
from qviz.progress import OnProgress
from qviz.ranking import Measured
from qviz.recipe import Recipe
from qviz.search import frontier as frontiers
from qviz.search.allocation_json import frontier_from, frontier_to
from qviz.search.allocation_problem import Problem
from qviz.search.layer_losses import LayerLosses, measure
from qviz.search.mixing import Networks
from qviz.search.preparing import prepare
from qviz.search.widths import BASE, Allocation, CostKind, Frontier, Limit, Width
from qviz.session import Session

PARTS = "layer_losses"
FRONTIER = "frontier"


def networks(
    session: Session,
    recipe: Recipe,
    widths: Sequence[Width],
    *,
    calibrator: str = "auto",
    progress: OnProgress | None = None,
) -> Networks:
    """The model prepared at every width offered, ranges chosen on calibration data.

    Args:
        session: the model and its data.
        recipe: where to start; its ranges are those at 8 bits.
        widths: what is offered.
        calibrator: of activations below 8 bits; ``auto`` tries several.
        progress: told how far it is.
    """
    return prepare(session.subject(recipe, progress=progress), widths, calibrator=calibrator)


def layer_losses(
    session: Session,
    prepared: Networks,
    *,
    metric: bool = False,
    samples: int | None = None,
    progress: OnProgress | None = None,
) -> LayerLosses:
    """The losses of prepared networks on calibration data; parts measured before are not repeated.

    Args:
        session: the model and its data.
        prepared: what ``networks`` gave.
        metric: measure the session's metric beside the divergence.
        samples: of the calibration data, the first; None takes all.
        progress: told how far it is.

    Raises:
        MetricError: the metric needs labels and the calibration data has none.
        TuneError: a loss is NaN or infinite.
    """
    data = session.calibration_data
    data = data if samples is None else data.head(samples)
    if metric:
        check_labels(session)
    wanted = session.metric if metric else None
    cut = f"{session.batch_size} {session.memory_budget} {data.digest}"
    named = records.graph_key(session.graph)
    key = _short(f"{_key(prepared)} {named} {cut} {wanted and records.metric_key(wanted)}")
    return measure(
        prepared,
        data,
        metric=wanted,
        batch_size=session.batch_size,
        budget=session.memory_budget,
        known=_parts(session, key),
        save=lambda part: _write_part(session, key, part),
        progress=progress,
    )


def check_labels(session: Session) -> None:
    """Refuse to measure the metric where calibration data lacks the labels that it needs.

    Raises:
        MetricError: it does.
    """
    data = session.calibration_data
    if session.metric.needs_labels and not data.labelled:
        raise MetricError(
            session.metric.name,
            f"needs labels, {data.name} has none",
            "Measure the divergence alone, or give labelled calibration data",
        )


def recipe_of(session: Session, prepared: Networks, allocation: Allocation) -> Recipe:
    """The recipe of an allocation, its weights kept in the session."""
    recipe, weights = prepared.mixed(allocation.of)
    if weights:
        tuned = session.tuned(recipe).then(weights)
        recipe = replace(recipe, weights=session.add_weights(tuned))
    return recipe


def frontier(
    session: Session,
    prepared: Networks,
    problem: Problem,
    kind: CostKind = "size",
    *,
    limits: Sequence[Limit] | None = None,
    with_greedy: bool = False,
    on_point: Callable[[Frontier], None] | None = None,
    progress: OnProgress | None = None,
) -> Frontier:
    """The best allocation under each of a sweep of limits, measured where there is evaluation data.

    Args:
        session: the model and its data.
        prepared: the networks that the losses are of.
        problem: losses, and layers to keep.
        kind: what is limited.
        limits: None sweeps from the smallest that can be met to 8 bits.
        with_greedy: measure the greedy allocations too.
        on_point: called with the frontier after each point.
        progress: told how far it is.

    Raises:
        TuneError: a limit cannot be met.
    """
    found = frontiers.frontier(problem, kind, limits=limits)

    def keep(now: Frontier) -> None:
        if session.run is not None:
            session.run.write_json(FRONTIER, frontier_to(now))
        if on_point is not None:
            on_point(now)

    if session.evaluation_data is not None:
        session.reference(progress=progress)
        found = frontiers.measured(
            found,
            lambda allocation: measured_mix(session, prepared, allocation),
            with_greedy=with_greedy,
            on_point=keep,
            progress=progress,
        )
    keep(found)
    return found


def kept_frontier(session: Session) -> Frontier | None:
    """The last frontier of the run folder, None if there is none.

    Raises:
        RunFolderError: the file is damaged.
    """
    value = None if session.run is None else session.run.read_json(FRONTIER)
    if value is None:
        return None
    assert session.run is not None
    try:
        return frontier_from(value)
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise RunFolderError(
            str(session.run.path / f"{FRONTIER}.json"), "it is damaged", "Delete it, allocate again"
        ) from failure


def measured_mix(session: Session, prepared: Networks, allocation: Allocation) -> Evaluation:
    """An allocation on the evaluation data. Tuned weights of a mere point are not kept."""
    recipe, weights = prepared.mixed(allocation.of)
    if not weights:
        return session.evaluate(recipe)
    reference, data = session.reference(), session.evaluation_data
    assert data is not None  # the reference is of it
    made = outputs(
        prepared.simulator.program,
        data,
        prepared.edits_of(allocation.of)(),
        batch_size=session.batch_size,
    )
    return compare(made.values, reference, session.metric, seed=session.seed)


def _key(prepared: Networks) -> str:
    """Short name of networks: recipe and weights at every width."""
    at = [(str(w), p.recipe.to_json(), p.weights.key) for w, p in sorted(prepared.at.items())]
    return _short(repr((str(BASE), at)))


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _write_part(session: Session, key: str, part: Measured) -> None:
    if session.run is not None:
        session.run.append(PARTS, {"losses": key, **vars(part)})


def _parts(session: Session, key: str) -> list[Measured]:
    def tensor(value: Any) -> torch.Tensor | None:  # noqa: ANN401 - as the file holds it
        return None if value is None else torch.as_tensor(value)

    found = []
    for row in [] if session.run is None else session.run.rows(PARTS):
        if row["losses"] == key:
            divergence = torch.as_tensor(row["divergence"])
            scores, made = tensor(row["scores"]), tensor(row["outputs"])
            found.append(Measured(row["key"], int(row["start"]), divergence, scores, made))
    return found
