"""What the page Win back remembers of one visit: where methods apply, and jobs of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qviz.errors import QvizError
from qviz.jobs import Job
from qviz.recipe import Recipe
from qviz.tune.methods import METHODS
from qviz.ui.workspace import Workspace

#: Kinds of jobs that this page starts; while one runs, no other is begun here.
KINDS = ("tune", "remedies", "allocate", "pipeline", "qat", "auto")
#: Recipes of which it is remembered where methods apply.
KEPT = 32


@dataclass(frozen=True)
class Sites:
    """Where one method applies.

    Attributes:
        names: ops or tensors, most promising first where that is known.
        problem: why it is not known, in words; "" if it is.
    """

    names: tuple[str, ...] = ()
    problem: str = ""


@dataclass(eq=False)
class TuneState:
    """The memory of one visit.

    Attributes:
        sites: by recipe, the job that finds out where each method applies.
    """

    sites: dict[Recipe, Job] = field(default_factory=dict)


def state_of(workspace: Workspace) -> TuneState:
    """The memory of a workspace."""
    return workspace.memo("tune", TuneState)


def running(workspace: Workspace) -> Job | None:
    """The job of this page that waits or runs."""
    jobs = (workspace.jobs.get(kind) for kind in KINDS)
    return next((job for job in jobs if job is not None and job.snapshot().active), None)


def sites_job(workspace: Workspace) -> Job:
    """Finds out where each method applies on the draft: a mapping of names to ``Sites``.

    It is started if there is none, or if the last one was stopped.
    """
    memory, recipe = state_of(workspace).sites, workspace.recipe
    job = memory.get(recipe)
    if job is None or job.snapshot().state == "cancelled":
        work = _look(workspace, recipe)
        job = memory[recipe] = workspace.submit("sites", "See which methods apply", work)
        while len(memory) > KEPT:
            del memory[next(iter(memory))]
    return job


def _look(workspace: Workspace, recipe: Recipe) -> Callable[[Job], Mapping[str, Sites]]:
    session = workspace.opened.session

    def work(job: Job) -> Mapping[str, Sites]:
        subject = session.subject(recipe, progress=job.tell)
        found: dict[str, Sites] = {}
        for name, method in METHODS.items():
            job.check()
            try:
                found[name] = Sites(method.module.sites(subject))
            except QvizError as failure:
                found[name] = Sites(problem=str(failure))
            job.publish(dict(found))
        return found

    return work
