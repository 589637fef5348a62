"""From what a visitor typed or dropped to a Start: what is refused, and why, before anything runs.

Nothing here imports torch until a visitor presses Open: the landing page stands on it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import streamlit as st

from qviz.errors import InputError, ModelError, RunFolderError
from qviz.ui import launch
from qviz.ui.launch import Start

#: Profiles and metrics, as text: importing their modules would import torch.
PROFILES = ("cuda", "tensorrt", "ort-cpu")
METRICS = ("top1", "top5", "agreement", "kl", "cosine", "mse", "sqnr")
#: An upload lies in the server's memory, so larger files are named by their path.
LIMIT_MB = 64
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Endings that an uploaded file may have.
UPLOADS = {"model": ("pt2",), "calibration": ("npz",), "evaluation": ("npz",)}


class Upload(Protocol):
    """What Streamlit hands over; ``name`` is the visitor's and never becomes a path."""

    @property
    def name(self) -> str:
        """Of the visitor's file."""

    def getvalue(self) -> bytes:
        """Its content."""


@dataclass(frozen=True)
class Typed:
    """The fields of the form, as they were typed.

    Attributes:
        model: file, run folder or ``sample:NAME``.
        calibration: data that ranges come from.
        evaluation: data that measure.
        weights: put into what a factory built.
        preprocessing: TOML file of what is done to pixels.
        metric: a name; "" is what suits the data.
        profile: whose rules the ranges follow.
        run: folder to keep everything in, or to go on from.
        train: data that methods that train learn from.
    """

    model: str = ""
    calibration: str = ""
    evaluation: str = ""
    weights: str = ""
    preprocessing: str = ""
    metric: str = ""
    profile: str = PROFILES[0]
    run: str = ""
    train: str = ""


def code_allowed() -> bool:
    """Whether a visitor may name Python code: only if the server says so, and only on loopback."""
    return launch.policy().allow_code and st.get_option("server.address") in LOOPBACK


def start_from(typed: Typed) -> Start:
    """What to open.

    Raises:
        InputError: a file is missing, a field is, or a Python factory is named and not allowed.
    """
    model = _plain(typed.model)
    if not model:
        raise ModelError(
            "Model", "nothing is named", "Type the path of a .pt2 file or a run folder"
        )
    if Path(model).expanduser().is_dir():
        return of_run(Path(model).expanduser().resolve(), typed)
    start = Start(
        model=_file(model, "model"),
        calibration=_file(_plain(typed.calibration), "calibration data"),
        evaluation=_file(_plain(typed.evaluation), "evaluation data"),
        run=str(Path(run).absolute()) if (run := _plain(typed.run)) else None,
        weights=_file(_plain(typed.weights), "weights"),
        preprocessing=_file(_plain(typed.preprocessing), "preprocessing"),
        profile=typed.profile,
        metric=_plain(typed.metric) or None,
        train=_file(_plain(typed.train), "training data"),
    )
    if not model.startswith("sample:") and start.calibration is None:
        raise InputError(
            "Calibration data",
            "none are named, and ranges come from them",
            "Type the path of a .npz file or of a folder of images",
        )
    check(start)
    return start


def check(start: Start) -> None:
    """Refuse code that a visitor may not run, and name what a checkpoint would have run.

    Raises:
        InputError: see above.
    """
    from qviz.loading_factory import is_factory

    asked = (start.model, start.calibration, start.evaluation, start.train)
    named = [t for t in asked if t is not None and not t.startswith("sample:")]
    named.append(start.metric or "")
    code = [text for text in named if is_factory(text)]
    # what the command line named is the choice of whoever started the server
    if code and not code_allowed() and start != launch.start():
        raise ModelError(
            code[0],
            "it is Python code, and opening it would run it",
            "Name it on the command line, qviz app "
            f"{code[0]}, or start the server with qviz app --allow-code",
        )
    path = Path(start.model or "")
    if path.suffix in (".pt", ".pth", ".th", ".bin", ".ckpt") and path.is_file():
        from qviz.loading_weights import read_weights

        read_weights(path)  # says what is blocked in it; else the loader says what is missing


