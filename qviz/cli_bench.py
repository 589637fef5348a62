"""``qviz bench``: what int8 saves on this machine, per op; or what a datasheet lets one hope for.

Of a checkpoint folder it times what is in there. Of a run folder it times the run's ranges with
everything int8, and says what leaving each op in float would cost and gain.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qviz import cli_json as as_json
from qviz.cli_beside import free
from qviz.cli_open import open_job, prepare, read_recipe
from qviz.cli_progress import Meter
from qviz.cli_remember import opened_again
from qviz.errors import InputError

if TYPE_CHECKING:
    from qviz.bench import Bench
    from qviz.bench_plan import LatencyMark, Prices, Trade
    from qviz.int8.lower import Lowered
    from qviz.int8.timing_run import How
    from qviz.int8.timing_subject import Subject
    from qviz.search.skip import SkipPoint
    from qviz.session import Session
    from qviz.ui.plan_choice import Choice


def bench(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Time a checkpoint or a run, or estimate it for a GPU."""
    from qviz.int8.folder import MANIFEST
    from qviz.int8.gpus import gpu

    prepare(options)
    if options.gpu is not None:
        gpu(options.gpu)  # a wrong name is said before anything is timed
    folder: Path = options.folder
    if not (folder / MANIFEST).exists() and (folder / "manifest.json").exists():
        return _of_run(options, command)
    return _of_checkpoint(options)


def _of_checkpoint(options: argparse.Namespace) -> int:
    from qviz.cli_bench_print import bench_lines
    from qviz.int8.checkpoint import load_checkpoint
    from qviz.int8.timing_file import write_benches
    from qviz.int8.timing_subject import Subject

    with Meter(quiet=options.quiet) as meter:
        checkpoint = load_checkpoint(options.folder)
        still = Subject.of_checkpoint(checkpoint) if options.gpu is not None else None
        estimates = () if still is None else (_estimate(options, still),)
        moved = _on_device(checkpoint, options)
        found = (_measure(options, moved, meter), *estimates)
        meter.flush()
    write_benches(options.folder, found)
    if options.json:
        print(as_json.text({"benches": [one.to_json() for one in found]}))
    else:
        print("\n\n".join(bench_lines(one, options.top) for one in found))
    return 0


def _on_device(checkpoint: Any, options: argparse.Namespace) -> Subject:  # noqa: ANN401
    from qviz.int8.timing import stopwatch
    from qviz.int8.timing_run import FLOATS
    from qviz.int8.timing_subject import Subject

    if options.device != "cpu":
        stopwatch(options.device)  # says so if there is none
        checkpoint = checkpoint.to(options.device, FLOATS[_how(options).chosen_float])
    return Subject.of_checkpoint(checkpoint)


def _how(options: argparse.Namespace) -> How:
    from qviz.int8.timing_run import How

    return How(options.device, options.float, options.compile)


def _measure(options: argparse.Namespace, subject: Subject, meter: Meter) -> Bench:
    from qviz.int8.timing_run import measure

    return measure(subject, options.batch, _how(options), progress=meter.tell)


def _estimate(options: argparse.Namespace, subject: Subject) -> Bench:
    from qviz.int8.gpus import gpu
    from qviz.int8.roofline import estimate

    return estimate(subject, gpu(options.gpu), options.batch)


def _of_run(options: argparse.Namespace, command: Sequence[str]) -> int:
    from qviz.bench_plan import Prices
    from qviz.cli_bench_print import bench_lines, plan_lines
    from qviz.int8.lower import lower
    from qviz.ui.plan_choice import Choice

    folder = options.folder.resolve()
    path = folder / "recipe.json"
    if not path.exists():
        raise InputError(
            str(path),
            "there is no such file",
            "Finish the run with qviz run or qviz search, or name a checkpoint",
        )
    with (
        Meter(quiet=options.quiet) as meter,
        free(folder, meter) as home,
        opened_again(home, options) as again,
    ):
        session = open_job(again, command, meter, folder=home).session
        choice = Choice.of(read_recipe(path, session), session.graph)
        lowered = lower(session.graph, choice.base, session.simulator)
        found = _benches(options, lowered, meter)
        prices = [Prices.of(one, session.graph, choice.base) for one in found]
        plans = [_plan(session, choice, one) for one in prices]
        meter.flush()
    if options.json:
        both = zip(found, plans, strict=True)
        print(as_json.text({"benches": [{**b.to_json(), "plan": _plain(*p)} for b, p in both]}))
        return 0
    for one, price, (trades, points) in zip(found, prices, plans, strict=True):
        print(bench_lines(one, options.top))
        print(f"\n{plan_lines(price, trades, points, options.top)}\n")
    return 0


def _benches(options: argparse.Namespace, lowered: Lowered, meter: Meter) -> list[Bench]:
    from qviz.int8.checkpoint import load_checkpoint, save_checkpoint
    from qviz.int8.timing_subject import Subject

    here = Subject.of_lowered(lowered)
    estimates = [] if options.gpu is None else [_estimate(options, here)]
    if options.device == "cpu":
        return [_measure(options, here, meter), *estimates]
    with tempfile.TemporaryDirectory(prefix="qviz-") as beside:
        save_checkpoint(lowered, beside)
        subject = _on_device(load_checkpoint(beside), options)
        return [_measure(options, subject, meter), *estimates]


def _plan(
    session: Session,
    choice: Choice,
    prices: Prices,
) -> tuple[tuple[Trade, ...], tuple[LatencyMark, ...]]:
    """What each op costs and gains in float, and the recipes measured in the run."""
    from qviz.bench_plan import marks, trades
    from qviz.estimate import Anchor, effects
    from qviz.intervals import Interval
    from qviz.run_results import ranking

    points = _points(session, choice)
    drops = {ops: point.drop for ops, point in points.items()}
    whole = points.get(frozenset())
    anchor = None
    if whole is not None and whole.divergence is not None:
        anchor = Anchor(whole.drop, Interval(whole.low, whole.high), whole.divergence)
    known = ranking(session, choice.base)
    effect = effects([] if known is None else [known])
    ops = tuple(choice.operands)
    rows = trades(prices, session.graph, ops, effect, anchor, drops)
    places, now = list(points), frozenset(choice.ops)
    current = places.index(now) if now in points else None
    return rows, marks(prices, list(points.items()), current=current)


def _points(session: Session, choice: Choice) -> dict[frozenset[str], SkipPoint]:
    """What the run's last search has measured with these ranges, by the ops left in float."""
    from qviz.run_results import searched
    from qviz.ui.plan_choice import Choice

    result = searched(session.run)
    if result is None or Choice.of(result.recipe, session.graph).base != choice.base:
        return {}
    found: dict[frozenset[str], SkipPoint] = {}
    for point in result.curve:
        left = choice.with_left(choice.whole(point.skipped))
        found.setdefault(frozenset(left.ops), point)
    return found


def _plain(trades: Sequence[Trade], points: Sequence[LatencyMark]) -> dict[str, object]:
    return {"trades": trades, "points": points}
