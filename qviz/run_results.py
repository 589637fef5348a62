"""What a run folder already holds, as values: nothing here measures a recipe again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args

from qviz import records
from qviz.auto import RESULT
from qviz.errors import RunFolderError
from qviz.intervals import Interval
from qviz.progress import OnProgress
from qviz.recipe import FORMAT, VERSION, Recipe
from qviz.report_content import Escalation, Measured
from qviz.scoreboard import Scoreboard
from qviz.search.skip import SearchResult, SkipPoint
from qviz.sensitivity import Granularity, Operands, Sensitivity, targets_of
from qviz.session import Session
from qviz.store import RunFolder
from qviz.tables_tune import Tried
from qviz.tables_tune import tried as read_tried


def measured(session: Session, recipe: Recipe) -> Measured | None:
    """The measurement of a recipe that the run folder holds, None if it holds none."""
    key = records.digest(recipe, records.graph_key(session.graph))
    for row in _rows(session):
        if row["key"] == key:
            return _measured(row)
    return None


def calibrators(session: Session, recipe: Recipe) -> dict[tuple[str, bool], Measured]:
    """Everything int8 by each calibrator, under the profile and at the bits of ``recipe``.

    Returns:
        Calibrator and whether weights are per channel -> what was measured, in that order.
    """
    found = {}
    for row in _rows(session):
        if row["recipe"] is None:
            continue
        one = _recipe(row["recipe"])
        plain = replace(recipe, calibrator="", per_channel=True, ranges=(), overrides=(), int8=True)
        untouched = {r.calibrator for r in one.ranges} <= {one.calibrator}
        if untouched and replace(one, calibrator="", per_channel=True, ranges=()) == plain:
            found[one.calibrator, one.per_channel] = _measured(row)
    return found


def ranking(
    session: Session, recipe: Recipe, *, progress: OnProgress | None = None
) -> Sensitivity | None:
    """The only-this ranking that the run folder holds of a recipe, or of it with nothing skipped.

    None if it holds none.

    Rows that are not measured are left out. The float model runs once, if it has not yet.
    """
    known = records.samples_measured(session.run)
    bits = tuple(replace(o, int8=None) for o in recipe.overrides if o.bits is not None)
    for one in (recipe, replace(recipe, overrides=bits)):
        for granularity in get_args(Granularity):
            for operands in get_args(Operands):
                key = session.sweep_key(one, "only_this", operands, granularity)
                if key in known:
                    session.reference(progress=progress)
                    return _ranking(session, one, operands, granularity, key)
    return None


def _ranking(
    session: Session, recipe: Recipe, operands: Operands, granularity: Granularity, key: str
) -> Sensitivity:
    graph = session.graph
    groups = targets_of(recipe, graph, operands=operands, granularity=granularity)
    board = Scoreboard(
        graph, groups, session.reference(), session.metric, "only_this", operands, {}
    )
    for part in records.read_parts(session.run, key):
        board.add(part)
    found = board.ranking(ties=True)
    return replace(found, rows=tuple(row for row in found.rows if row.exact))


def searched(run: RunFolder | None) -> SearchResult | None:
    """The last search in a run folder, None if there is none.

    Raises:
        RunFolderError: ``search.json`` is damaged.
    """
    value = None if run is None else run.read_json("search")
    if value is None:
        return None
    assert run is not None
    try:
        curve = tuple(_point(point) for point in value["curve"])
        best = _point(value["best"])
        known = _known(SearchResult, value) | {
            "recipe": _recipe(value["recipe"]),
            "curve": curve,
            # figures and tables mark it among the others
            "best": next((point for point in curve if point == best), best),
            "ranking": tuple(value.get("ranking", ())),
        }
        return SearchResult(**known)
    except (KeyError, TypeError, ValueError) as failure:
        raise RunFolderError(
            str(run.path / "search.json"), "it is damaged", "Delete it and search again"
        ) from failure


def tried(session: Session) -> tuple[Tried, ...]:
    """Every step of tuning in the run that this metric measured, oldest first."""
    metric = session.metric
    steps = read_tried(session.tunings(), higher_is_better=metric.higher_is_better)
    return tuple(one for one in steps if one.metric in ("", metric.name))


def escalation(run: RunFolder | None, recipe: Recipe) -> Escalation | None:
    """How ``qviz auto`` found this recipe; None if it was not what it found last.

    Raises:
        RunFolderError: ``auto.json`` is damaged.
    """
    value = None if run is None else run.read_json(RESULT)
    if value is None:
        return None
    assert run is not None
    try:
        best = value["best"]
        if best is None or best["recipe"] is None or _recipe(best["recipe"]) != recipe:
            return None
        return Escalation(
            str(value["ended"]),
            tuple((str(s["stage"]), str(s["outcome"]), str(s["sentence"])) for s in value["steps"]),
            tuple(map(str, value["notes"])),
            tuple(map(str, value["commands"])),
        )
    except (KeyError, TypeError, ValueError) as failure:
        raise RunFolderError(
            str(run.path / f"{RESULT}.json"), "it is damaged", "Delete it and run qviz auto again"
        ) from failure


def _rows(session: Session) -> list[dict[str, Any]]:
    rows = [] if session.run is None else session.run.rows("evaluations")
    return [row for row in rows if row["metric"] == session.metric.name]


def _measured(row: Mapping[str, Any]) -> Measured:
    return Measured(
        value=float(row["value"]),
        float_value=float(row["float_value"]),
        change=float(row["change"]),
        interval=Interval(*map(float, row["interval"])),
        divergence=float(row["divergence"]),
        divergence_name=str(row["divergence_name"]),
        flips=int(row["flips"]),
        samples=int(row["samples"]),
    )


def _recipe(value: Mapping[str, Any]) -> Recipe:
    return Recipe.from_json(json.dumps({"format": FORMAT, "version": VERSION, **value}))


def _point(value: Mapping[str, Any]) -> SkipPoint:
    return SkipPoint(**_known(SkipPoint, value) | {"skipped": tuple(value["skipped"])})


def _known(kind: type, value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows."""
    return {f.name: value[f.name] for f in fields(kind) if f.name in value}
