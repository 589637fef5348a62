"""What a run folder remembers of the command that made it, so that later commands can go on.

A finished row is worth keeping only beside rows measured alike, and a run is exported from the same
model and data: both need the options of then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qviz.errors import RunFolderError

#: The file in a run folder that keeps them.
OPTIONS = "options.json"
#: Options a run folder remembers, to open the same model and data again.
REMEMBERED = (
    "model",
    "weights",
    "calibration",
    "evaluation",
    "train",
    "preprocessing",
    "metric",
    "profile",
    "batch_size",
    "memory_budget",
    "fold",
    "seed",
)
#: Of these, what finished rows depend on, with the file that holds them: another value needs
#: another folder.
FIXED = {
    "batch_size": (32, "sensitivity.jsonl"),
    "memory_budget": (2 << 30, "sensitivity.jsonl"),
    "fold": (True, "histograms.npz"),
}


def remembered(options: argparse.Namespace) -> dict[str, object]:
    """The options that ``options.json`` keeps."""
    return {name: getattr(options, name, None) for name in REMEMBERED}


def settle(options: argparse.Namespace, folder: Path) -> None:
    """Fill in what was not said from the run folder, or from the defaults.

    Raises:
        RunFolderError: what was said differs from what the folder's rows were measured with.
    """
    stored = stored_options(folder) if folder.is_dir() else {}
    for name, (default, file) in FIXED.items():
        said = getattr(options, name)
        before = stored.get(name) if (folder / file).exists() else None
        if said is not None and before is not None and said != before:
            raise RunFolderError(
                str(folder),
                f"what is in {file} was measured with {_words(name, before)}, now {said}",
                "Repeat that, or name another run folder",
            )
        chosen = said if said is not None else before
        setattr(options, name, default if chosen is None else chosen)


def _words(name: str, value: object) -> str:
    return f"{'batch norm folding' if name == 'fold' else name.replace('_', ' ')} {value}"


def stored_options(folder: Path) -> dict[str, Any]:
    """What ``options.json`` of a run folder holds; empty if there is none.

    Raises:
        RunFolderError: it is damaged.
    """
    path = folder / OPTIONS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as failure:
        raise RunFolderError(
            str(path), "it cannot be read", "Delete it, and repeat the command that made the run"
        ) from failure
    return found if isinstance(found, dict) else {}


def made_with(folder: Path, options: argparse.Namespace) -> tuple[argparse.Namespace, Path]:
    """The options that a run was made with, and the working folder it was made in.

    Raises:
        RunFolderError: there is no run, or its options are not known.
    """
    from qviz.store import RunFolder

    RunFolder.view(folder)
    stored = stored_options(folder)
    if not stored.get("model"):
        raise RunFolderError(
            str(folder),
            "how its model was opened is not known, because it was not made on the command line",
            "Export it in Python with session.export()",
        )
    known = {name: stored.get(name) for name in REMEMBERED}
    there = Path(str(stored.get("cwd") or Path.cwd()))
    there = there if there.is_dir() else Path.cwd()
    return argparse.Namespace(**{**vars(options), **known}), there


@contextlib.contextmanager
def opened_again(folder: Path, options: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """``made_with``, in the working folder of then.

    Raises:
        RunFolderError: see ``made_with``.
    """
    known, there = made_with(folder, options)
    with contextlib.chdir(there):
        yield known
