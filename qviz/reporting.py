"""From a Session to a report: gathers what is known, measures only the recipe itself if need be."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path

from qviz import reproduce, run_results
from qviz.affine import Grid
from qviz.calibration import Calibration, specs_with
from qviz.calibrators import DEFAULT_CANDIDATES, Candidate
from qviz.errors import InputError
from qviz.histogram import Histogram
from qviz.histogram_cost import ClipRange, costs
from qviz.int8.certificate_file import Standing, standing
from qviz.int8.checkpoint import RECIPE
from qviz.progress import OnProgress
from qviz.recipe import Recipe, TensorRange, activation_grid, resolve
from qviz.recipe_diff import differences
from qviz.report_content import Content, Measured, RangeView, Source
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity
from qviz.session import Session
from qviz.store_files import replace_file
from qviz.store_manifest import versions

#: Tensors shown with their histogram.
SHOWN = 12
#: Name of the report in a run folder.
NAME = "report.html"


def write_report(
    session: Session,
    recipe: Recipe | SearchResult,
    path: str | Path | None = None,
    *,
    sensitivity: Sensitivity | None = None,
    search: SearchResult | None = None,
    checkpoint: str | Path | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Write one self-contained HTML file about a recipe.

    What the session and its run folder know is used as it is; only the recipe's own metric is
    measured if nobody has yet.

    Args:
        session: the model and its data.
        recipe: what the report is about.
        path: of the file; None is ``report.html`` in the run folder.
        sensitivity: a ranking; None takes what the run folder holds.
        search: of the ops to leave in float; None takes what the run folder holds.
        checkpoint: folder of the exported recipe, for its parity result.
        progress: told how far a measurement is.

    Returns:
        The absolute path of the file.

    Raises:
        InputError: the file cannot be written, or there is no run folder to write it to.
        MissingExtraError: plotly is not installed.
    """
    target = _target(session, path)
    content = gather(
        session,
        recipe,
        sensitivity=sensitivity,
        search=search,
        checkpoint=checkpoint,
        progress=progress,
    )
    return write(content, target)


def write(content: Content, target: Path) -> Path:
    """Write the page of a report's values.

    Raises:
        InputError: the file cannot be written.
        MissingExtraError: plotly is not installed.
    """
    from qviz.report import html

    page = html(content).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, page)
    except OSError as failure:
        why = (failure.strerror or str(failure)).lower()
        raise InputError(
            str(target), f"the report cannot be written ({why})", "Name another file"
        ) from failure
    return target


def _target(session: Session, path: str | Path | None) -> Path:
    if path is not None:
        found = Path(path).expanduser().resolve()
        if found.is_dir():
            raise InputError(str(found), "it is a folder, not a file", f"Name a file in it: {NAME}")
        return found
    if session.run is None:
        raise InputError("report", "there is no run folder to write it to", "Name a file")
    return (session.run.path / NAME).resolve()


def gather(
    session: Session,
    recipe: Recipe | SearchResult,
    *,
    sensitivity: Sensitivity | None = None,
    search: SearchResult | None = None,
    checkpoint: str | Path | None = None,
    home: Path | None = None,
    progress: OnProgress | None = None,
) -> Content:
    """The values of a report; see ``write_report``.

    Args:
        session: see there.
        recipe: see there.
        sensitivity: see there.
        search: see there.
        checkpoint: see there.
        home: the run folder, where the session works on a copy of it.
        progress: see there.
    """
    if isinstance(recipe, SearchResult):
        search, recipe = search or recipe, recipe.recipe
    resolve(recipe, session.graph)
    calibration = session.calibrate(
        specs_with(DEFAULT_CANDIDATES, calibrator_of(recipe)), progress=progress
    )
    measured = None
    if session.evaluation_data is not None:
        measured = run_results.measured(session, recipe) or Measured.of(
            session.evaluate(recipe, progress=progress)
        )
    base = default_of(session, recipe)
    said = f"all int8 with {base.calibrator} ranges"
    ranked = ""
    if measured is not None and sensitivity is None:
        sensitivity = run_results.ranking(session, recipe, progress=progress)
        if sensitivity is None:
            sensitivity = run_results.ranking(session, base, progress=progress)
            ranked = "" if sensitivity is None else said
    search = search or run_results.searched(session.run)
    folder = None if checkpoint is None else Path(checkpoint)
    known = Standing(None) if folder is None else proven(folder, recipe)
    return Content(
        name=session.graph.name,
        metric=session.metric,
        recipe=recipe,
        base=said,
        differences=differences(recipe, base),
        measured=measured,
        calibrators=run_results.calibrators(session, recipe),
        coverage=session.coverage(recipe),
        macs=session.graph.macs,
        ranges=worst_ranges(session, recipe, calibration),
        tensors=len(recipe.ranges),
        calibration_samples=calibration.samples,
        sensitivity=sensitivity,
        ranked=ranked,
        search=search,
        tried=run_results.tried(session),
        escalation=run_results.escalation(session.run, recipe),
        certificate=None if known.certificate is None else known.certificate.to_json(),
        stale=known.problem,
        sources=_sources(session),
        versions=versions() if session.run is None else session.run.manifest.versions,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command="" if session.run is None else shlex.join(session.run.manifest.command),
        **_again(session, recipe, folder, home),
        warnings=tuple(dict.fromkeys(session.warnings)),
    )


