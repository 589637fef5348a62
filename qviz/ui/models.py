"""Models that are open on this server: each once, however many visits look at it.

Opening is a job, so that a page can show how far it is and why it failed. What a model's job
returns is an ``Opened``: the Session with its calibration, a worker for long verbs, a live meter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qviz.errors import RecipeError, RunFolderError
from qviz.jobs import Job, Worker
from qviz.ui.launch import Start

if TYPE_CHECKING:
    from qviz.calibration import Calibration
    from qviz.meter import LiveMeter
    from qviz.progress import OnProgress
    from qviz.recipe import Recipe
    from qviz.session import Session

#: Environment variable that names the folder in which runs started in the app are kept.
VARIABLE = "QVIZ_RUNS"
#: Ranges of a draft before anything is measured: the one no other is far better than on any tensor.
FIRST_CALIBRATOR = "mse"
#: Models that stay open; the one looked at longest ago goes first.
MOST = 4
#: Tuned weights of a model whose histograms are kept.
SEEN = 8

T = TypeVar("T")


@dataclass(eq=False)
class Opened:
    """One model at work, shared by all visits that look at it.

    Attributes:
        start: what was asked for.
        session: the model, its data and everything measured; it has a run folder.
        calibration: histograms and candidate ranges.
        worker: runs long verbs, one at a time.
        meter: measures recipes live; None without evaluation data.
        first: the recipe that visits start from, and in words what it is.
        hardest: the op with the tensor that loses most under it; "" if there is none.
        closed: it was closed to make room for others.
    """

    start: Start
    session: Session
    calibration: Calibration
    worker: Worker
    meter: LiveMeter | None
    first: tuple[Recipe, str]
    hardest: str
    closed: bool = False
    _memo: dict[str, Any] = field(default_factory=dict)
    _seen: OrderedDict[str, Calibration] = field(default_factory=OrderedDict)

    def seen(self, recipe: Recipe) -> bool:
        """Whether ``calibration_of`` this recipe is there without a pass over the data."""
        return not recipe.weights or recipe.weights in self._seen

    def calibration_of(self, recipe: Recipe, progress: OnProgress | None = None) -> Calibration:
        """Histograms and candidates with the weights that a recipe was made for.

        Other weights make other values: tuned ones need a pass of their own, once.
        """
        if not recipe.weights:
            return self.calibration
        if recipe.weights not in self._seen:
            histograms = self.session.histograms_of(recipe, progress)
            self._seen[recipe.weights] = replace(self.calibration, histograms=histograms)
            while len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        return self._seen[recipe.weights]

    def memo(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once: tables and figures that do not change with the draft."""
        if key not in self._memo:
            self._memo[key] = make()
        found: T = self._memo[key]
        return found


class Models:
    """Every open model by what was asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Start, Job] = {}
        self._workers: dict[Start, Worker] = {}

    def open(self, start: Start) -> Job:
        """The job that opens a model, or has opened it; a failed one is tried again."""
        with self._lock:
            start = self._same_folder(start)
            job = self._jobs.pop(start, None)
            if job is None or job.snapshot().state in ("failed", "cancelled"):
                worker = Worker(f"qviz {start.model}")
                self._workers[start] = worker
                job = worker.submit(f"open {start.model}", lambda own: _open(start, worker, own))
            self._jobs[start] = job  # at the end: last used
            self._forget()
            return job

    def _same_folder(self, start: Start) -> Start:
        """What was asked for, or what was asked for earlier and works in the same run folder.

        A process writes to a run folder through one session: a second would close the first. One
        without the training data that are asked for now makes room.
        """
        if start not in self._jobs:
            for earlier, job in list(self._jobs.items()):
                if replace(earlier, run=None, train=None) != replace(start, run=None, train=None):
                    continue  # another model: its folder refuses this one
                opened = job.snapshot().result
                run = opened.session.run if isinstance(opened, Opened) else None
                if run is None or run.path.resolve() != folders(start)[0].resolve():
                    continue
                if start.train in (None, earlier.train):
                    return earlier
                self._close(earlier)
        return start

    def close(self, seconds: float) -> None:
        """Close every model; what runs is cancelled, and waited for as long as given."""
        with self._lock:
            for start in list(self._jobs):
                self._close(start, seconds)

    def _forget(self) -> None:
        idle = [s for s in self._jobs if not self._workers[s].busy]
        for start in idle[: max(0, len(self._jobs) - MOST)]:
            self._close(start)

    def _close(self, start: Start, seconds: float = 0.0) -> None:
        job = self._jobs.pop(start)
        self._workers.pop(start).close(seconds)
        result = job.snapshot().result
        if isinstance(result, Opened):
            result.closed = True
            if result.meter is not None:
                result.meter.close(seconds)
            if result.session.run is not None:
                result.session.run.close()


def runs_folder() -> Path:
    """Where runs started in the app are kept: ``$QVIZ_RUNS``, or ``~/.qviz/runs``."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".qviz" / "runs"


