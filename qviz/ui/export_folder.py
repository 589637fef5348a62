"""A folder to export to: whether it can be, what is in it, what was written there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qviz.errors import QvizError
from qviz.int8.certificate_file import standing
from qviz.int8.checkpoint import RECIPE
from qviz.int8.folder import MANIFEST
from qviz.recipe import Recipe

#: Files listed of a folder.
LISTED = 200


@dataclass(frozen=True)
class Target:
    """Where an export would go.

    Attributes:
        path: absolute.
        error: why it cannot, in words; None if it can.
        note: what to know before; None if nothing.
    """

    path: Path
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True, eq=False)
class Written:
    """What is in a folder that was exported to.

    Attributes:
        files: name -> bytes.
        runs: whether there is an int8 program, which can be verified.
        recipe: that it was made from, None if that cannot be read.
        certificate: what verifying it found, as ``certificate.json`` has it; None if there is none
            that is true for these files.
        stale: why there is one that is not; "" otherwise.
    """

    files: dict[str, int]
    runs: bool
    recipe: Recipe | None
    certificate: dict[str, Any] | None
    stale: str


def target(text: str, run: Path) -> Target:
    """Where a typed path leads.

    Args:
        text: as typed; what is relative is in the run folder.
        run: the run folder, absolute.
    """
    if not text.strip():
        return Target(run, "Name a folder to write to.")
    if "\0" in text:
        return Target(run, "Name a folder to write to: a path has no null bytes.")
    try:
        path = Path(os.path.normpath(run / Path(text.strip()).expanduser()))
        return _looked_at(path, run)
    except (OSError, ValueError, RuntimeError) as failure:  # a null byte, a name too long, ~nobody
        why = getattr(failure, "strerror", None) or str(failure)
        return Target(run, f"{text.strip()[:80]}: it is no path ({why.lower()}).")


def _looked_at(path: Path, run: Path) -> Target:
    if path == run or path in run.parents:
        return Target(path, f"{path}: the run itself is in it. Name a folder of its own.")
    above = path
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        return Target(path, f"{above}: it is a file, not a folder. Name another folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        return Target(path, f"{above}: it cannot be written to. Name another folder.")
    names = sorted(p.name for p in path.iterdir()) if above == path else []
    if MANIFEST in names:
        return Target(path, note="There is an earlier export in it, which will be replaced.")
    if names:
        some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        return Target(
            path,
            note=f"There is something else in it ({some}). That stays, but for files of the same "
            "name.",
        )
    return Target(path)


def written(folder: Path, *, sure: bool = False) -> Written | None:
    """What was exported to a folder; None if nothing was.

    Args:
        folder: of the export.
        sure: something was, even if it is no checkpoint.
    """
    try:
        runs = (folder / MANIFEST).is_file()
        if not folder.is_dir() or not (runs or sure):
            return None
        files = {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))[:LISTED]
            if path.is_file()
        }
    except OSError:
        return None
    found = standing(folder)
    known = None if found.certificate is None else found.certificate.to_json()
    return Written(files, runs, _recipe(folder / RECIPE), known, found.problem)


def _recipe(path: Path) -> Recipe | None:
    try:
        return Recipe.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, QvizError):
        return None
