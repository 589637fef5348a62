"""The verb that escalates: what wins accuracy back, cheapest first, until the target is met."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz import cli_print as show
from qviz.cli_open import Job
from qviz.cli_tune import of_run
from qviz.cli_verbs import work
from qviz.digits import duration
from qviz.errors import RecipeError

if TYPE_CHECKING:
    from qviz.auto import AutoEvent, AutoResult
    from qviz.data import Data


def auto(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Escalate until the target is met, the time is over, or everything was tried.

    Raises:
        InputError: something named does not exist.
    """
    from qviz.tune.methods import method
    from qviz.tune.step import options_of

    for name in (*options.without, *(name for name, _, _ in options.option)):
        method(name)
    for name in {name for name, _, _ in options.option}:
        given = {k: v for m, k, v in options.option if m == name}
        options_of(method(name).module.OPTIONS, given)
    with of_run(options):
        return work(_auto, options, command)


def _auto(job: Job) -> tuple[str, dict[str, object], int]:
    from qviz.auto_run import as_json

    options, meter = job.options, job.meter
    if options.weight_bits == options.activation_bits == 8 and options.ends_at_8:
        raise RecipeError("--ends-at-8", "everything has 8 bits", "Leave it out")

    def told(event: AutoEvent) -> None:
        if event.kind == "end" and not options.quiet:
            meter.say(event.steps[-1].sentence)

    found = job.session.auto(
        max_drop=options.max_drop,
        strategy=options.strategy,
        time_budget=options.time_budget,
        calibrators=None if options.calibrator == "auto" else (options.calibrator,),
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
        per_channel=not options.per_tensor,
        ends_at_8=options.ends_at_8 is not False,
        skip=options.skip,
        options=_by_method(options),
        without=options.without,
        confirm=_confirm(options),
        on_event=told,
        progress=meter.tell,
    )
    return _text(job, found), as_json(found), 0 if found.reached else 1


def _by_method(options: argparse.Namespace) -> dict[str, dict[str, float | int | str | bool]]:
    found: dict[str, dict[str, float | int | str | bool]] = {}
    for method, name, value in options.option:
        found.setdefault(method, {})[name] = value
    return found


def _confirm(options: argparse.Namespace) -> Data | None:
    from qviz.loading import load_data

    if not options.confirm:
        return None
    return load_data(options.confirm, "confirmation", options.preprocessing)


def _text(job: Job, found: AutoResult) -> str:
    session, metric = job.session, job.session.metric
    lines = [
        f"model        {session.model.spec}",
        *(f"{d.role:12} {d.name}, {d.count} samples: {_USED[d.role]}" for d in found.data),
        f"float        {metric.name} {show.scored(found.float_value, metric)}",
        f"target       a drop of at most {show.percent(found.max_drop)}, strategy {found.strategy}",
        "",
        *(f"{i:3}. {_line(s.sentence, known=s.known)}" for i, s in enumerate(found.steps, 1)),
        "",
        f"ended: {found.ended}",
        _time(found),
    ]
    if found.best is not None:
        lines += ["", f"best: {found.best.sentence}"]
    if found.confirmation is not None:
        c = found.confirmation
        lines.append(
            f"confirmed on {c.name} ({c.count} samples): {metric.name} "
            f"{show.scored(c.value, metric)}, float {show.scored(c.float_value, metric)}, drop "
            f"{show.percent(c.drop)} (95 % {show.percent(c.drop_low)} to "
            f"{show.percent(c.drop_high)})"
        )
    lines += [f"note: {note}" for note in found.notes]
    if found.commands:
        lines += ["", "what repeats it, from nothing:", *(f"  {c}" for c in found.commands)]
    if found.best is not None:
        folder = job.options.output
        out = folder.with_name(f"{folder.name}-int8")
        lines.append(f"next: {shlex.join(['qviz', 'export', str(folder), '-o', str(out)])}")
    return "\n".join(lines)


#: What each role of data did here.
_USED = {
    "calibration": "ranges and fits",
    "evaluation": "measured, and chose among the variants",
    "training": "trained on",
    "confirmation": "measured once, chose nothing",
}


def _line(sentence: str, *, known: bool) -> str:
    return f"{sentence} (of an earlier run)" if known else sentence


def _time(found: AutoResult) -> str:
    budget = "" if found.time_budget is None else f" of {duration(found.time_budget)}"
    text = f"time: {duration(found.seconds)}{budget}"
    if found.earlier_seconds:
        text += f"; steps of earlier runs took {duration(found.earlier_seconds)}"
    return f"{text}; seed {found.seed}; {found.measured} variants measured"
