"""Long verbs in a notebook: run in the background, seen while they run, cancelled with a button.

With ipywidgets the cell returns at once, and a bar, the rows so far and a Cancel button stay below
it; without, it waits behind a text bar, and interrupting the kernel cancels. Either way a finished
job leaves its plain figure and table, so that a saved notebook holds no widget.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qviz import background
from qviz.auto import Strategy
from qviz.errors import Cancelled, QvizError
from qviz.jobs import Job, Snapshot, Worker
from qviz.notebook_html import View
from qviz.notebook_live import Live, TextBar, live_parts
from qviz.notebook_show import Place, bundle, draws, figure_bundle, shell, show
from qviz.notebook_view import view
from qviz.recipe import Recipe
from qviz.search.skip import Method, SearchResult
from qviz.sensitivity import Granularity, Mode, Operands, Sensitivity
from qviz.session import Session
from qviz.tune.qat_options import QATOptions

#: Shortest time between two pictures of a running job, in seconds.
EVERY = 0.25

_WORKERS: weakref.WeakKeyDictionary[Session, Worker] = weakref.WeakKeyDictionary()


class Watch:
    """A job on the page; made by ``watch`` and by the verbs of ``start``.

    Attributes:
        job: what is watched.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._lock = threading.Lock()
        self._drawn = 0.0
        self._over = False
        ip = shell()
        parts = live_parts(job) if draws(ip) else None
        if parts is None:
            self._live: Live | None = None
            return
        self._live = parts
        self._figure = Place(ip, {"text/html": "", "text/plain": ""})
        self._rest = Place(ip, parts.bundle())
        self._draw(job.snapshot())
        self._end_subscription = job.subscribe(self._seen)
        if not (now := job.snapshot()).active:  # it had ended before anybody listened
            self._close(now)

    def result(self) -> Any:  # noqa: ANN401 - whatever the work returns
        """Wait for the job and return what it found.

        Of a cancelled job that is what it had published by then. Interrupting the kernel while
        this waits cancels the job.

        Raises:
            Cancelled: it was cancelled before it had found anything.
            QvizError: it failed; the message says why.
        """
        end = self.wait()
        if end.state == "failed":
            reason = (end.error or "failed").rstrip(".")
            raise QvizError(end.title, reason, "`.snapshot().trace` has the traceback")
        found = end.result if end.state == "done" else end.partial
        if found is None and end.state == "cancelled":
            raise Cancelled(end.title, "cancelled", "Start it again to go on")
        return found

    def wait(self) -> Snapshot:
        """Wait for the end, cancel if the kernel is interrupted; the last snapshot."""
        try:
            end = self.job.wait()
        except KeyboardInterrupt:
            self.job.cancel()
            end = self.job.wait()
        self._close(end)
        return end

    def snapshot(self) -> Snapshot:
        """The job as it is now."""
        return self.job.snapshot()

    def cancel(self) -> None:
        """Ask the job to stop; what it has found stays."""
        self.job.cancel()

    def __repr__(self) -> str:
        return f"<Watch of {self.job.title}: {self.job.snapshot().state}>"

    def _ipython_display_(self) -> None:
        """It is on the page already, as the output of the cell that made it."""

    def _seen(self, shown: Snapshot) -> None:
        # on the worker's thread, where an error would end the job: a page that is gone must not
        try:
            if not shown.active:
                self._close(shown)
            elif time.monotonic() - self._drawn >= EVERY or shown.cancelling:
                self._draw(shown)
        except Exception:  # whatever the kernel's connection raises
            self._end_subscription()

    def _draw(self, shown: Snapshot) -> None:
        with self._lock:
            if self._live is not None and not self._over:
                self._drawn = time.monotonic()
                self._live.draw(shown)

    def _close(self, end: Snapshot) -> None:
        """Put the plain outputs in the place of the widgets; again if asked again."""
        with self._lock:
            if self._live is None:
                return
            shown = outcome(end)
            # Twice does no harm, and once may be lost: a notebook that is run as a script takes
            # outputs only from the thread that runs its cell.
            if figure := figure_bundle(shown):
                self._figure.fill(figure)
            self._rest.fill(bundle(shown))
            if not self._over:
                self._over = True
                self._live.close()


def outcome(end: Snapshot) -> View:
    """How an ended job is shown: its result, or what it had and why it stopped."""
    found = end.result if end.state == "done" else end.partial
    shown = view(found)
    took = f"{end.title}: {end.state} after {end.seconds:.1f} s"
    if end.state == "failed":
        return View(took, (end.error or "failed",))
    if shown is None:
        return View(took)
    return View(shown.text, (f"{took}.", *shown.notes), shown.tables, shown.figure)


