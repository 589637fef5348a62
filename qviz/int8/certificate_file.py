"""The certificate in a checkpoint folder: written, read, and refused where the files have changed.

A certificate lists the digest of every file that it is about. One that was copied from another
checkpoint, or is older than the files beside it, says nothing about them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from qviz.errors import CheckpointError
from qviz.int8.certificate import VERIFY_AGAIN, Certificate
from qviz.int8.folder import sha256, unwritable
from qviz.store_files import replace_file

CERTIFICATE = "certificate.json"
VERIFY = "Make one with qviz verify"


@dataclass(frozen=True, eq=False)
class Standing:
    """What is proven about a folder.

    Attributes:
        certificate: None if there is none that is true for its files.
        problem: why there is one that is not; "" otherwise.
    """

    certificate: Certificate | None
    problem: str = ""


def write_certificate(folder: Path, found: Certificate) -> None:
    """Put a certificate beside the files it is about.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / CERTIFICATE
    try:
        replace_file(path, (json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n").encode())
    except OSError as failure:
        raise unwritable(path, failure) from failure


def read_certificate(folder: Path) -> Certificate:
    """The certificate of a folder, if it is true for the files in it.

    Raises:
        CheckpointError: there is none, it is damaged, of another version, or of other files.
    """
    path = folder / CERTIFICATE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(str(path), "there is none: not verified yet", VERIFY) from None
    except UnicodeDecodeError:
        raise CheckpointError(str(path), "it is damaged: not JSON", VERIFY_AGAIN) from None
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise CheckpointError(str(path), f"it cannot be read ({why})", VERIFY_AGAIN) from failure
    found = Certificate.from_json(text, str(path))
    for name, digest in found.subject.files.items():
        if _digest(folder / name) != digest:
            there = "has changed since" if (folder / name).is_file() else "is missing"
            raise CheckpointError(
                str(path),
                f"it is of other files than those beside it: {name} {there}",
                VERIFY_AGAIN,
            )
    return found


def standing(folder: Path) -> Standing:
    """What is proven about a folder, in words where it is nothing any more."""
    if not (folder / CERTIFICATE).is_file():
        return Standing(None)
    try:
        return Standing(read_certificate(folder))
    except CheckpointError as failure:
        return Standing(None, str(failure))


def _digest(path: Path) -> str:
    """Digest of a file, "" where there is none; kept as long as the file is untouched."""
    if not path.is_file():
        return ""
    found = path.stat()
    return _kept(path, found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(maxsize=256)
def _kept(path: Path, size: int, changed: int, inode: int) -> str:
    return sha256(path)
