"""What a run folder belongs to: the model, the data, the versions and the command."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from qviz import store_codec
from qviz.errors import RunFolderError

FORMAT = "qviz-run"
VERSION = 1
_ROLES = ("model", "calibration", "evaluation")


@dataclass(frozen=True)
class Source:
    """Where a model or data came from.

    Attributes:
        spec: as the user named it.
        digest: of its contents.
        count: number of samples; None for a model.
    """

    spec: str
    digest: str
    count: int | None = None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "qviz"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Manifest:
    """What is run, and with what.

    Attributes:
        model: the model.
        calibration: the calibration data; None if there are none.
        evaluation: the evaluation data; None if there are none.
        seed: of everything random.
        command: the command line, or how the Python API was called.
        versions: see ``versions``; of the first run.
        created: when the folder was made, UTC.
    """

    model: Source
    calibration: Source | None = None
    evaluation: Source | None = None
    seed: int = 0
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=versions)
    created: str = field(default_factory=_now)

    def to_json(self) -> dict[str, object]:
        """Plain values for ``manifest.json``."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Versions that differ from the installed ones: name -> (then, now)."""
        now = versions()
        return {k: (v, now[k]) for k, v in self.versions.items() if k in now and now[k] != v}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none.

    Raises:
        RunFolderError: it is damaged, not ours, or of a newer version.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        values: Any = store_codec.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise ValueError("another format")
        version = int(values["version"])
        if version <= VERSION:
            return Manifest(
                **{role: Source(**values[role]) if values[role] else None for role in _ROLES},  # type: ignore[arg-type]
                seed=int(values["seed"]),
                command=tuple(values["command"]),
                versions=dict(values["versions"]),
                created=str(values["created"]),
            )
    except (ValueError, KeyError, TypeError) as failure:
        raise RunFolderError(
            str(path), "it is damaged, or not of a run", "Name another run folder"
        ) from failure
    raise RunFolderError(
        str(path),
        f"it is of version {version}, written by a newer qviz; this one knows {VERSION}",
        "Update qviz, or name another run folder",
    )


def reconciled(stored: Manifest, given: Manifest, folder: Path) -> Manifest:
    """The manifest to go on with: the stored one, plus data it did not have yet.

    Raises:
        RunFolderError: the model or the data are not those of the folder.
    """
    differing: list[str] = []
    added: dict[str, Source] = {}
    for role in _ROLES:
        old: Source | None = getattr(stored, role)
        new: Source | None = getattr(given, role)
        if old is None and new is not None:
            added[role] = new
        elif old is not None and new is not None and old.digest != new.digest:
            what = "model" if role == "model" else f"{role} data"
            differing.append(f"another {what} ({old.digest[:8]}, now {new.digest[:8]})")
    if differing:
        raise RunFolderError(
            str(folder),
            f"it belongs to {' and '.join(differing)}",
            "Name another run folder, or give what it was made with; the order of the data counts",
        )
    return replace(stored, **added)  # type: ignore[arg-type]
