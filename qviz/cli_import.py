"""``qviz import``: another tool's ranges and skips as a recipe, measured beside the run's."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_beside import free
from qviz.cli_open import Job, open_job, read_recipe
from qviz.cli_progress import Meter
from qviz.cli_remember import opened_again
from qviz.errors import InputError

if TYPE_CHECKING:
    from qviz.evaluate import Evaluation
    from qviz.recipe import Recipe

#: Differences that are printed; the rest is counted.
SHOWN = 5


def import_file(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Read a file into a recipe, write it into the run folder, measure both recipes."""
    from qviz.export.importing import IMPORTERS, format_of, import_recipe
    from qviz.recipe_diff import differences
    from qviz.store import RunFolder

    RunFolder.view(options.run)
    folder, file = options.run.resolve(), options.file.resolve()
    output = (options.output or options.run / "imported.json").resolve()
    if output == folder / "recipe.json":
        raise InputError(str(output), "it is the run's own recipe", "Name another file with -o")
    if output.is_dir():
        raise InputError(str(output), "it is a folder", "Name a file with -o")
    with (
        Meter(quiet=options.quiet) as meter,
        free(folder, meter) as home,
        opened_again(home, options) as again,
    ):
        job = open_job(again, command, meter, folder=home, evaluates=False)
        base = _base(job, home / "recipe.json")
        format = options.format or (format_of(file) if file.is_file() else None)
        found = import_recipe(file, job.session.graph, base, format)
        _write(output, found.recipe)
        measured = _measured(job, base, found.recipe)
        meter.warn(job.session.warnings)
        meter.flush()
    changed = [str(d.text) for d in differences(found.recipe, base)]
    title = IMPORTERS[str(format)].title
    if options.json:
        result: dict[str, object] = {
            "recipe": str(output),
            "format": format,
            "notes": found.notes,
            "differences": changed,
        }
        for name, evaluation in measured.items():
            result[name] = as_json.evaluation(evaluation)
        print(as_json.text(result))
        return 0
    lines = [f"{title} read from {options.file}", *(f"  {note}" for note in found.notes)]
    print("\n".join([*lines, *_text(options, measured, changed, output)]))
    return 0


def _base(job: Job, path: Path) -> Recipe:
    """The run's recipe, or the ranges that calibration gives."""
    if path.exists():
        return read_recipe(path, job.session)
    job.session.calibrate(progress=job.meter.tell)
    return job.session.recipe("max")


def _write(path: Path, recipe: Recipe) -> None:
    from qviz.store_files import replace_file

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, recipe.to_json().encode())


def _measured(job: Job, base: Recipe, recipe: Recipe) -> dict[str, Evaluation]:
    if job.session.evaluation_data is None:
        return {}
    job.session.reference(progress=job.meter.tell)
    pairs = {"run": base, "imported": recipe}
    return {n: job.session.evaluate(r, progress=job.meter.tell) for n, r in pairs.items()}


def _text(
    options: argparse.Namespace,
    measured: dict[str, Evaluation],
    changed: list[str],
    output: Path,
) -> list[str]:
    lines = ["The same as the run's recipe."] if not changed else []
    if changed:
        lines += ["Beside the run's recipe:", *(f"  {text}" for text in changed[:SHOWN])]
        if len(changed) > SHOWN:
            lines.append(f"  and {len(changed) - SHOWN} more")
    if not measured:
        lines.append("Not measured: the run has no evaluation data.")
    else:
        lines.append(_table(measured))
    out = options.run.with_name(f"{options.run.name}-imported")
    run, recipe, made = (shlex.quote(str(p)) for p in (options.run, output, out))
    lines.append(f"written to {output}")
    return [*lines, f"next: qviz export {run} --recipe {recipe} -o {made}"]


def _table(measured: dict[str, Evaluation]) -> str:
    some = measured["run"]
    metric = some.metric
    heads = ("recipe<", metric.name, "change", "95 % interval", some.divergence_name)
    rows = [("float", show.scored(some.reference.value, metric), "", "", "")]
    for name, one in measured.items():
        rows.append(
            (
                {"run": "of the run", "imported": "imported"}[name],
                show.scored(one.value, metric),
                show.percent(one.change, signed=True),
                show.span(one.interval),
                show.number(one.divergence),
            )
        )
    return f"Measured on {some.scores.count} samples:\n{show.table(heads, rows)}"
