"""EXPORTERS: one small file per format, all called the same way.

``export`` gives every exporter the same ``Request`` and returns what each has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qviz.errors import InputError
from qviz.export import checkpoint
from qviz.export.request import Request, Source, make_request
from qviz.progress import OnProgress
from qviz.recipe import Recipe

__all__ = ["EXPORTERS", "Exporter", "Request", "Source", "export"]

#: Writes one format into ``request.folder``; the result is plain values, for people and machines.
Exporter = Callable[[Request], dict[str, Any]]

EXPORTERS: dict[str, Exporter] = {
    "checkpoint": checkpoint.export,
}


def export(
    source: Source,
    recipe: Recipe,
    folder: str | Path,
    *,
    formats: Sequence[str] = ("checkpoint",),
    progress: OnProgress | None = None,
) -> dict[str, dict[str, Any]]:
    """Write a recipe in one or more formats.

    Args:
        source: the model and its data; a ``Session`` is one.
        recipe: the decision.
        folder: made if it is not there.
        formats: names in ``EXPORTERS``, or ``all``.
        progress: told how far it is.

    Returns:
        By format, what was written and how it compares with the simulation; plain values.

    Raises:
        InputError: a format is not known.
        CheckpointError: the folder cannot be written.
        ParityError: integer execution differs from the simulation; the files are there all the
            same, with the report in ``parity.json``.
    """
    chosen = list(EXPORTERS) if "all" in formats else list(dict.fromkeys(formats))
    for name in chosen:
        if name not in EXPORTERS:
            raise InputError(
                f"format {name!r}",
                "there is no such format",
                f"Choose among {', '.join(EXPORTERS)}, or all",
            )
    request = make_request(source, recipe, Path(folder), progress)
    return {name: EXPORTERS[name](request) for name in chosen}