def default_of(session: Session, recipe: Recipe) -> Recipe:
    """Everything int8 at 8 bits with the ranges of the recipe's calibrator: what it starts from."""
    return session.recipe(calibrator_of(recipe), profile=recipe.profile)


def calibrator_of(recipe: Recipe) -> str:
    """The recipe's calibrator; ``max`` if its ranges were drawn by hand from the start."""
    calibrator = recipe.calibrator
    return "max" if calibrator.partition(":")[0] == "fixed" else calibrator


def proven(folder: Path, recipe: Recipe) -> Standing:
    """What is proven about a folder; nothing unless its checkpoint is of exactly this recipe."""
    try:
        held = Recipe.from_json((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, InputError):
        return Standing(None)
    return standing(folder) if held == recipe else Standing(None)


def worst_ranges(
    session: Session, recipe: Recipe, calibration: Calibration, most: int = SHOWN
) -> tuple[RangeView, ...]:
    """The tensors read as int8 with the lowest SQNR under the recipe, lowest first."""
    decisions = resolve(recipe, session.graph)
    readers: dict[str, list[str]] = {}
    for operand in session.graph.operands.values():
        if operand.kind == "activation" and decisions[operand.name].int8:
            readers.setdefault(operand.tensor, []).append(operand.name)
    views = [
        _view(
            recipe.range_of[name],
            calibration.histograms[name],
            calibration.candidates[name],
            activation_grid(recipe, session.graph, name, recipe.activation_bits),
            tuple(readers[name]),
        )
        for name in readers
        if name in recipe.range_of and name in calibration.candidates
    ]
    return tuple(sorted(views, key=lambda view: view.chosen.sqnr_db)[:most])


def _view(
    chosen: TensorRange,
    histogram: Histogram,
    candidates: tuple[Candidate, ...],
    grid: Grid,
    readers: tuple[str, ...],
) -> RangeView:
    for one in candidates:
        if one.calibrator == chosen.calibrator and (one.range.lo, one.range.hi) == (
            chosen.lo,
            chosen.hi,
        ):
            return RangeView(chosen.tensor, histogram, candidates, one.calibrator, readers)
    clip = ClipRange(chosen.lo, chosen.hi)
    (quality,), (scale,) = costs(histogram, [clip], grid)
    name = chosen.calibrator if chosen.calibrator.startswith("fixed") else "fixed"
    own = Candidate(
        name,
        clip,
        scale,
        quality.clipped_fraction,
        quality.mse,
        quality.sqnr_db,
        quality.clipping_mse,
        quality.rounding_mse,
    )
    return RangeView(chosen.tensor, histogram, (*candidates, own), name, readers)


def _sources(session: Session) -> tuple[Source, ...]:
    model, held = session.model, session.evaluation_data
    found = [Source("model", model.spec, model.digest)]
    data = session.calibration_data
    found.append(Source("calibration data", data.name, data.digest, data.count))
    if held is not None:
        found.append(Source("evaluation data", held.name, held.digest, held.count))
    return tuple(found)


def _again(
    session: Session, recipe: Recipe, folder: Path | None, home: Path | None
) -> dict[str, str]:
    """How to do it again; nothing if the run folder does not know how the model was opened."""
    options = reproduce.opened_with(session)
    if session.run is None or options is None:
        return {}
    run = (home or session.run.path).resolve()
    file = reproduce.save_recipe(run, recipe)
    target = (folder or run / "export").resolve()
    return {
        "again": reproduce.commands(run, file, target),
        "python": reproduce.snippet(options, file, target),
    }