def watch(job: Job) -> Watch:
    """Show a job while it runs: progress, time left, what it has found so far, Cancel.

    Returns:
        The watch; its ``result()`` waits for the job.
    """
    shown = Watch(job)
    if shown._live is None:  # no widgets: there is no button, so the cell has to stay interruptible
        show(outcome(TextBar(job).run()))
    return shown


class Verbs:
    """The long verbs of a session as watched jobs, one at a time; made by ``start``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        if session not in _WORKERS:
            _WORKERS[session] = Worker("qviz-notebook")
        self._worker = _WORKERS[session]

    def run(self, title: str, work: Callable[[Job], object]) -> Watch:
        """Work of your own: it is given the job, to ``tell`` its progress and ``publish``."""
        return watch(self._worker.submit(title, work))

    def calibrate(self) -> Watch:
        """``Session.calibrate``."""
        session = self._session
        return self.run("Calibrate", lambda job: session.calibrate(progress=job.tell))

    def best_calibrator(self) -> Watch:
        """``Session.best_calibrator``."""
        return self.run("Compare calibrators", background.calibrators(self._session))

    def evaluate(self, recipe: Recipe | None = None) -> Watch:
        """``Session.evaluate``."""
        return self.run("Evaluate", background.evaluation(self._session, recipe))

    def sensitivity(
        self,
        recipe: Recipe,
        *,
        mode: Mode = "only_this",
        operands: Operands = "both",
        granularity: Granularity = "op",
    ) -> Watch:
        """``Session.sensitivity``; the rows come worst first."""
        work = background.sensitivity(
            self._session, recipe, mode=mode, operands=operands, granularity=granularity
        )
        return self.run("Sensitivity", work)

    def search(
        self,
        recipe: Recipe,
        *,
        max_drop: float = 0.01,
        method: Method = "greedy",
        sensitivity: Sensitivity | None = None,
    ) -> Watch:
        """``Session.search``; each measured point comes as it is found."""
        work = background.search(
            self._session, recipe, max_drop=max_drop, method=method, sensitivity=sensitivity
        )
        return self.run("Search", work)

    def tune(
        self,
        method: str,
        recipe: Recipe | None = None,
        *,
        ops: Sequence[str] | None = None,
        name: str | None = None,
        **options: float | int | str | bool,
    ) -> Watch:
        """``Session.tune``."""
        work = background.tune(self._session, method, recipe, ops=ops, name=name, **options)
        return self.run(f"Tune ({method})", work)

    def qat(self, recipe: Recipe | None = None, options: QATOptions | None = None) -> Watch:
        """``Session.qat``; the loss of each epoch comes as it is measured."""
        chosen = recipe or self._session.recipe()
        return self.run("Train", background.qat(self._session, chosen, options))

    def remedies(
        self,
        recipe: Recipe,
        *,
        sites: int | Sequence[str] = 3,
        sensitivity: Sensitivity | None = None,
        methods: Sequence[str] | None = None,
    ) -> Watch:
        """``Session.remedies``; each attempt comes as it is measured."""
        work = background.remedies(
            self._session, recipe, sites=sites, sensitivity=sensitivity, methods=methods
        )
        return self.run("Remedies", work)

    def auto(
        self,
        *,
        max_drop: float = 0.01,
        strategy: Strategy = "guided",
        time_budget: float | None = None,
        weight_bits: int = 8,
        activation_bits: int = 8,
    ) -> Watch:
        """``Session.auto``; each step comes as it ends."""
        work = background.auto(
            self._session,
            max_drop=max_drop,
            strategy=strategy,
            time_budget=time_budget,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
        )
        return self.run("Escalate", work)

    def export(
        self,
        recipe: Recipe | SearchResult,
        folder: str | Path,
        *,
        formats: Sequence[str] = ("checkpoint",),
    ) -> Watch:
        """``Session.export``."""
        recipe = recipe.recipe if isinstance(recipe, SearchResult) else recipe
        return self.run("Export", background.export(self._session, recipe, Path(folder), formats))


def start(session: Session) -> Verbs:
    """The long verbs of a session, each run in the background and watched.

    ``start(session).sensitivity(recipe)`` shows the ranking as it comes; ``.result()`` waits for
    it. Jobs of one session run one after the other.
    """
    return Verbs(session)
