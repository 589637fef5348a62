"""The verbs of the int8 checkpoint: export writes it, verify proves it again on data."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_beside import free
from qviz.cli_open import prepare, read_recipe
from qviz.cli_progress import Meter
from qviz.cli_remember import OPTIONS, opened_again, stored_options
from qviz.errors import DataError, InputError

if TYPE_CHECKING:
    from qviz.data import Data
    from qviz.metrics import Metric


def export(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Write the int8 checkpoint of a run."""
    from qviz.cli_open import open_job
    from qviz.store import RunFolder

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
        try:
            made = job.session.export(
                recipe,
                output,
                formats=formats,
                nearest_recipe=options.nearest,
                progress=meter.tell,
            )
        finally:  # a checkpoint that does not pass is there all the same
            if output.is_dir() and job.session.run is not None:
                source = job.session.run.path / OPTIONS
                _note(output / OPTIONS, source.read_text(encoding="utf-8"))
        meter.warn(job.session.warnings)
        meter.flush()
    print(as_json.text(made) if options.json else _exported(options, made))
    return 0


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
        lines.append(f"{name} written to {result.get('folder', options.output)}")
        lines += [f"  changed: {change}" for change in result.get("changed", ())]
        files = dict(result.get("files", {}))
        if files:
            rows = [(file, f"{show.count(size)}B") for file, size in files.items()]
            lines.append(show.table(("file<", "size"), rows))
        if kernels := result.get("kernels"):
            lines.append("kernels      " + ", ".join(f"{n} {k}" for k, n in kernels.items()))
        if verification := result.get("verification"):
            lines.append(verification_lines(verification))
    if "checkpoint" in made:
        lines.append(f"next: qviz verify {options.output}")
    return "\n".join(lines)


def verify(options: argparse.Namespace) -> int:
    """Run an exported checkpoint against the simulation."""
    from qviz.int8.folder import read_manifest
    from qviz.int8.verify import verify as run

    prepare(options)
    read_manifest(options.folder)
    with Meter(quiet=options.quiet) as meter:
        with _data(options) as (data, metric):
            found = run(options.folder.resolve(), data, metric, progress=meter.tell)
        meter.flush()
        result = found.to_json()
        print(as_json.text(result) if options.json else verification_lines(result), flush=True)
        found.check()
    return 0


@contextlib.contextmanager
def _data(options: argparse.Namespace) -> Iterator[tuple[Data, Metric | None]]:
    """The data named, or those the checkpoint was exported with; and the metric of then."""
    from qviz.loading import load_data, load_metric

    stored = stored_options(options.folder)
    there = Path(str(stored.get("cwd") or Path.cwd()))
    sample = str(stored.get("model", "")).startswith("sample:")
    spec = options.evaluation or stored.get("evaluation") or (stored.get("model") if sample else "")
    if not spec:
        raise DataError("evaluation data", "are missing", "Give some with --evaluation")
    data = load_data(spec, "evaluation", options.preprocessing) if options.evaluation else None
    with contextlib.chdir(there if there.is_dir() else Path.cwd()):
        if data is None:
            data = load_data(spec, "evaluation", options.preprocessing or stored["preprocessing"])
        wanted = stored.get("metric")
        yield data, load_metric(wanted) if wanted else None


def verification_lines(found: dict[str, Any]) -> str:
    """What a verification found, for a person."""
    p = found["parity"]
    exact = p["count"] - p["one_step"] - p["more"]
    verdict = "passed" if found["passed"] else "FAILED"
    recorded = found["recorded"]
    noted = f", recorded at export: float {show.number(recorded['float'])}" if recorded else ""
    if recorded.get("simulated") is not None:
        noted += f", simulated {show.number(recorded['simulated'])}"
    same = found["same_class"]
    share = found["int8_bytes"] / max(1, found["float_bytes"])
    lines = [
        f"parity       {verdict}: {len(p['rows'])} integer calls on {found['samples']} samples, "
        f"{show.count(p['count'])} outputs: {show.count(exact)} exact, {show.count(p['one_step'])} "
        f"one step off ({show.percent(p['share'])}), {show.count(p['more'])} more",
        f"{found['metric']:<13}int8 {show.number(found['int8'])}, simulated "
        f"{show.number(found['simulated'])}, both measured{noted}",
        f"outputs      SQNR of int8 against simulated {show.number(found['sqnr_db'])} dB"
        + ("" if same is None else f", same class for {show.percent(same)} of samples"),
        f"size         {show.count(found['int8_bytes'])}B, float {show.count(found['float_bytes'])}"
        f"B ({show.percent(share)}); program {show.count(found['program_bytes'])}B",
    ]
    lines += [
        f"latency      batch {row['batch']}: int8 {show.number(row['int8_ms'])} ms, float "
        f"{show.number(row['float_ms'])} ms, ratio {show.number(row['ratio'])} "
        f"(medians of {row['runs']} runs, {row['threads']} threads)"
        for row in found["latency"]
    ]
    backends = ", ".join(f"{k} {v['backend']}" for k, v in found["backends"].items())
    return "\n".join([*lines, f"backends     {backends}"])
