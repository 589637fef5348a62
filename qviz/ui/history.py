"""Undo and redo over values that never change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qviz.recipe import Recipe

#: Steps that can be undone.
DEPTH = 200


@dataclass(frozen=True)
class Step:
    """A recipe, and what was done to arrive at it, in words."""

    recipe: Recipe
    label: str


@dataclass(frozen=True)
class History:
    """Where one is among the recipes one has been at.

    Attributes:
        steps: oldest first; never empty.
        at: index of the present one.
    """

    steps: tuple[Step, ...]
    at: int = 0

    @property
    def recipe(self) -> Recipe:
        """The present recipe."""
        return self.steps[self.at].recipe

    @property
    def undoes(self) -> str | None:
        """What an undo would take back, None if there is nothing."""
        return self.steps[self.at].label if self.at > 0 else None

    @property
    def redoes(self) -> str | None:
        """What a redo would do again, None if there is nothing."""
        return self.steps[self.at + 1].label if self.at + 1 < len(self.steps) else None

    def then(self, recipe: Recipe, label: str) -> History:
        """After a change; what was undone before it is gone. The same recipe is no change."""
        if recipe == self.recipe:
            return self
        steps = (*self.steps[: self.at + 1], Step(recipe, label))[-DEPTH:]
        return History(steps, len(steps) - 1)

    def undo(self) -> History:
        """One step back, if there is one."""
        return replace(self, at=max(0, self.at - 1))

    def redo(self) -> History:
        """One step forward, if there is one."""
        return replace(self, at=min(len(self.steps) - 1, self.at + 1))
