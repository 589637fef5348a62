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
#: Options by which methods apply elsewhere than by default: method, option, value.
Asked = frozenset[tuple[str, str, float | int | str | bool]]
#: Recipes, with such options, of which it is remembered where methods apply.
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
        sites: by recipe and options, the job that finds out where each method applies.
    """

    sites: dict[tuple[Recipe, Asked], Job] = field(default_factory=dict)


def state_of(workspace: Workspace) -> TuneState:
    """The memory of a workspace."""
    return workspace.memo("tune", TuneState)


def running(workspace: Workspace) -> Job | None:
    """The job of this page that waits or runs."""
    jobs = (workspace.jobs.get(kind) for kind in KINDS)
    return next((job for job in jobs if job is not None and job.snapshot().active), None)


def known_sites(workspace: Workspace, asked: Asked) -> dict[str, Sites]:
    """Where methods apply on the draft with these options, of those of which it is known."""
    found: dict[str, Sites] = {}
    for (recipe, options), job in list(state_of(workspace).sites.items()):
        if recipe == workspace.recipe:
            shown = job.snapshot()
            looked: Mapping[str, Sites] = shown.result or shown.partial or {}
            found |= {n: s for n, s in looked.items() if _of(n, options) == _of(n, asked)}
    return found


def _of(method: str, asked: Asked) -> Asked:
    return frozenset(one for one in asked if one[0] == method)


def sites_job(workspace: Workspace, asked: Asked) -> Job:
    """Finds out where each method applies on the draft; ``known_sites`` has what it finds.

    It is started if there is none, or if the last one was stopped; what is known is not looked for
    again.
    """
    memory, key = state_of(workspace).sites, (workspace.recipe, asked)
    job = memory.get(key)
    if job is None or job.snapshot().state == "cancelled":
        work = _look(workspace, asked, known_sites(workspace, asked))
        job = memory[key] = workspace.submit("sites", "See which methods apply", work)
        while len(memory) > KEPT:
            del memory[next(iter(memory))]
    return job


def _look(
    workspace: Workspace, asked: Asked, known: Mapping[str, Sites]
) -> Callable[[Job], Mapping[str, Sites]]:
    session, recipe = workspace.opened.session, workspace.recipe

    def work(job: Job) -> Mapping[str, Sites]:
        subject = session.subject(recipe, progress=job.tell)
        found = dict(known)
        for name, method in METHODS.items():
            if name in found:
                continue
            job.check()
            options = {option: value for _, option, value in _of(name, asked)}
            try:
                found[name] = Sites(method.module.sites(subject, **options))
            except QvizError as failure:
                found[name] = Sites(problem=str(failure))
            job.publish(dict(found))
        return found

    return work
