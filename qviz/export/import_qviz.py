"""Read a recipe of our own, of the same model: nothing is translated."""

from __future__ import annotations

from pathlib import Path

from qviz.errors import FormatError, RecipeError
from qviz.export.importing import Imported
from qviz.export.reading import json_or_none, text_of
from qviz.graph import Graph
from qviz.recipe import FORMAT, Recipe, resolve


def fits(path: Path) -> bool:
    """Whether it says that it is a recipe."""
    found = json_or_none(path)
    return isinstance(found, dict) and found.get("format") == FORMAT


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe itself; the base does not count.

    Raises:
        FormatError: it is damaged, or of another model.
    """
    try:
        found = Recipe.from_json(text_of(path), str(path))
        resolve(found, graph)
    except RecipeError as error:
        raise FormatError(error.thing, error.reason, error.cure) from None
    return Imported(found, ("A recipe of qviz, taken as it is",))
