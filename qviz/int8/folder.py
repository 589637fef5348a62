"""Files of a checkpoint: written so that a folder is whole or not there, read only if undamaged.

Everything is made in memory first, written to a folder beside the target, and moved in one step.
Into a folder that exists the files are moved one by one, the manifest last: without it, or with one
whose digests do not fit, nothing is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qviz.errors import CheckpointError
from qviz.store_files import TEMPORARY, replace_file

FORMAT = "qviz-int8"
#: 1 stores every code in a byte; 2 has packed ones, which an older qviz cannot read.
VERSIONS = (1, 2)
MANIFEST = "checkpoint.json"
#: What nothing can be loaded without.
NEEDED = {"files": dict, "inputs": list, "calls": dict, "float_bytes": int}
EXPORT_AGAIN = "Export the checkpoint again, or copy the whole folder again"


def write_folder(
    folder: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], *, version: int = 1
) -> None:
    """Write a checkpoint.

    Args:
        folder: made if it is not there; other files in it are left alone.
        files: contents by name.
        manifest: what ``read_manifest`` gives back; digests of the files are added.
        version: the first version of the format that has all that the files use.

    Raises:
        CheckpointError: the folder cannot be written; an older checkpoint in it is still whole,
            or recognizably not.
    """
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    text = json.dumps({"format": FORMAT, "version": version, **manifest, "files": listed}, indent=1)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(str(folder), "it is a file, not a folder", "Name a folder")
    beside = folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        beside.mkdir(parents=True)
        for name, content in {**files, MANIFEST: f"{text}\n".encode()}.items():
            replace_file(beside / name, content)
        _move(beside, folder)
    except OSError as failure:
        raise unwritable(folder, failure) from failure
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)


def _move(source: Path, folder: Path) -> None:
    if not folder.exists():
        source.rename(folder)
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(source.iterdir(), key=lambda p: p.name == MANIFEST):
        path.replace(folder / path.name)


def unwritable(path: Path, failure: OSError) -> CheckpointError:
    """What the disk says, in one line."""
    why = (failure.strerror or str(failure) or type(failure).__name__).lower()
    return CheckpointError(
        str(path), f"it cannot be written ({why})", "Free some space or name another folder"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: the folder is missing, no checkpoint, damaged or of a later version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        reason = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise CheckpointError(str(folder), reason, "Name a folder that qviz export wrote")
    try:
        found: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            str(folder),
            f"it is no checkpoint, or writing it was interrupted: {MANIFEST} is missing",
            "Name a folder that qviz export wrote, or export again",
        ) from None
    except ValueError:
        raise CheckpointError(str(path), "it is damaged: not JSON", EXPORT_AGAIN) from None
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise CheckpointError(str(path), f"it cannot be read ({why})", EXPORT_AGAIN) from failure
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(
            str(path), f'it is not ours: "format" is not "{FORMAT}"', "Name a qviz checkpoint"
        )
    if found.get("version") not in VERSIONS:
        raise CheckpointError(
            str(path),
            f"version {found.get('version')} is none of {VERSIONS[0]} to {VERSIONS[-1]}, which "
            "this qviz reads",
            "Install the qviz that wrote it, or export again",
        )
    for key, kind in NEEDED.items():
        if not isinstance(found.get(key), kind):
            raise CheckpointError(str(path), f'it is damaged: "{key}" is missing', EXPORT_AGAIN)
    return found


def check_file(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """The path of a file of the checkpoint, after comparing it with its digest.

    Raises:
        CheckpointError: it is missing, shorter or longer, or its contents have changed.
    """
    path = folder / name
    listed = manifest["files"].get(name)
    if not isinstance(listed, dict) or not path.is_file():
        raise CheckpointError(str(path), "it is missing from the checkpoint", EXPORT_AGAIN)
    size = path.stat().st_size
    if size != listed.get("bytes"):
        raise CheckpointError(
            str(path), f"it is damaged: {size} bytes instead of {listed.get('bytes')}", EXPORT_AGAIN
        )
    if sha256(path) != listed.get("sha256"):
        raise CheckpointError(
            str(path), f"it is damaged: its sha256 is not the one in {MANIFEST}", EXPORT_AGAIN
        )
    return path


def sha256(path: Path) -> str:
    """Digest of a file's contents.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise CheckpointError(str(path), f"it cannot be read ({why})", EXPORT_AGAIN) from failure
    return digest.hexdigest()
