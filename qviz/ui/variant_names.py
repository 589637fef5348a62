"""Names of variants in the app: three are its own, and none is given twice."""

from __future__ import annotations

from collections.abc import Collection

from qviz.errors import RecipeError

DRAFT, INT8, FLOAT = "draft", "all int8", "float"
#: Names that are always there.
FIXED = (DRAFT, INT8, FLOAT)


def check(name: str, taken: Collection[str]) -> None:
    """Whether a recipe can be kept under a name.

    Raises:
        RecipeError: the name is one of ``FIXED``, or taken.
    """
    if name in FIXED:
        raise RecipeError(name, "is always there", "Choose another name")
    if name in taken:
        cure = "Choose another name, or delete that one on the page Plan"
        raise RecipeError(name, "is a variant already", cure)


def shown(kept: Collection[str]) -> dict[str, str]:
    """By which names the app shows the variants of a run folder: those -> the names kept.

    The command line and Python may keep a variant under one of ``FIXED``; it is "draft (kept)".
    """
    found = {}
    for name in kept:
        own = name
        while own in FIXED or (own != name and own in kept):
            own += " (kept)"
        found[own] = name
    return found
