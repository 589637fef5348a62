"""The forms that open a visitor's own model: by path, or by a small upload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from qviz.errors import QvizError
from qviz.ui import jobs_view, opening, visit, words
from qviz.ui.launch import Start
from qviz.ui.opening import LIMIT_MB, METRICS, PROFILES, Typed
from qviz.ui.workspace import Workspace

#: No file system has longer paths.
LONGEST = 4096
_FIELDS = tuple(Typed.__dataclass_fields__)


def forms(workspace: Workspace | None) -> None:
    """Both forms, what went wrong with the last opening above them."""
    _wrong(workspace)
    by_path, by_upload = st.tabs(["Files on this machine", "Upload small files"])
    with by_path:
        _refill(workspace)
        _path_form()
    with by_upload:
        _upload_form()


def _wrong(workspace: Workspace | None) -> None:
    if said := st.session_state.get("start_error"):
        st.error(said)
    elif workspace is not None:
        shown = workspace.opening.snapshot()
        if shown.state in ("failed", "cancelled"):
            jobs_view.failure(shown)
    before = visit.workspaces().find(st.session_state.get("start_before"))
    if before is not None and before is not workspace:
        st.button(
            f"Back to {words.model_name(before.start).rpartition('/')[2]}",
            key="start_back",
            on_click=_back,
            args=(before,),
        )


def _back(before: Workspace) -> None:
    st.session_state.pop("start_error", None)
    visit.look_at(before)


def _refill(workspace: Workspace | None) -> None:
    """After a reload the fields are as they were when the opening failed."""
    if workspace is None or workspace.opening.snapshot().state not in ("failed", "cancelled"):
        return
    if str(workspace.start.model).startswith(str(opening.uploads())):
        return
    for field in _FIELDS:
        if f"start_{field}" not in st.session_state:
            st.session_state[f"start_{field}"] = getattr(workspace.start, field) or ""


def _path_form() -> None:
    with st.form("start_paths", border=False):
        st.text_input(
            "Model",
            key="start_model",
            placeholder="/path/to/model.pt2, or a run folder",
            help="A .pt2 file that torch.export.save wrote; a run folder of the command line or of "
            "this app, then everything else comes from it; or sample:NAME. " + _code_help(),
            max_chars=LONGEST,
            persist_state="session",
        )
        left, right = st.columns(2)
        left.text_input(
            "Calibration data",
            key="start_calibration",
            placeholder="/path/to/calibration.npz",
            help="Ranges come from it: a .npz, .safetensors or .pt file of arrays, or a folder of "
            "images with a folder per class. 512 samples are plenty",
            max_chars=LONGEST,
            persist_state="session",
        )
        right.text_input(
            "Evaluation data (optional)",
            key="start_evaluation",
            placeholder="/path/to/evaluation.npz",
            help="It measures: other samples than those of calibration, with labels if there are "
            "any. Without it there are ranges, and no accuracy",
            max_chars=LONGEST,
            persist_state="session",
        )
        with st.expander("Training data, weights, preprocessing, metric, profile, run folder"):
            st.text_input(
                "Training data",
                key="start_train",
                placeholder="/path/to/train.npz",
                help="Only for methods that train (page Win back): other samples than those of "
                "calibration and evaluation",
                max_chars=LONGEST,
                persist_state="session",
            )
            left, right = st.columns(2)
            left.text_input(
                "Weights",
                key="start_weights",
                placeholder="weights.safetensors",
                help="Put into a sample, or into what a Python factory builds. A .pt2 file has its "
                "own",
                max_chars=LONGEST,
                persist_state="session",
            )
            right.text_input(
                "Preprocessing",
                key="start_preprocessing",
                placeholder="preprocessing.toml",
                help="What is done to pixels before the model sees them",
                max_chars=LONGEST,
                persist_state="session",
            )
            left.selectbox(
                "Metric",
                ("", *METRICS),
                key="start_metric",
                format_func=lambda name: name or "what suits the data",
                accept_new_options=True,
                help="top1 and top5 need labels, the others compare with the float model",
                persist_state="session",
            )
            right.selectbox(
                "Profile",
                PROFILES,
                key="start_profile",
                help="The engine whose rules the ranges follow",
                persist_state="session",
            )
            st.text_input(
                "Run folder",
                key="start_run",
                placeholder="a folder of its own is made",
                help="Everything measured is kept here. One that exists goes on where it stopped, "
                "if it belongs to this model and these data",
                max_chars=LONGEST,
                persist_state="session",
            )
        st.form_submit_button("Open", key="start_open", on_click=_open_paths)
        st.caption(f"Paths are those of the machine that runs qviz; relative to {Path.cwd()}.")


def _code_help() -> str:
    if opening.code_allowed():
        return "A Python factory, file.py:name, runs that code."
    return "A Python factory can be named on the command line only: qviz app file.py:name."


def _upload_form() -> None:
    with st.form("start_uploads", border=False):
        columns = st.columns(3)
        for column, (role, endings), title in zip(
            columns,
            opening.UPLOADS.items(),
            ("Model", "Calibration data", "Evaluation data (optional)"),
            strict=True,
        ):
            column.file_uploader(
                f"{title}: {' '.join(f'.{one}' for one in endings)}, at most {LIMIT_MB} MB",
                type=list(endings),
                key=f"start_upload_{role}",
                max_upload_size=LIMIT_MB,
            )
        st.form_submit_button("Upload and open", key="start_upload_open", on_click=_open_uploads)
        st.caption(
            f"At most {LIMIT_MB} MB a file; larger ones by their path. They are kept on the "
            "machine that runs qviz until it ends. A .npz file holds the inputs as an array "
            "called inputs, and the labels, if there are any, as one called labels."
        )


def _open_paths() -> None:
    fields = {name: str(st.session_state.get(f"start_{name}") or "") for name in _FIELDS}
    fields["profile"] = fields["profile"] or PROFILES[0]
    _open(lambda: opening.start_from(Typed(**fields)))


def _open_uploads() -> None:
    files = {role: st.session_state.get(f"start_upload_{role}") for role in opening.UPLOADS}
    profile = st.session_state.get("start_profile") or PROFILES[0]
    _open(lambda: opening.uploaded(files, profile))


def open_run(folder: Path) -> None:
    """Open a run folder; for callbacks."""
    _open(lambda: opening.of_run(folder))


def _open(make: Callable[[], Start]) -> None:
    """Open what ``make`` says, or keep why not; what was open can be gone back to."""
    try:
        start = make()
    except QvizError as failure:
        st.session_state["start_error"] = str(failure)
        return
    except OSError as failure:  # a path the system refuses: too long, no permission
        shown = str(failure.filename or "the file")
        shown = shown if len(shown) < 100 else f"{shown[:60]} … {shown[-30:]}"
        st.session_state["start_error"] = f"{shown}: {str(failure.strerror).lower()}."
        return
    st.session_state.pop("start_error", None)
    before = visit.current()
    st.session_state["start_before"] = None if before is None else before.id
    visit.open_model(start)
