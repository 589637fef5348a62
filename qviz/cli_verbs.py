"""The verbs that work in a run folder: calibrate, evaluate, sensitivity, search, and run = all."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_open import Job, calibrated, chosen, compared, keep, open_job, read_recipe
from qviz.cli_progress import Meter

if TYPE_CHECKING:
    from qviz.calibration import CalibratorRow
    from qviz.data import Data
    from qviz.evaluate import Evaluation
    from qviz.recipe import Recipe
    from qviz.search.skip import SearchResult
    from qviz.sensitivity import Sensitivity

Verb = Callable[[Job], tuple[str, dict[str, object], int]]


def work(verb: Verb, options: argparse.Namespace, command: Sequence[str]) -> int:
    """Open the run folder, do the verb, print what it gives.

    Args:
        verb: gives the text for a person, the result for a machine, and the exit code.
        options: as parsed.
        command: the words of the command line.
    """
    with Meter(quiet=options.quiet) as meter:
        evaluates = verb is not calibrate
        job = open_job(options, command, meter, folder=options.output, evaluates=evaluates)
        text, result, code = verb(job)
        meter.warn(job.session.warnings)
        result |= {"run": str(options.output), "warnings": job.session.warnings}
        assert job.session.run is not None  # open_job made it
        job.session.run.write_text(f"{options.verb}-result.json", as_json.text(result) + "\n")
        meter.flush()
        print(as_json.text(result) if options.json else text, flush=True)
        return code


def calibrate(job: Job) -> tuple[str, dict[str, object], int]:
    """Histograms and candidate ranges of every tensor."""
    found = calibrated(job)
    text = (
        f"{len(found.histograms)} tensors over {found.samples} samples; best = least expected "
        f"squared error of {len(found.specs)} calibrators\n\n"
        f"{show.calibration_table(found, '')}\n\n{_next(job, 'sensitivity', 'search')}"
    )
    return text, {"samples": found.samples, "tensors": as_json.candidates(found)}, 0


def evaluate(job: Job) -> tuple[str, dict[str, object], int]:
    """Accuracy in float and under a recipe."""
    if job.options.recipe:
        recipe = read_recipe(job.options.recipe, job.session).skip(*job.options.skip)
        calibrated(job)
    else:
        recipe = chosen(job)
    found = _evaluation(job, recipe)
    note = f"{recipe.calibrator} ranges, {len(recipe.skipped)} skipped"
    result: dict[str, object] = {"calibrator": recipe.calibrator, "skipped": recipe.skipped}
    if job.options.name:
        result["recipe"] = str(keep(job, job.options.name, recipe))
        note += f", kept as {result['recipe']}"
    return (
        f"{note}\n{show.evaluation_lines(found)}",
        {**result, **as_json.evaluation(found)},
        0,
    )


def sensitivity(job: Job) -> tuple[str, dict[str, object], int]:
    """What each op or operand costs, worst first."""
    recipe = chosen(job)
    found = _ranking(job, recipe)
    top = job.options.top
    text = (
        f"{len(found.rows)} measured: {found.mode}, {found.operands}, {recipe.calibrator} ranges"
        "\n\n"
        f"{show.sensitivity_table(found, top)}\n\n{show.sensitivity_notes(found, top)}"
    )
    return text, {"calibrator": recipe.calibrator, **as_json.sensitivity(found)}, 0


def search(job: Job) -> tuple[str, dict[str, object], int]:
    """The fewest ops to leave in float for a target."""
    recipe = chosen(job)
    found = _search(job, recipe, lambda: _ranking(job, recipe))
    metric = job.session.metric
    text = (
        f"{show.curve_table(found, metric)}\n\n{show.search_lines(found)}\n"
        f"{_skipped(found)}\n{_next(job)}"
    )
    result = {"calibrator": recipe.calibrator, **as_json.search(found), "recipe": _recipe_path(job)}
    return text, result, 0 if found.reached else 1


def run(job: Job) -> tuple[str, dict[str, object], int]:
    """The whole job."""
    rows = compared(job)
    recipe = chosen(job, rows)
    ranking = _ranking(job, recipe)
    found = _search(job, recipe, ranking)
    best = _evaluation(job, found.recipe)
    result: dict[str, object] = {
        "model": job.session.model.spec,
        "metric": job.session.metric.name,
        "float": best.reference.value,
        "calibrators": rows,
        "calibrator": recipe.calibrator,
        "sensitivity": as_json.sensitivity(ranking),
        "search": as_json.search(found),
        "evaluation": as_json.evaluation(best),
        "recipe": _recipe_path(job),
    }
    text = _report(job, rows, recipe, ranking, found, best)
    return text, result, 0 if found.reached else 1


def _report(
    job: Job,
    rows: Sequence[CalibratorRow],
    recipe: Recipe,
    ranking: Sensitivity,
    found: SearchResult,
    best: Evaluation,
) -> str:
    session, metric = job.session, job.session.metric
    assert session.evaluation_data is not None  # the rows were measured on it
    widths = f"weights {recipe.weight_bits} bit, activations {recipe.activation_bits} bit"
    won = {r.calibrator: r.tensors_won for r in rows if r.tensors_won}
    per_tensor = ", ".join(f"{name} {n}" for name, n in sorted(won.items(), key=lambda i: -i[1]))
    return "\n".join(
        (
            f"model        {session.model.spec}",
            f"             {show.graph_lines(session.graph, session.coverage(recipe))}",
            f"calibration  {_source(session.calibration_data)}",
            f"evaluation   {_source(session.evaluation_data)}",
            f"recipe       profile {recipe.profile}, {widths}",
            f"float        {metric.name} {show.scored(best.reference.value, metric)}",
            "",
            "Accuracy by calibrator, measured with everything int8; change is relative to float, "
            f"divergence is {best.divergence_name}",
            show.calibrators_table(rows, metric, recipe.calibrator),
            f"  * chosen. Least expected squared error per tensor: {per_tensor or '-'}",
            "",
            f"Sensitivity with {recipe.calibrator}, worst {min(10, len(ranking.rows))} of "
            f"{len(ranking.rows)}: only this op int8, the others float",
            show.sensitivity_table(ranking, 10),
            f"  {show.sensitivity_notes(ranking, 10)}",
            "",
            f"Search ({found.method}), drop is relative to float, positive is worse",
            show.curve_table(found, metric),
            f"  {show.search_lines(found)}",
            f"  {_skipped(found)}",
            "",
            "Result",
            "  " + show.evaluation_lines(best).replace("\n", "\n  "),
            f"  {_next(job)}",
        )
    )


def _source(data: Data) -> str:
    return f"{data.name}, {data.count} samples"


def _evaluation(job: Job, recipe: Recipe) -> Evaluation:
    _reference(job)
    return job.session.evaluate(recipe, progress=job.meter.tell)


def _reference(job: Job) -> None:
    """The float model's outputs, which everything measured is beside."""
    job.session.reference(progress=job.meter.tell)
    job.meter.warn(job.session.warnings)


