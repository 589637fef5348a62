"""Keep a C library's own messages off standard output.

HiGHS prints a line now and then (``HighsMipSolverData::transformNewIntegerFeasibleSolution``)
although nothing was asked for; it would stand in the middle of what ``--json`` prints.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing that C code prints in here reaches standard output."""
    _flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        _flush()  # what C still holds back
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not every system has it so
        ctypes.CDLL(None).fflush(None)
