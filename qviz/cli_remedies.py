"""The verb that tries what costs seconds on the worst ops alone: what helps, what is noise."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz import cli_print as show
from qviz.cli_open import Job, chosen, keep
from qviz.cli_tune import of_run
from qviz.cli_verbs import work

if TYPE_CHECKING:
    from pathlib import Path

    from qviz.tune.remedy import Remedies, Remedy

#: Name of the variant unless one is given.
NAME = "remedied"
#: Attempts that could not be made, or gave what another gave, that are printed.
NOTES = 8


def remedies(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Find remedies.

    Raises:
        InputError: something named does not exist.
    """
    from qviz.tune.methods import method

    for name in options.method:
        method(name)
    with of_run(options):
        return work(_remedies, options, command)


def _remedies(job: Job) -> tuple[str, dict[str, object], int]:
    options, session = job.options, job.session
    sites = [part.strip() for part in options.ops.split(",")] if options.ops else options.worst
    found = session.remedies(
        chosen(job), sites=sites, methods=options.method or None, progress=job.meter.tell
    )
    taken = found.taken
    path = None if taken is None else keep(job, options.name or NAME, taken.recipe)
    result: dict[str, object] = {
        "sites": found.sites,
        "rows": [_row(row) for row in found.rows],
        "together": None if found.together is None else _row(found.together),
        "notes": found.notes,
        "recipe": None if path is None else str(path),
    }
    return _text(job, found, path), result, 0


def _row(row: Remedy) -> dict[str, object]:
    """A remedy as plain values."""
    limits = row.fall_interval
    return {
        "site": row.site,
        "method": row.method,
        "title": row.title,
        "options": dict(row.options),
        "metric": row.after.metric.name,
        "before": row.before.value,
        "after": row.after.value,
        "gain": row.gain,
        "interval": [row.interval.low, row.interval.high],
        "divergence": row.after.divergence_name,
        "divergence_before": row.before.divergence,
        "divergence_after": row.after.divergence,
        "fall": row.fall,
        "fall_interval": None if limits is None else [limits.low, limits.high],
        "luck": row.luck,
        "verdict": row.verdict,
        "best": row.best,
        "seconds": None if row.tuning is None else row.tuning.seconds,
    }


def _text(job: Job, found: Remedies, path: Path | None) -> str:
    name, metric = found.before.divergence_name, found.before.metric
    evaluation = job.session.evaluation_data
    count = 0 if evaluation is None else evaluation.count
    every = [*found.rows, *([] if found.together is None else [found.together])]
    lines = [
        f"{metric.name} {show.scored(found.before.value, metric)}, "
        f"{name} from float {show.number(found.before.divergence)}; "
        f"{count} evaluation samples, seed {job.session.seed}",
        "",
        show.table(
            ("op<", "remedy<", f"{name} falls", "95 %", "luck", f"{metric.name} gain", "95 %", "<"),
            (_cells(row) for row in every),
        ),
        "",
        f"luck is what rounding the op another way does to {name} by itself",
        *(f"note: {note}" for note in found.notes[:NOTES]),
    ]
    if len(found.notes) > NOTES:
        lines.append(f"note: and {len(found.notes) - NOTES} more, in remedies-result.json")
    last = "nothing helps" if path is None else f"kept as variant: {path}"
    return "\n".join([*lines, "", found.summary, last])


def _cells(row: Remedy) -> tuple[str, ...]:
    return (
        show.short(row.site),
        row.title,
        show.percent(row.fall, signed=True),
        "" if row.fall_interval is None else show.span(row.fall_interval),
        show.percent(row.luck),
        show.percent(row.gain, signed=True),
        show.span(row.interval),
        f"{row.verdict}, best" if row.best else row.verdict,
    )
