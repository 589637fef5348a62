"""IMPORTERS: files of other tools that become a recipe, one small file per format.

A file says ranges and what is left in float; a recipe made from it can be looked at, measured and
improved like any other. Each importer's module has two functions::

    fits(path) -> bool                        whether the file looks like this format; never raises
    read(path, graph, base) -> Imported       the recipe; FormatError if it cannot be read
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qviz.errors import FormatError
from qviz.export.reading import json_of
from qviz.graph import Graph
from qviz.recipe import Recipe


@dataclass(frozen=True)
class Imported:
    """What a file of another tool says of a model.

    Attributes:
        recipe: ranges and skips of the file; what the format cannot say is the base's.
        notes: what was taken and what did not match, one sentence each, for a person.
    """

    recipe: Recipe
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Importer:
    """One format that can be read.

    Attributes:
        name: what ``--format`` calls it.
        title: for a person.
        module: has ``fits`` and ``read``; imported when it is needed.
        extra: extra of the package that brings what the importer imports, None if nothing is.
    """

    name: str
    title: str
    module: str
    extra: str | None = None

    def fits(self, path: Path) -> bool:
        """Whether a file looks like this format."""
        found: Callable[[Path], bool] = importlib.import_module(self.module).fits
        return found(path)

    def read(self, path: Path, graph: Graph, base: Recipe) -> Imported:
        """The recipe of a file.

        Raises:
            FormatError: it cannot be read, or nothing in it is of this model.
            MissingExtraError: what reads it is not installed.
        """
        found: Callable[[Path, Graph, Recipe], Imported] = importlib.import_module(self.module).read
        return found(path, graph, base)


_ROWS: tuple[Importer, ...] = (
    Importer("recipe", "qviz recipe", "qviz.export.import_qviz"),
    Importer("aimet", "AIMET encodings", "qviz.export.import_aimet"),
    Importer("amct", "Huawei AMCT record or config", "qviz.export.import_amct"),
    Importer("modelopt", "NVIDIA Model Optimizer amax", "qviz.export.import_modelopt"),
    Importer("tensorrt-cache", "TensorRT calibration cache", "qviz.export.import_tensorrt_cache"),
    Importer("onnx", "ONNX with Q/DQ pairs", "qviz.export.import_onnx", extra="onnx"),
    Importer("ranges", "Ranges as JSON (ONNX Runtime, qviz)", "qviz.export.import_ranges"),
)
#: In the order in which a file is tried.
IMPORTERS: dict[str, Importer] = {i.name: i for i in _ROWS}


def import_recipe(
    path: str | Path, graph: Graph, base: Recipe, format: str | None = None
) -> Imported:
    """Make a recipe of another tool's file.

    Args:
        path: of the file.
        graph: the model it is about.
        base: what the file does not say: profile, bits, ranges.
        format: a name in ``IMPORTERS``; None looks at the content.

    Raises:
        FormatError: there is no such file or format, it cannot be read, or it names nothing that
            the model has.
        MissingExtraError: what reads it is not installed.
    """
    file = Path(path)
    if not file.exists():
        raise FormatError(str(path), "there is no such file", "Name a file that exists")
    if format is None:
        format = format_of(file)
    if format not in IMPORTERS:
        raise FormatError(
            f"format {format!r}", "cannot be read", f"Choose among {', '.join(IMPORTERS)}"
        )
    return IMPORTERS[format].read(file, graph, base)


def format_of(file: Path) -> str:
    """The format that a file looks like: a name in ``IMPORTERS``.

    Raises:
        FormatError: none.
    """
    found = next((i.name for i in IMPORTERS.values() if i.fits(file)), None)
    if found is None:
        _say_damage(file)
        raise FormatError(
            str(file),
            f"is none of the formats that can be read: {', '.join(IMPORTERS)}",
            "Name the format with --format (format=), or give another file",
        )
    return found


def _say_damage(file: Path) -> None:
    """Half a JSON file fits no format, but what is wrong with it can be said."""
    if file.is_file():
        with file.open("rb") as content:
            begins = content.read(1)
        if begins in (b"{", b"["):
            json_of(file)
