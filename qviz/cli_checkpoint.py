"""The verb that writes a run's recipe in the formats asked for."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz import report_certificate as words
from qviz.cli_beside import free
from qviz.cli_open import read_recipe
from qviz.cli_progress import Meter
from qviz.cli_remember import OPTIONS, opened_again
from qviz.cli_verify import certificate_lines
from qviz.errors import InputError, QvizError


def export(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Write the recipe of a run in the formats asked for."""
    from qviz.cli_open import open_job
    from qviz.store import RunFolder

    if str(options.run).startswith("sample:"):
        options.run = _run_of_sample(options)
    RunFolder.view(options.run)
    folder, output = options.run.resolve(), options.output.resolve()
    recipe_file = Path(options.recipe).resolve() if options.recipe else folder / "recipe.json"
    formats = _formats(options.formats)
    with (
        Meter(quiet=options.quiet) as meter,
        free(folder, meter) as home,
        opened_again(home, options) as again,
    ):
        if not recipe_file.exists():
            raise InputError(
                str(recipe_file),
                "there is no such file",
                "Finish the run with qviz run or qviz search, or name a recipe with --recipe",
            )
        job = open_job(again, command, meter, folder=home)
        recipe = read_recipe(recipe_file, job.session)
        made: dict[str, Any] = {}
        try:
            job.session.export(
                recipe,
                output,
                formats=formats,
                nearest_recipe=options.nearest,
                on_result=made.__setitem__,
                progress=meter.tell,
            )
        except QvizError:  # raised is what failed; the rest is there
            made = {name: one for name, one in made.items() if "folder" in one}
            raise
        finally:  # what does not pass is there all the same, and what does beside it
            if output.is_dir() and job.session.run is not None:
                source = job.session.run.path / OPTIONS
                _note(output / OPTIONS, source.read_text(encoding="utf-8"))
            meter.warn(job.session.warnings)
            meter.flush()
            if made:
                print(as_json.text(made) if options.json else _exported(options, made), flush=True)
    return 0


def _run_of_sample(options: argparse.Namespace) -> Path:
    """The run of a sample beside the folder that is asked for; what it lacks is done first."""
    from qviz import cli_options, cli_verbs

    folder: Path = options.output.with_name(f"{options.output.name}-run")
    words = ["run", str(options.run), "-o", str(folder), *(["--quiet"] if options.quiet else [])]
    # standard output is for what export gives, which --json prints for a machine
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        cli_verbs.work(cli_verbs.run, cli_options.parse(words), ["qviz", *words])
    return folder


def _formats(text: str) -> tuple[str, ...]:
    from qviz.export import EXPORTERS, chosen_formats

    found = tuple(f.strip() for f in text.split(",") if f.strip())
    wrong = next((f for f in found if f not in (*EXPORTERS, "all")), None)
    if wrong is not None or not found:
        raise InputError(
            f"--formats {wrong or text}",
            "there is no such format",
            f"Choose of {', '.join(EXPORTERS)}, all",
        )
    return ("all",) if "all" in found else chosen_formats(found)


def _note(path: Path, text: str) -> None:
    """Where the data were; ``verify`` can be told again if this cannot be written."""
    with contextlib.suppress(OSError):
        path.write_text(text, encoding="utf-8")


def _exported(options: argparse.Namespace, made: dict[str, Any]) -> str:
    lines = []
    for name, result in made.items():
        if "refused" in result:
            lines.append(f"{name} not written: {result['refused']}")
            continue
        parity = words.format_parity(result)
        proven = f", parity {parity}" if parity else ""
        lines.append(f"{name} written to {result.get('folder', options.output)}{proven}")
        lines += [f"  changed: {change}" for change in result.get("changed", ())]
        lines += [f"  {result['note']}"] if "note" in result else []
        files = dict(result.get("files", {}))
        if files:
            rows = [(file, f"{show.count(size)}B") for file, size in files.items()]
            lines.append(show.table(("file<", "size"), rows))
        if sizes := result.get("sizes"):
            forms = ", ".join(f"{form} {show.count(size)}B" for form, size in sizes.items())
            lines.append(f"weights      {forms}")
        if kernels := result.get("kernels"):
            lines.append("kernels      " + ", ".join(f"{n} {k}" for k, n in kernels.items()))
        if certificate := result.get("certificate"):
            lines.append(certificate_lines(certificate))
    if "certificate" in made.get("checkpoint", {}):
        lines.append(f"next: qviz verify {options.output}")
    return "\n".join(lines)
