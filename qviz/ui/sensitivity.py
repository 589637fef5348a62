"""The Sensitivity page: the form, the job that measures, and what it has found so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from qviz import records
from qviz.errors import RecipeError
from qviz.jobs import Job, Snapshot
from qviz.ranking import Sensitivity
from qviz.recipe import Recipe
from qviz.sensitivity import targets_of
from qviz.ui import jobs_view, visit
from qviz.ui import sensitivity_parts as parts
from qviz.ui import sensitivity_words as words
from qviz.ui.sensitivity_results import Kept, Setting, kept, work
from qviz.ui.workspace import Workspace

KIND = "sensitivity"
#: How often the rows of a running job are drawn, in seconds: rarer than its bar, they are more.
POLL = 1.0


def require_data(workspace: Workspace) -> None:
    """Stop the page in words if there is nothing to measure on."""
    if workspace.opened.session.evaluation_data is not None:
        return
    st.info(words.NO_DATA)
    st.page_link(visit.start_page(), label="Open it again with evaluation samples")
    st.stop()


def form(workspace: Workspace) -> tuple[Setting, Recipe]:
    """What is to be measured, and the button that does it."""
    rankings = workspace.rankings
    before = rankings.setting
    with st.container(horizontal=True, vertical_alignment="bottom"):
        mode = st.segmented_control(
            "INT8 is",
            list(words.MODES),
            format_func=words.MODES.__getitem__,
            default=before.mode,
            required=True,
            key="sensitivity_mode",
            help=words.MODE_HELP,
        )
        operands = st.segmented_control(
            "Part",
            list(words.PARTS),
            format_func=words.PARTS.__getitem__,
            default=before.operands,
            required=True,
            key="sensitivity_part",
            help=words.PART_HELP,
        )
        granularity = st.segmented_control(
            "Per",
            list(words.GRAINS),
            format_func=words.GRAINS.__getitem__,
            default=before.granularity,
            required=True,
            key="sensitivity_grain",
            help=words.GRAIN_HELP,
        )
        at = st.container(width="content")
    rankings.setting = Setting(mode, operands, granularity)
    recipe = _recipe(workspace)
    job = workspace.jobs.get(KIND)
    at.button(
        "Run",
        key="sensitivity_run",
        type="primary",
        shortcut="Ctrl+Enter",
        disabled=job is not None and job.snapshot().active,
        on_click=_run,
        args=(workspace, recipe, (rankings.setting,)),
    )
    return rankings.setting, recipe


def _recipe(workspace: Workspace) -> Recipe:
    """The draft, without what it leaves in float unless that is wanted."""
    draft, rankings = workspace.recipe, workspace.rankings
    if draft.skipped:
        rankings.with_skips = st.checkbox(
            "Rank only what the draft has in INT8",
            value=rankings.with_skips,
            key="sensitivity_with_skips",
            help="Otherwise every op is ranked, also those that the draft leaves in float",
        )
    whole = draft.unskip(*draft.skipped)
    return draft if rankings.with_skips else whole


def submit(workspace: Workspace, recipe: Recipe, settings: Sequence[Setting]) -> Job:
    """Measure some settings, as one job."""
    title = f"Sensitivity: {', then '.join(words.title(one) for one in settings)}"
    job = workspace.submit(KIND, title, work(workspace.opened.session, recipe, settings))
    workspace.rankings.follow(job, recipe, settings)
    return job


def _run(workspace: Workspace, recipe: Recipe, settings: Sequence[Setting]) -> None:
    submit(workspace, recipe, settings)
    st.session_state[parts.AGAIN] = True  # where the button stands in a live part of the page


def status(workspace: Workspace, setting: Setting, recipe: Recipe) -> None:
    """The job that runs, or how much is measured already and why the last one stopped."""
    session = workspace.opened.session
    assert session.evaluation_data is not None
    samples = session.evaluation_data.count
    st.caption(words.recipe_measured(recipe, workspace.recipe, samples, session.metric.name))
    try:
        names = tuple(
            targets_of(
                recipe,
                session.graph,
                operands=setting.operands,
                granularity=setting.granularity,
            )
        )
    except RecipeError as error:
        st.warning(str(error))
        st.stop()
    job = workspace.jobs.get(KIND)
    shown = None if job is None else job.snapshot()
    ready = _kept(workspace, setting, recipe, names)
    idle = shown is None or shown.state in ("done", "cancelled")
    if ready.complete and idle and workspace.rankings.of(setting, recipe) is None:
        job = submit(workspace, recipe, (setting,))  # nothing is left to measure: it only reads
        shown = job.snapshot()
    if job is not None and shown is not None and shown.active:
        st.fragment(lambda: _running(workspace, job), run_every=jobs_view.POLL)()
        return
    if shown is not None and shown.state == "failed":
        jobs_view.failure(shown)
    if not ready.complete:
        stopped = shown is not None and shown.state == "cancelled"
        if line := words.before_line(ready, setting.granularity, stopped=stopped):
            st.info(line)


def _running(workspace: Workspace, job: Job) -> None:
    """Bar, time left and Cancel."""
    shown = job.snapshot()
    if not shown.active:
        st.rerun()
    at, stop = st.columns([5, 1], vertical_alignment="center")
    with at:
        _bar(shown)
    with stop:
        jobs_view.cancel(job, shown, key="sensitivity", keeps="What is measured so far is kept")


def _bar(shown: Snapshot) -> None:
    now = shown.progress
    if now is None:
        jobs_view.bar(shown)
        return
    ranking = shown.partial if isinstance(shown.partial, Sensitivity) else None
    share = min(now.done / max(now.total, 1), 1.0)
    st.progress(share, text=words.progress_line(now, ranking))


def _kept(workspace: Workspace, setting: Setting, recipe: Recipe, names: Sequence[str]) -> Kept:
    """How much of a ranking exists: in this visit, else in the run folder."""
    opened = workspace.opened
    session = opened.session
    assert session.evaluation_data is not None
    here = workspace.rankings.of(setting, recipe)
    if here is not None:
        measured = {row.name: row.samples for row in here.rows}
    else:
        # read once: what is measured from now on is in the visit's own rankings
        folder = opened.memo("samples measured", lambda: records.samples_measured(session.run))
        key = session.sweep_key(recipe, setting.mode, setting.operands, setting.granularity)
        measured = folder.get(key, {})
    return kept(names, measured, session.evaluation_data.count)


def results(workspace: Workspace, setting: Setting, recipe: Recipe) -> None:
    """What is found so far; redrawn in place while a job runs."""
    job = workspace.jobs.get(KIND)
    active = job is not None and job.snapshot().active

    def draw() -> None:
        if st.session_state.pop(parts.AGAIN, False):
            st.rerun()  # what was clicked shows outside this part of the page too
        found, of = _shown(workspace, setting, recipe)
        if found is None:
            st.info(f"Nothing is measured yet for: {words.title(setting)}. Press Run.")
            return
        if of != recipe:
            st.warning(
                f"The draft has changed since: these rows are of {words.recipe_line(of)}. "
                "Run measures the present one."
            )
        st.subheader(words.headline(found, setting.granularity), anchor=False)
        st.caption(words.basis_line(found))
        left, right = st.columns([3, 2], gap="large")
        with left:
            parts.bars(workspace, found, setting)
        with right:
            parts.chosen(workspace, found)
            parts.exclude(workspace, found)
        parts.more(
            workspace,
            found,
            lambda: _causes(workspace, setting, of),
        )

    st.fragment(draw, run_every=POLL if active else None)()


def _shown(
    workspace: Workspace, setting: Setting, recipe: Recipe
) -> tuple[Sensitivity | None, Recipe]:
    """The ranking of this recipe, else of the last one that was ranked the same way."""
    rankings = workspace.rankings
    found = rankings.of(setting, recipe)
    job = workspace.jobs.get(KIND)
    if found is not None or (job is not None and job.snapshot().active):
        return found, recipe
    earlier = rankings.earlier(setting, recipe)
    return (rankings.of(setting, earlier[0]), earlier[0]) if earlier else (None, recipe)


def _causes(workspace: Workspace, setting: Setting, recipe: Recipe) -> None:
    """Weights beside activations, and the button that measures what is missing of them."""
    per_op = replace(setting, granularity="op")
    found = workspace.rankings.parts(per_op, recipe)
    missing = [kind for kind in words.PARTS if not _whole(found.get(kind))]
    parts.causes(workspace, found)
    if missing:
        job = workspace.jobs.get(KIND)
        st.button(
            f"Measure {' and '.join(missing)}",
            key="sensitivity_missing",
            on_click=_run,
            args=(workspace, recipe, [replace(per_op, operands=kind) for kind in missing]),
            disabled=job is not None and job.snapshot().active,
        )


def _whole(found: Sensitivity | None) -> bool:
    return found is not None and all(row.exact for row in found.rows)