def _ranking(job: Job, recipe: Recipe) -> Sensitivity:
    options, meter = job.options, job.meter
    _reference(job)
    return job.session.sensitivity(
        recipe,
        mode=getattr(options, "mode", "only_this"),
        operands=getattr(options, "operands", "both"),
        granularity=getattr(options, "granularity", "op"),
        on_rows=meter.worst if meter.on_terminal else None,
        progress=meter.tell,
    )


def _search(
    job: Job, recipe: Recipe, ranking: Sensitivity | Callable[[], Sensitivity]
) -> SearchResult:
    _reference(job)
    found = job.session.search(
        recipe,
        max_drop=job.options.max_drop,
        method=job.options.method,
        sensitivity=ranking,
        progress=job.meter.tell,
    )
    job.session.save("recipe", found.recipe)
    return found


def _skipped(found: SearchResult) -> str:
    return f"in float: {', '.join(found.best.skipped) or 'none'}"


def _recipe_path(job: Job) -> str:
    return str(job.options.output / "recipe.json")


def _next(job: Job, *verbs: str) -> str:
    """The commands that come next, to copy."""
    folder = job.options.output
    if verbs:
        return f"next: the same command with {' or '.join(verbs)} goes on in {folder}"
    out = folder.with_name(f"{folder.name}-int8")
    given, made = shlex.quote(str(folder)), shlex.quote(str(out))
    return f"next: qviz export {given} -o {made}; then qviz verify {made}"
