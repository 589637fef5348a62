"""The journal of an escalation: ``auto.jsonl``, one row per finished step.

A row is on disk as soon as its step is finished, so a process that is killed loses only the step
in flight. The same command finds the rows again and goes on behind them. A row's key says what was
tried on what: another target, calibrator or training set is another step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from qviz.auto import Action, AutoStep
from qviz.recipe import Recipe
from qviz.store import RunFolder

TABLE = "auto"


def key_of(*what: object) -> str:
    """Short name of what a step tries: texts, numbers, recipes."""
    parts = [w.to_json() if isinstance(w, Recipe) else repr(w) for w in what]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


class Journal:
    """Finished steps by key; without a folder they are kept in memory only."""

    def __init__(self, run: RunFolder | None) -> None:
        self._run = run
        rows = [] if run is None else run.rows(TABLE)
        self._steps = {str(row["key"]): step_of(row["step"]) for row in rows}

    def find(self, key: str) -> AutoStep | None:
        """The step of that key if it was finished before."""
        found = self._steps.get(key)
        return None if found is None else replace(found, known=True)

    def add(self, key: str, step: AutoStep) -> None:
        """Keep a finished step."""
        self._steps[key] = step
        if self._run is not None:
            self._run.append(TABLE, {"key": key, "step": row_of(step)})


def row_of(step: AutoStep) -> dict[str, Any]:
    """A step as plain values."""
    recipe = None if step.recipe is None else json.loads(step.recipe.to_json())
    return {**asdict(replace(step, recipe=None)), "recipe": recipe}


def step_of(row: Mapping[str, Any]) -> AutoStep:
    """What ``row_of`` gave; fields that this version does not know are left out."""
    known = {f.name: row[f.name] for f in fields(AutoStep) if f.name in row}
    recipe = known.get("recipe")
    known["recipe"] = None if recipe is None else Recipe.from_json(json.dumps(recipe), TABLE)
    known["way"] = tuple(
        Action(
            one["verb"],
            one["name"],
            tuple((str(k), str(v)) for k, v in one["options"]),
            tuple(one["names"]),
        )
        for one in known.get("way", ())
    )
    return AutoStep(**known)
