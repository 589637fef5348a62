"""``qviz.import_recipe``: another tool's file as a recipe, for a session or a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from qviz.export import importing
from qviz.export.importing import Imported
from qviz.graph import Graph
from qviz.recipe import Recipe


class HasGraph(Protocol):
    """What holds a captured model; a ``Session`` does."""

    graph: Graph


def import_recipe(
    model: Graph | HasGraph,
    path: str | Path,
    *,
    base: Recipe | None = None,
    format: str | None = None,
) -> Imported:
    """Make a recipe of another tool's file.

    Args:
        model: the session, or the graph, that the file is about.
        path: AIMET encodings, an AMCT record, a TensorRT calibration cache, ranges as JSON ...
        base: what the file does not say: profile, and ranges of tensors that it does not name;
            ``session.recipe("mse")`` for instance. None is nothing but the defaults.
        format: a name in ``qviz.export.importing.IMPORTERS``; None looks at the content.

    Returns:
        The recipe, and notes on what was taken and what did not match.

    Raises:
        FormatError: the file cannot be read, or names nothing that the model has.
        MissingExtraError: what reads it is not installed.
    """
    graph = model if isinstance(model, Graph) else model.graph
    return importing.import_recipe(path, graph, base or Recipe(), format)
