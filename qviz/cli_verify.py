"""The verb that proves an exported checkpoint again on data, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz import report_certificate as words
from qviz.cli_open import prepare
from qviz.cli_progress import Meter
from qviz.cli_remember import stored_options
from qviz.errors import DataError

if TYPE_CHECKING:
    from qviz.data import Data
    from qviz.metrics import Metric

#: Calls that are printed of all.
WORST = 5


def verify(options: argparse.Namespace) -> int:
    """Run an exported checkpoint on every backend against the simulation."""
    from qviz.int8.folder import read_manifest
    from qviz.int8.verify import verify as run

    prepare(options)
    read_manifest(options.folder)
    with Meter(quiet=options.quiet) as meter:
        with _data(options) as (data, metric):
            found = run(
                options.folder.resolve(),
                data,
                metric,
                device=options.device,
                onnx=True if options.onnx else None,
                fallback=options.fallback,
                progress=meter.tell,
            )
        meter.flush()
        result = found.to_json()
        print(as_json.text(result) if options.json else certificate_lines(result), flush=True)
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


def certificate_lines(found: dict[str, Any]) -> str:
    """A certificate for a person: verdict, backends, worst calls, what is equal, of what."""
    worst = [row for row in words.calls(found)[:WORST] if row["one_step"] or row["more"]]
    lines = [
        f"certificate  {'passed' if found['passed'] else 'FAILED'}: {found['metric']} on "
        f"{found['samples']:,} samples",
        show.table(words.heads(found), words.backend_rows(found)),
    ]
    if worst:
        lines += [
            "worst calls, on identical codes",
            show.table(words.CALL_HEADS, words.call_rows(found, len(worst))),
        ]
    lines += [
        words.tolerance_sentence(found),
        *words.notes(found),
        f"size         {words.size_sentence(found)}",
        *(
            f"latency      batch {row['batch']}: int8 {show.number(row['int8_ms'])} ms, float "
            f"{show.number(row['float_ms'])} ms, ratio {show.number(row['ratio'])} "
            f"(medians of {row['runs']} runs, {words.threads(row['threads'])})"
            for row in found["latency"]
        ),
        *_kernel_lines(found),
        "verified",
        show.table(
            ("what<", "name<", "digest<"),
            words.identity_rows(found),
        ),
        words.machine_sentence(found),
    ]
    return "\n".join(lines)


def _kernel_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for one in found["backends"]:
        if one["kernels"]:
            chosen = ", ".join(f"{held['kind']} {held['backend']}" for held in one["kernels"])
            lines.append(f"kernels      {one['name']}: {chosen}")
    return lines
