"""The export page: choose formats and a folder, write, and see what was proven."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from qviz import background
from qviz.cli_remember import OPTIONS
from qviz.export import EXPORTERS
from qviz.int8.verify import verify
from qviz.jobs import Job
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.recipe_diff import differences
from qviz.session import Session
from qviz.tables_export import files_table, results_table
from qviz.ui import export_formats, jobs_view
from qviz.ui import export_words as words
from qviz.ui.export_certificate import certificate
from qviz.ui.export_folder import Target, Written, target, written
from qviz.ui.workspace import Workspace

#: Folder in the run folder that is offered.
OFFERED = "export"
#: Formats named in the title of a job; of more, the number.
NAMED = 3
#: What of a format's result the page shows in other ways.
SHOWN = ("folder", "files", "certificate", "kernels", "changed", "refused")


@dataclass(frozen=True, eq=False)
class Made:
    """What an export job gives: where it wrote, and what each format says about it."""

    folder: Path
    formats: dict[str, Any]


def choose(workspace: Workspace) -> tuple[tuple[str, ...], Target]:
    """The formats and the folder that the page says, and the button that writes."""
    st.subheader("Write")
    run = _run(workspace)
    formats, near = export_formats.choose(workspace)
    typed = st.text_input(
        "Folder",
        workspace.export_folder or str(run / OFFERED),
        key=f"export_folder_{workspace.id}",
        persist_state="session",
        help=words.FOLDER_HELP,
    )
    found = target(typed, run)
    workspace.export_folder = typed  # a reload finds it again
    if found.error is not None:
        st.error(words.plain(found.error))
    elif str(found.path) != typed.strip():
        st.caption(f"Will be written to {words.plain(str(found.path))}")
    if found.note is not None and not _busy(workspace):
        st.info(words.plain(found.note))
    st.button(
        "Export",
        key="export_start",
        type="primary",
        shortcut="Ctrl+Enter",
        disabled=found.error is not None or not formats or _busy(workspace),
        on_click=start,
        args=(workspace, found.path, formats),
        kwargs={"near": near},
    )
    return formats or (next(iter(EXPORTERS)),), found


def start(
    workspace: Workspace, folder: Path, formats: Sequence[str], *, near: bool = False
) -> None:
    """Export the draft; for callbacks."""
    session, recipe = workspace.opened.session, workspace.recipe
    write = background.export(session, recipe, folder, formats, nearest_recipe=near)
    work = _work(session, recipe, folder, write)
    title = ", ".join(formats) if len(formats) <= NAMED else f"{len(formats)} formats"
    workspace.submit("export", f"export {title}", work)


def _work(
    session: Session, recipe: Recipe, folder: Path, write: Callable[[Job], dict[str, Any]]
) -> Callable[[Job], Made]:

    def work(job: Job) -> Made:
        try:
            made = write(job)
        finally:  # what does not pass is there all the same, and can be verified again
            if session.run is not None and folder.is_dir():
                with contextlib.suppress(OSError):
                    shutil.copyfile(session.run.path / OPTIONS, folder / OPTIONS)
        session.save("recipe", recipe)  # the decision of this run, as the command line keeps it
        return Made(folder, made)

    return work


def verify_again(workspace: Workspace, folder: Path) -> None:
    """Verify what a folder holds; for callbacks."""
    session = workspace.opened.session
    data = session.evaluation_data or session.calibration_data
    metric = session.metric
    if metric.needs_labels and not data.labelled:
        metric = METRICS["agreement"]
    workspace.submit(
        "verify",
        "verify the int8 program",
        lambda job: verify(folder, data, metric, progress=job.tell),
    )


def result(workspace: Workspace, folder: Path) -> None:
    """The running job, or what is in the folder and what was proven about it."""
    for kind in ("export", "verify"):
        job = workspace.jobs.get(kind)
        if job is None:
            continue
        shown = job.snapshot()
        if shown.active:
            jobs_view.progress(job, key=f"export_{kind}")
            return
        jobs_view.failure(shown)
    made = _made(workspace, folder)
    found = written(folder, sure=made is not None)
    if found is None and made is None:
        return
    st.subheader("What was written")
    if made is not None:
        _told(made.formats)
    if found is None:  # all of them refused
        return
    st.code(str(folder), language=None)
    st.dataframe(
        files_table(found.files),
        column_config=words.FILE_COLUMNS,
        hide_index=True,
        width="content",
        alt="Files that were written, with their sizes",
    )
    _same_recipe(workspace, found)
    if not found.runs:
        return
    certificate(workspace, found)
    st.button(
        "Verify" if found.certificate is None else "Verify again",
        key="export_verify",
        help=words.VERIFY_HELP,
        on_click=verify_again,
        args=(workspace, folder),
    )


def _told(formats: dict[str, Any]) -> None:
    """What became of each format, in words, and what each reports beside its files."""
    st.dataframe(
        results_table(formats),
        column_config=words.RESULT_COLUMNS,
        hide_index=True,
        width="stretch",
        alt="Formats with what became of them",
    )
    rest = {
        name: {key: value for key, value in told.items() if key not in SHOWN}
        for name, told in formats.items()
    }
    if reports := {name: found for name, found in rest.items() if found}:
        with st.expander("What a format reports"):
            name = st.selectbox("Format", list(reports), key="export_reports")
            st.json(reports[name], expanded=1)


def _made(workspace: Workspace, folder: Path) -> Made | None:
    job = workspace.jobs.get("export")
    made = None if job is None else job.snapshot().result
    return made if isinstance(made, Made) and made.folder == folder else None


def _same_recipe(workspace: Workspace, found: Written) -> None:
    if found.recipe is None or found.recipe == workspace.recipe:
        return
    texts = [one.text for one in differences(workspace.recipe, found.recipe)]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    st.info(words.plain(f"The draft has changed since: {'; '.join(texts[:3])}{more}."))


def _run(workspace: Workspace) -> Path:
    run = workspace.opened.session.run
    assert run is not None  # an opened model has one
    return run.path.resolve()


def _busy(workspace: Workspace) -> bool:
    jobs = (workspace.jobs.get(kind) for kind in ("export", "verify"))
    return any(job is not None and job.snapshot().active for job in jobs)
