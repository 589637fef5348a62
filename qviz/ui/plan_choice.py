"""What a recipe leaves in float, as a set of operands, and the presets that change it. No widgets.

The page edits this set. A recipe is made from it in one fixed way, so that the same set is always
the same recipe and is measured once.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qviz.errors import RecipeError
from qviz.estimate import Anchor
from qviz.graph import Graph
from qviz.recipe import Recipe, resolve

#: Characters that make a pattern a glob; without them it is looked for anywhere in a name.
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, eq=False)
class Choice:
    """What can be left in float, and what is.

    Attributes:
        graph: the model.
        base: the recipe with everything int8: its ranges and bits.
        operands: op -> its operands that are int8 in ``base``; ops without any are not in it.
        left: the operands that are in float by choice.
    """

    graph: Graph
    base: Recipe
    operands: Mapping[str, tuple[str, ...]]
    left: frozenset[str]

    @staticmethod
    def of(recipe: Recipe, graph: Graph) -> Choice:
        """Read a recipe."""
        base = all_int8(recipe)
        free, now = resolve(base, graph), resolve(recipe, graph)
        found = {
            op.name: tuple(o.name for o in op.operands if free[o.name].int8)
            for op in graph.quantizable
        }
        operands = {name: own for name, own in found.items() if own}
        left = frozenset(o for own in operands.values() for o in own if not now[o].int8)
        return Choice(graph, base, operands, left)

    def with_left(self, left: Iterable[str]) -> Choice:
        """The same with another set of operands in float."""
        return replace(self, left=frozenset(left))

    @property
    def recipe(self) -> Recipe:
        """The recipe of this choice: an op is named where all of it is in float."""
        return self.base.skip(*self.targets) if self.left else self.base

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is in float, in execution order: ops, or single operands."""
        found: list[str] = []
        for op, own in self.operands.items():
            inside = [o for o in own if o in self.left]
            found += [op] if len(inside) == len(own) else inside
        return tuple(found)

    @property
    def ops(self) -> tuple[str, ...]:
        """Ops of which something is in float: an engine runs them in float."""
        return tuple(op for op, own in self.operands.items() if self.left.intersection(own))

    @property
    def float_macs(self) -> float:
        """Share of multiply-accumulates of these ops."""
        return sum(self.graph.ops[op].macs for op in self.ops) / max(1, self.graph.macs)

    def whole(self, ops: Iterable[str]) -> frozenset[str]:
        """All operands of some ops."""
        return frozenset(o for op in ops for o in self.operands.get(op, ()))


def all_int8(recipe: Recipe) -> Recipe:
    """The same ranges and bits, with nothing in float by choice."""
    bits = tuple(replace(o, int8=None) for o in recipe.overrides if o.bits is not None)
    return replace(recipe, int8=True, overrides=bits)


def difference(before: frozenset[str], after: frozenset[str], choice: Choice) -> str:
    """What was changed, in words: ``conv1 to float``, ``3 ops to int8``."""
    parts = []
    for names, to in ((after - before, "float"), (before - after, "int8")):
        ops = [op for op, own in choice.operands.items() if names.intersection(own)]
        if len(names) == 1:
            parts.append(f"{next(iter(names))} to {to}")
        elif len(ops) == 1:
            parts.append(f"{ops[0]} to {to}")
        elif ops:
            parts.append(f"{len(ops)} ops to {to}")
    return ", ".join(parts) or "nothing"


def of_type(choice: Choice, kind: str) -> tuple[str, ...]:
    """The ops of one type."""
    return tuple(op for op in choice.operands if choice.graph.ops[op].type == kind)


def first_and_last(choice: Choice) -> tuple[str, ...]:
    """The first and the last op with weights: what is left in float by habit."""
    graph = choice.graph
    weighted = [
        op for op in choice.operands if any(o.kind == "weight" for o in graph.ops[op].operands)
    ]
    return tuple(dict.fromkeys([weighted[0], weighted[-1]])) if weighted else ()


def matching(choice: Choice, pattern: str, *, regex: bool = False) -> tuple[str, ...]:
    """The ops whose name fits a pattern.

    Args:
        choice: which ops there are.
        pattern: with ``*``, ``?`` or ``[...]`` a glob for the whole name; otherwise a part of it.
        regex: read it as a regular expression, found anywhere in the name.

    Raises:
        RecipeError: it is not a regular expression.
    """
    if not pattern:
        return ()
    if regex:
        try:
            found = re.compile(pattern)
        except re.error as error:
            raise RecipeError(
                pattern, f"is not a regular expression: {error}", "Correct it, or use * and ?"
            ) from None
        return tuple(op for op in choice.operands if found.search(op))
    if _GLOB.search(pattern):
        return tuple(op for op in choice.operands if fnmatch.fnmatchcase(op, pattern))
    return tuple(op for op in choice.operands if pattern in op)


def worst_first(choice: Choice, divergence: Mapping[str, float]) -> tuple[str, ...]:
    """Ops of which something is known, by the divergence they cause alone."""
    known = [op for op in choice.operands if op in divergence]
    return tuple(sorted(known, key=lambda op: -divergence[op]))


def to_target(
    choice: Choice, divergence: Mapping[str, float], anchor: Anchor, target: float
) -> tuple[str, ...] | None:
    """The fewest of the worst ops whose skipping is predicted to meet the target.

    Returns:
        None if no drop can be predicted.
    """
    ranking: Sequence[str] = worst_first(choice, divergence)
    left = sum(max(0.0, divergence[op]) for op in ranking)
    for count in range(len(ranking) + 1):
        predicted = anchor.drop_at(max(0.0, left))
        if predicted is None:
            return None
        if predicted[0] <= target:
            return tuple(ranking[:count])
        left -= max(0.0, divergence[ranking[count]])
    return tuple(ranking)
