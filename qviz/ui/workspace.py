"""Workspace: what one visit is working on - the draft recipe with undo, its variants, its jobs.

Kept on the server under an id that stands in the address (``?w=``): a reload, or the same address
in another tab, finds it again; an address without it starts a workspace of its own.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from qviz.jobs import Job, Snapshot
from qviz.ui import variant_names
from qviz.ui.history import History, Step
from qviz.ui.launch import Start
from qviz.ui.models import Models, Opened
from qviz.ui.sensitivity_results import Rankings

if TYPE_CHECKING:
    # at runtime only once a model is open: the first page must not wait for torch
    from qviz.meter import LiveResult
    from qviz.recipe import Recipe

T = TypeVar("T")

#: Workspaces that are remembered.
MOST = 64


class Workspace:
    """One visit's work on one model.

    Attributes:
        id: stands in the address.
        start: what was asked for.
        jobs: the last job of each kind: "sensitivity", "search", "calibrators", "export".
        finished: of each kind the one before it that ran to its end.
        rankings: what sensitivity was measured, and what the form of that page says.
        export_folder: what the export page has for a folder, None until it was opened.
    """

    def __init__(self, start: Start, opening: Job) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.start = start
        self.opening = opening
        self.jobs: dict[str, Job] = {}
        self.finished: dict[str, Job] = {}
        self.rankings = Rankings()
        self.export_folder: str | None = None
        self._memo: dict[str, object] = {}
        self._history: History | None = None

    @property
    def opened(self) -> Opened:
        """The model; only once ``opening`` is done."""
        found = self.opening.snapshot().result
        assert isinstance(found, Opened), "the model is not open yet"
        return found

    def memo(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once: what a page remembers of this visit."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    @property
    def history(self) -> History:
        """Recipes of this visit, with undo and redo."""
        if self._history is None:
            self._history = History((Step(*self.opened.first),))
        return self._history

    @property
    def recipe(self) -> Recipe:
        """The draft: what every page shows and changes."""
        return self.history.recipe

    def apply(self, recipe: Recipe, label: str) -> None:
        """Change the draft; ``label`` says in words what was done."""
        self._history = self.history.then(recipe, label)

    def undo(self) -> None:
        """Take the last change back."""
        self._history = self.history.undo()

    def redo(self) -> None:
        """Do the last change taken back again."""
        self._history = self.history.redo()

    def live(self) -> LiveResult | None:
        """What is measured of the draft so far; asking starts the measurement. None: no data."""
        meter = self.opened.meter
        return None if meter is None else meter.ask(self.id, self.recipe)

    @property
    def variants(self) -> dict[str, Recipe]:
        """Named recipes, oldest first; the run folder keeps them. Change them with ``keep``.

        The names are the app's: see ``variant_names.shown``.
        """
        kept = self.opened.session.variants
        return {own: kept[name] for own, name in variant_names.shown(kept).items()}

    def keep(self, name: str, recipe: Recipe | None) -> None:
        """Keep a recipe under a name, or forget the name (None).

        Raises:
            RecipeError: the name is empty, always there, or another variant's.
        """
        names = variant_names.shown(self.opened.session.variants)
        if recipe is not None:
            variant_names.check(name, names)
        self.opened.session.keep(names.get(name, name), recipe)

    def submit(self, kind: str, title: str, work: Callable[[Job], object]) -> Job:
        """Start a job of a kind; one of that kind that still runs is cancelled first."""
        before = self.jobs.get(kind)
        if before is not None:
            before.cancel()
            if before.snapshot().state == "done":
                self.finished[kind] = before
        self.jobs[kind] = self.opened.worker.submit(title, work)
        return self.jobs[kind]

    def standing(self, kind: str, usable: Callable[[Snapshot], bool]) -> Job | None:
        """The job whose result a page shows, None if there is none.

        The last one, while it runs and once it is done. One that was cancelled or failed stands
        only where what it found is ``usable``; else the result before it does.
        """
        job = self.jobs.get(kind)
        if job is None:
            return None
        shown = job.snapshot()
        stands = shown.active or shown.state == "done" or usable(shown)
        return job if stands else self.finished.get(kind)


class Workspaces:
    """All workspaces of this server by id, and the models they look at."""

    def __init__(self) -> None:
        self.models = Models()
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Workspace] = OrderedDict()

    def create(self, start: Start) -> Workspace:
        """A new workspace; the model is opened if it is not open."""
        made = Workspace(start, self.models.open(start))
        with self._lock:
            self._known[made.id] = made
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return made

    def find(self, id: str | None) -> Workspace | None:
        """A workspace by id, None if there is none (any more)."""
        with self._lock:
            found = self._known.get(id or "")
            if found is not None:
                self._known.move_to_end(found.id)
        if found is not None:
            # opened again if it was closed to make room for others
            found.opening = self.models.open(found.start) if _closed(found) else found.opening
        return found


def _closed(workspace: Workspace) -> bool:
    found = workspace.opening.snapshot().result
    return isinstance(found, Opened) and found.closed