def of_run(folder: Path, typed: Typed | None = None) -> Start:
    """What a run folder was made from; the same Start as then if it was made in the app.

    Args:
        folder: of the run.
        typed: data named with it take the place of those of then.

    Raises:
        InputError: there is no run, it cannot be opened again, or it needs code.
    """
    from qviz.cli_remember import stored_options
    from qviz.ui.models import start_of_run

    found = start_of_run(folder)
    stored = stored_options(folder)
    if folder.parent == _runs().resolve() and stored.get("cwd") == str(Path.cwd()):
        named = (
            "model",
            "calibration",
            "evaluation",
            "weights",
            "preprocessing",
            "metric",
            "train",
        )
        again = Start(**{k: stored.get(k) for k in named}, profile=stored.get("profile") or "cuda")
        # Open already, or opened by this very form: two workspaces share one session then
        if _folder_of(again) == folder.name:
            found = again
    if typed is not None:
        found = replace(
            found,
            calibration=_file(_plain(typed.calibration), "calibration data") or found.calibration,
            evaluation=_file(_plain(typed.evaluation), "evaluation data") or found.evaluation,
            train=_file(_plain(typed.train), "training data") or found.train,
        )
    missing = Path(found.model or "")
    if missing.is_absolute() and not missing.exists():
        raise RunFolderError(
            str(folder), f"its model is gone: {missing}", "Put it back, or open the model elsewhere"
        )
    check(found)
    return found


def _runs() -> Path:
    from qviz.ui.models import runs_folder

    return runs_folder()


def _folder_of(start: Start) -> str:
    from qviz.ui import models

    return models.folders(start)[0].name


def uploaded(files: dict[str, Upload | None], profile: str) -> Start:
    """What to open, from uploaded files, which are kept until the server ends.

    Args:
        files: by role, see ``UPLOADS``.
        profile: whose rules the ranges follow.

    Raises:
        InputError: a file is missing, too large, or of another kind.
    """
    for role, what in (("model", "a .pt2 file"), ("calibration", "a .npz file")):
        if files.get(role) is None:
            raise InputError(
                f"Upload of the {role}",
                f"there is none, or it has more than {LIMIT_MB} MB",
                f"Drop {what} on it; type the path of a larger one",
            )
    kept = {role: _kept(role, file) for role, file in files.items() if file is not None}
    return replace(Start(profile=profile), **kept)


def _kept(role: str, file: Upload) -> str:
    """Keep an upload under a name of the server's own; the same content has the same name."""
    content = file.getvalue()
    shown = Path(file.name).name[:80]
    ending = Path(shown).suffix.lower().removeprefix(".")
    if ending not in UPLOADS[role]:
        wanted = " or ".join(f".{one}" for one in UPLOADS[role])
        raise InputError(shown, f"it is not a {wanted} file", f"Drop a {wanted} file as the {role}")
    if len(content) > LIMIT_MB << 20:
        raise InputError(
            shown,
            f"it has more than {LIMIT_MB} MB, and uploads may have no more",
            "Put it on the machine that runs qviz, and type its path",
        )
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = uploads() / f"upload-{digest}.{ending}"
    path.write_bytes(content)
    return str(path)


@st.cache_resource(show_spinner=False)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="qviz-uploads-")


def uploads() -> Path:
    """Folder of uploaded files; it goes when the server ends."""
    return Path(_folder().name)


def _plain(text: str) -> str:
    """Without the quotes that a file manager puts around a copied path."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return text.removeprefix("file://")


def _file(text: str, what: str) -> str | None:
    """A path made absolute; what is no path (a sample, a factory) is left as it is.

    Raises:
        InputError: there is no such file.
    """
    if not text:
        return None
    head, colon, name = text.rpartition(":")
    if text.startswith("sample:"):
        return text
    if colon and name.isidentifier() and len(head) > 1:
        path = Path(head).expanduser()
        return f"{path.absolute()}:{name}" if path.suffix == ".py" and path.exists() else text
    path = Path(text).expanduser()
    if not path.exists():
        raise InputError(
            text, f"there is no such file or folder ({what})", "Check the path; it is on the server"
        )
    return str(path.absolute())
