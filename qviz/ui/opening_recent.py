"""Runs that were made before: in the folder of runs, and whatever this server was started with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import streamlit as st

from qviz.ui import launch, opening_form
from qviz.ui.models import runs_folder

#: Runs shown.
SHOWN = 6


@dataclass(frozen=True)
class Recent:
    """One run folder, as a list shows it.

    Attributes:
        path: of the folder.
        model: as it was named.
        used: when something was last written to it.
        calibration: number of samples, None if unknown.
        evaluation: number of samples, None if there are none.
    """

    path: Path
    model: str
    used: datetime
    calibration: int | None
    evaluation: int | None


def recent_runs(folder: Path, also: tuple[Path, ...] = (), most: int = SHOWN) -> list[Recent]:
    """Run folders, the one last used first; a folder that cannot be read is left out.

    Args:
        folder: whose sub-folders are looked at.
        also: run folders elsewhere.
        most: how many.
    """
    inside = list(folder.iterdir()) if folder.is_dir() else []
    found = [one for path in {*inside, *also} if (one := _read(path)) is not None]
    return sorted(found, key=lambda one: one.used, reverse=True)[:most]


def _read(path: Path) -> Recent | None:
    # as plain JSON: qviz.store would import torch
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        counts = [(manifest.get(k) or {}).get("count") for k in ("calibration", "evaluation")]
        used = datetime.fromtimestamp(max(p.stat().st_mtime for p in path.iterdir()), UTC)
        return Recent(path, str(manifest["model"]["spec"]), used, *counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, for a person: ``5 min ago``, ``3 days ago``."""
    seconds = max(0, int((now - moment).total_seconds()))
    for size, one, many in (
        (86400, "day", "days"),
        (3600, "hour", "hours"),
        (60, "minute", "minutes"),
    ):
        if seconds >= size:
            count = seconds // size
            return f"{count} {one if count == 1 else many} ago"
    return "just now"


def sizes(one: Recent) -> str:
    """How many samples it has."""
    parts = [
        f"{count:,} {what}"
        for count, what in ((one.calibration, "calibration"), (one.evaluation, "evaluation"))
        if count
    ]
    return f"{' and '.join(parts)} samples" if parts else "no data known"


def recent() -> None:
    """The list; says nothing when there is no run."""
    run = launch.start().run
    found = recent_runs(runs_folder(), () if run is None else (Path(run),))
    if not found:
        return
    st.subheader("Recent runs")
    now = datetime.now(UTC)
    for one in found:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                one.path.name,
                key=f"start_run_{one.path.name}",
                on_click=opening_form.open_run,
                args=(one.path,),
                help=str(one.path),
            )
            model = one.model.rsplit("/", 1)[-1]
            st.markdown(
                f"{ago(one.used, now)} · `{model}` · {sizes(one)}",
                width="stretch",
            )
