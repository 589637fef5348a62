"""LiveMeter: measures whatever recipe is looked at, on its own thread, the newest first.

First on the live samples (``live.py``), which takes a second; then, when nothing newer is asked
for and no job runs, on all evaluation data. Asking costs nothing and never waits.
"""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from qviz.errors import Cancelled, QvizError
from qviz.evaluate import Evaluation
from qviz.live import Live
from qviz.progress import Progress
from qviz.recipe import Recipe
from qviz.session import Session

#: Recipes whose results are remembered.
REMEMBERED = 256
#: How often a measurement that waits for a job looks again, in seconds.
PATIENCE = 0.5
#: How long a process that ends waits for a batch under way, in seconds.
ENDING = 5.0


@dataclass(frozen=True, eq=False)
class LiveResult:
    """What is known about one recipe so far.

    Attributes:
        live: measured on the live samples, None until then.
        full: measured on all evaluation data, None until then.
        error: why it cannot be measured, in words.
    """

    live: Evaluation | None = None
    full: Evaluation | None = None
    error: str | None = None

    @property
    def settled(self) -> bool:
        """Nothing more will come."""
        return self.full is not None or self.error is not None

    @property
    def best(self) -> Evaluation | None:
        """The measurement on the most samples."""
        return self.full or self.live


class LiveMeter:
    """One thread that measures recipes for any number of askers.

    Args:
        session: with evaluation data.
        busy: whether a job runs; all evaluation data waits until it does not.
    """

    def __init__(self, session: Session, busy: Callable[[], bool] = lambda: False) -> None:
        self._session = session
        self._busy = busy
        self._live: Live | None = None
        self._wanted: OrderedDict[str, Recipe | None] = OrderedDict()
        self._results: OrderedDict[Recipe | None, LiveResult] = OrderedDict()
        self._changed = threading.Condition()
        self._asked = 0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="qviz-live", daemon=True)
        self._thread.start()
        # a thread inside torch while the interpreter goes would abort the process
        atexit.register(self._end)

    def ask(self, owner: str, recipe: Recipe | None) -> LiveResult:
        """What is known about a recipe; what is missing is measured from now on.

        Args:
            owner: who looks; an owner looks at one recipe at a time, the last one asked for.
            recipe: None is the float model.
        """
        with self._changed:
            if owner not in self._wanted or self._wanted[owner] != recipe:
                self._wanted[owner] = recipe
                self._wanted.move_to_end(owner)
                self._asked += 1
                self._changed.notify_all()
            return self._results.get(recipe, LiveResult())

    def wait(self, recipe: Recipe | None, seconds: float, *, full: bool = False) -> LiveResult:
        """Wait until a recipe asked for is measured, or as long as given."""

        def ready() -> bool:
            found = self._results.get(recipe, LiveResult())
            return found.settled or (not full and found.live is not None)

        with self._changed:
            self._changed.wait_for(ready, seconds)
            return self._results.get(recipe, LiveResult())

    @property
    def samples(self) -> int:
        """How many samples the live measurement uses; 0 before the first."""
        return 0 if self._live is None else self._live.samples

    def close(self, seconds: float = 0.0) -> None:
        """End the thread, and wait as long as given until the batch under way is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        atexit.unregister(self._end)
        self._thread.join(seconds)

    def _end(self) -> None:
        self.close(ENDING)

    def _next(self) -> tuple[Recipe | None, bool] | None:
        """The recipe to measure and whether on all data; None if there is nothing to do."""
        newest_first = list(reversed(self._wanted.values()))
        for recipe in newest_first:
            found = self._results.get(recipe, LiveResult())
            if found.live is None and not found.settled:
                return recipe, False
        if not self._busy():
            for recipe in newest_first:
                if not self._results.get(recipe, LiveResult()).settled:
                    return recipe, True
        return None

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (job := self._next()) is None:
                    self._changed.wait(PATIENCE if self._pending() else None)
                if self._closed:
                    return
                assert job is not None  # the loop above ended
                recipe, everything = job
                asked = self._asked
            self._measure(recipe, everything, asked)

    def _pending(self) -> bool:
        return any(
            not self._results.get(recipe, LiveResult()).settled for recipe in self._wanted.values()
        )

    def _measure(self, recipe: Recipe | None, everything: bool, asked: int) -> None:
        def check() -> None:
            if self._closed or self._asked != asked:
                raise Cancelled("live measurement", "something newer was asked for", "Wait")

        def tell(_: Progress) -> None:
            check()

        try:
            if everything:
                full = self._session.evaluate(recipe, progress=tell)
                self._note(recipe, full=full)
            else:
                self._note(recipe, live=self._samples().measure(recipe, check))
        except Cancelled:
            return
        except QvizError as failure:
            self._note(recipe, error=str(failure))
        except Exception as failure:  # the user's metric; the page says so
            self._note(recipe, error=f"{type(failure).__name__}: {failure}")

    def _samples(self) -> Live:
        if self._live is None:
            self._live = self._session.live()
        return self._live

    def _note(
        self,
        recipe: Recipe | None,
        *,
        live: Evaluation | None = None,
        full: Evaluation | None = None,
        error: str | None = None,
    ) -> None:
        with self._changed:
            found = self._results.get(recipe, LiveResult())
            self._results[recipe] = replace(
                found, live=live or found.live, full=full or found.full, error=error
            )
            self._results.move_to_end(recipe)
            while len(self._results) > REMEMBERED:
                self._results.popitem(last=False)
            self._changed.notify_all()