def start_of_run(folder: Path) -> Start:
    """What a run folder was made from, to open it again.

    Raises:
        RunFolderError: there is no run, or how its model was opened is not known.
    """
    from qviz.cli_remember import made_with

    stored, there = made_with(folder.resolve(), argparse.Namespace())
    return Start(
        model=_absolute(stored.model, there),
        calibration=_absolute(stored.calibration, there),
        evaluation=_absolute(stored.evaluation, there),
        run=str(folder.resolve()),
        weights=_absolute(stored.weights, there),
        preprocessing=_absolute(stored.preprocessing, there),
        profile=stored.profile or "cuda",
        metric=_absolute(stored.metric, there),
        train=_absolute(stored.train, there),
    )


def _absolute(spec: str | None, folder: Path) -> str | None:
    """A path of then, also ``file.py:name``, made independent of the working folder."""
    path, colon, name = (spec or "").partition(":")
    return f"{folder / path}{colon}{name}" if path and (folder / path).exists() else spec


def _open(start: Start, worker: Worker, job: Job) -> Opened:
    from qviz import opening
    from qviz.cli_remember import OPTIONS, REMEMBERED, stored_options
    from qviz.meter import LiveMeter

    for folder in folders(start):
        known = stored_options(folder) if folder.is_dir() else {}
        job.check()
        try:
            session = opening.open(
                str(start.model),
                calibration=start.calibration,
                evaluation=start.evaluation,
                training=start.train,
                metric=start.metric,
                weights=start.weights,
                preprocessing=start.preprocessing,
                run_dir=folder,
                profile=start.profile,
                batch_size=known.get("batch_size") or opening.BATCH_SIZE,
                memory_budget=known.get("memory_budget") or opening.MEMORY_BUDGET,
                fold_batch_norm=known.get("fold") is not False,
                seed=known.get("seed") or 0,
                command=("qviz", "app", str(start.model)),
            )
            break
        except RunFolderError:
            # in use by another process: go on beside it, unless this very folder was asked for
            if start.run is not None or folder.name.endswith("-9"):
                raise
    assert session.run is not None  # a folder was named
    options = {name: known.get(name) for name in REMEMBERED} | {
        name: value for name, value in asdict(start).items() if name in REMEMBERED
    }
    options |= {"batch_size": known.get("batch_size") or opening.BATCH_SIZE, "cwd": str(Path.cwd())}
    session.run.write_text(OPTIONS, json.dumps(options, indent=2) + "\n")
    calibration = session.calibrate(progress=job.tell)
    if session.evaluation_data is not None:  # else its shape would be found out much later
        session.simulator.program.inputs(next(session.evaluation_data.head(1).batches(1)))
    meter = None
    if session.evaluation_data is not None:
        meter = LiveMeter(session, lambda: worker.busy)
    first = _first(session)
    return Opened(start, session, calibration, worker, meter, first, _hardest(session, calibration))


def _first(session: Session) -> tuple[Recipe, str]:
    """The recipe that a run on the command line ended with if it fits, else all int8."""
    from qviz.recipe import Recipe, resolve

    assert session.run is not None  # every session here has one
    path = session.run.path / "recipe.json"
    if path.exists():
        try:
            recipe = Recipe.from_json(path.read_text(encoding="utf-8"), str(path))
            resolve(recipe, session.graph_of(recipe))
        except (RecipeError, OSError) as failure:
            session.warnings.append(f"{failure} It is left out")
        else:
            return recipe, "as the run has it"
    return session.recipe(FIRST_CALIBRATOR), f"all int8, {FIRST_CALIBRATOR} ranges"


def _hardest(session: Session, calibration: Calibration) -> str:
    from qviz.calibrators import ClipRange, describe

    sqnr = {
        r.tensor: describe(
            calibration.histograms[r.tensor], ClipRange(r.lo, r.hi), calibration.grid
        ).sqnr_db
        for r in session.recipe(FIRST_CALIBRATOR).ranges
    }
    graph = session.graph
    reads = [
        (sqnr.get(operand.tensor, math.inf), index, op.name)
        for index, op in enumerate(graph.quantizable)
        for operand in op.operands
        if operand.kind == "activation"
    ]
    return min(reads, default=(0.0, 0, ""))[2]


def folders(start: Start) -> list[Path]:
    """Run folders to try, in order: the one asked for, or a few names of its own."""
    if start.run is not None:
        return [Path(start.run)]
    name = re.sub(r"\W+", "-", str(start.model).removeprefix("sample:").rsplit("/", 1)[-1])
    asked = repr(start) + (start.train or "")
    digest = hashlib.blake2b(asked.encode(), digest_size=4).hexdigest()
    stem = runs_folder() / f"{name.strip('-') or 'model'}-{digest}"
    return [stem, *(stem.with_name(f"{stem.name}-{n}") for n in range(2, 10))]
