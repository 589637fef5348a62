"""EXPORTERS: one small file per format, all called the same way.

``export`` gives every exporter the same ``Request`` and returns what each has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from qviz.errors import (
    FormatError,
    InputError,
    MissingExtraError,
    ParityError,
    QvizError,
    UnsupportedModelError,
)
from qviz.export.formats import EXPORTERS, Exporter, Format
from qviz.export.limits import Limits, Nearest, nearest
from qviz.export.request import Request, Source, make_request
from qviz.progress import OnProgress
from qviz.recipe import Recipe

__all__ = [
    "EXPORTERS",
    "Exporter",
    "Format",
    "Limits",
    "Nearest",
    "Request",
    "Source",
    "chosen_formats",
    "export",
    "nearest",
]

#: The format that lies in the folder itself; each other has a folder of its name in it.
CHECKPOINT = "checkpoint"
#: Told a format's name and what became of it.
OnResult = Callable[[str, dict[str, Any]], None]


def export(
    source: Source,
    recipe: Recipe,
    folder: str | Path,
    *,
    formats: Sequence[str] = (CHECKPOINT,),
    nearest_recipe: bool = False,
    refuse: Literal["raise", "report"] | None = None,
    on_result: OnResult | None = None,
    progress: OnProgress | None = None,
) -> dict[str, dict[str, Any]]:
    """Write a recipe in one or more formats.

    Args:
        source: the model and its data; a ``Session`` is one.
        recipe: the decision.
        folder: made if it is not there; the checkpoint lies in it, every other format in
            ``folder/NAME``.
        formats: names in ``EXPORTERS``, or ``all``: whatever can express the recipe and is
            installed.
        nearest_recipe: where a format cannot express the recipe, write the nearest one that it
            can; what was changed is in the result.
        refuse: whether a format that cannot express the recipe, or needs a package that is not
            installed, is raised or reported in its result; None raises unless it is ``all``.
        on_result: told of each format as soon as it is done: its name and result. The checkpoint
            comes last, so that its certificate covers what lies beside it.
        progress: told how far it is.

    Returns:
        By format, what was written and how it compares with the simulation; plain values. Of a
        format that was left out, ``refused`` says why; of one that failed (which is raised, so
        only ``on_result`` sees it), ``failed``.

    Raises:
        InputError: a format is not known.
        FormatError: a format asked for by name cannot express the recipe.
        UnsupportedModelError: a format asked for by name has no form for an op of the model.
        MissingExtraError: a format asked for by name needs a package that is not installed.
        CheckpointError: the folder cannot be written.
        ParityError: integer execution differs from the simulation; the files are there all the
            same, with what was found in ``certificate.json``.

    Whatever is raised is raised when all other formats are written.
    """
    names = chosen_formats(formats)
    requests: dict[Recipe, Request] = {}
    made: dict[str, dict[str, Any]] = {}
    failures: list[QvizError] = []
    lenient = refuse == "report" or (refuse is None and "all" in formats)
    for name in sorted(names, key=lambda each: each == CHECKPOINT):
        form = EXPORTERS[name]
        try:
            fit = nearest(source.graph, recipe, form.limits)
            if not nearest_recipe:
                fit.check(form.title)
            if fit.recipe not in requests:
                requests[fit.recipe] = make_request(source, fit.recipe, Path(folder), progress)
            request = requests[fit.recipe]
            if name != CHECKPOINT:
                request = replace(request, folder=Path(folder) / name)
            made[name] = form.export(request)
            if fit.changes:
                made[name]["changed"] = [str(change) for change in fit.changes]
        except (FormatError, MissingExtraError, UnsupportedModelError) as refusal:
            if not lenient:
                failures.append(refusal)
            made[name] = {"refused": str(refusal)}
        except (InputError, ParityError) as failure:
            failures.append(failure)
            made[name] = {"failed": str(failure)}
        if on_result is not None:
            on_result(name, made[name])
    if failures:
        raise failures[0]
    return {name: made[name] for name in names}


def chosen_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats asked for, each once.

    Raises:
        InputError: one is not known.
    """
    for name in formats:
        if name not in EXPORTERS and name != "all":
            raise InputError(
                f"format {name!r}",
                "there is no such format",
                f"Choose among {', '.join(EXPORTERS)}, or all",
            )
    return tuple(EXPORTERS) if "all" in formats else tuple(dict.fromkeys(formats))
