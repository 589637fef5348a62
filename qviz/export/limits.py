"""What a format can express, and the nearest recipe that it can.

A recipe that says more is refused with the ops named, never bent in silence: what would be written
is another decision, with another accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from qviz.errors import FormatError
from qviz.graph import QUANTIZABLE_TYPES, Graph, Op, Operand
from qviz.profiles import profile
from qviz.recipe import Decision, Override, Recipe, resolve

#: Names in a refusal; the rest is counted.
NAMED = 3

#: What a format cannot have in int8 for a reason of its own: reason -> names of ops.
Rule = Callable[[Graph, Recipe], Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Limits:
    """What a format or the engine behind it can express.

    Attributes:
        symmetric: only activations with zero point 0.
        bits: widths of weights and activations; None is any.
        types: op types that can be int8.
        whole: an op is int8 with all its operands or not at all.
        per_channel: weights need one scale per output channel.
        rules: what else has to stay float; each is asked after the one before it was obeyed.
        alike: a tensor or weight has one grid: whoever reads it is int8 at the same width, or its
            whole op is float.
        own_weights: whoever reads it puts it on the model as its author made it, so that weights
            which were tuned here would not be there.
    """

    symmetric: bool = False
    bits: tuple[int, ...] | None = None
    types: tuple[str, ...] = QUANTIZABLE_TYPES
    whole: bool = False
    per_channel: bool = False
    rules: tuple[Rule, ...] = ()
    alike: bool = False
    own_weights: bool = False


#: The usual engine: symmetric, 8 bits.
SYMMETRIC_INT8 = Limits(symmetric=True, bits=(8,))


@dataclass(frozen=True)
class Change:
    """One thing that the nearest recipe says otherwise.

    Attributes:
        ops: whom it concerns, in execution order; empty if it is the whole model.
        reason: what the format cannot express.
        becomes: what the nearest recipe says instead.
    """

    ops: tuple[str, ...]
    reason: str
    becomes: str

    def __str__(self) -> str:
        concerned = f" ({_named(self.ops)})" if self.ops else ""
        return f"{self.reason}{concerned} → {self.becomes}"


@dataclass(frozen=True)
class Nearest:
    """The recipe closest to one that a format can express.

    Attributes:
        recipe: the same as asked for if nothing had to change.
        changes: what is different.
    """

    recipe: Recipe
    changes: tuple[Change, ...] = ()

    def check(self, title: str) -> None:
        """Refuse a recipe that had to change.

        Raises:
            FormatError: something had to change.
        """
        if self.changes:
            raise FormatError(
                title,
                "cannot express the recipe: " + "; ".join(str(c) for c in self.changes),
                "Export the nearest recipe that it can express, measured anew, with --nearest "
                "(nearest_recipe=True)",
            )


def nearest(graph: Graph, recipe: Recipe, limits: Limits | None) -> Nearest:
    """The recipe closest to ``recipe`` within the limits of a format.

    Raises:
        RecipeError: the recipe does not fit the graph.
    """
    if limits is None:
        return Nearest(recipe)
    changes: list[Change] = []
    int8 = {
        op: [d for o in op.operands if (d := decisions[o.name]).int8]
        for decisions in (resolve(recipe, graph),)
        for op in graph.quantizable
    }
    chosen = [op for op, found in int8.items() if found]
    if limits.own_weights and recipe.weights:
        recipe = replace(recipe, weights="")
        changes.append(Change((), "the weights were tuned", "the model's own weights"))
    if limits.symmetric and not profile(recipe.profile).symmetric:
        recipe = replace(recipe, profile="tensorrt")
        ops = _names(op for op in chosen if any(o.kind == "activation" for o in op.operands))
        changes.append(Change(ops, "activations have zero points", "symmetric, same limits"))
    if limits.per_channel and not recipe.per_channel and any(_stored(op) for op in chosen):
        recipe = replace(recipe, per_channel=True)
        ops = _names(op for op in chosen if _stored(op))
        changes.append(Change(ops, "one scale per weight tensor", "one per output channel"))
    strange = _names(op for op in chosen if op.type not in limits.types)
    if strange:
        recipe = _without(recipe, strange, graph)
        kinds = sorted({graph.ops[name].type for name in strange})
        changes.append(Change(strange, f"int8 {' and '.join(kinds)}", "float"))
    if limits.whole:
        partly = _names(
            op for op in chosen if op.name not in strange and _partly(op, resolve(recipe, graph))
        )
        if partly:
            recipe = _without(recipe, partly, graph)
            changes.append(Change(partly, "int8 in some operands only", "float"))
    for rule in limits.rules:
        for reason, ops in rule(graph, recipe).items():
            recipe = _without(recipe, ops, graph)
            changes.append(Change(ops, reason, "float"))
    if limits.bits is not None:
        wrong = {
            op.name: {d.bits for d in found} - set(limits.bits)
            for op, found in int8.items()
            if op.name not in recipe.skipped
        }
        ops = tuple(name for name, bits in wrong.items() if bits)
        if ops:
            widths = sorted(set().union(*wrong.values()))
            recipe = _widened(recipe, ops, graph, max(limits.bits))
            said = " and ".join(str(w) for w in widths)
            changes.append(Change(ops, f"{said} bits", f"{max(limits.bits)} bits"))
    if limits.alike:
        recipe, more = _made_alike(recipe, graph)
        changes += more
    return Nearest(recipe, tuple(changes))


def _without(recipe: Recipe, ops: Iterable[str], graph: Graph) -> Recipe:
    """The same with these ops in float, also where one of their operands was chosen by name."""
    named = {o.target for o in recipe.overrides if o.int8}
    operands = [o.name for name in ops for o in graph.ops[name].operands if o.name in named]
    return recipe.skip(*ops, *operands)


def _made_alike(recipe: Recipe, graph: Graph) -> tuple[Recipe, list[Change]]:
    """The same with one grid per tensor."""
    changes = []
    readers: dict[str, list[Operand]] = {}
    for operand in graph.operands.values():
        readers.setdefault(operand.tensor, []).append(operand)
    found = resolve(recipe, graph)
    at_work = {o.op for o in graph.operands.values() if found[o.name].int8}
    ops = {
        o.op: graph.ops[o.op]
        for own in readers.values()
        for o in own
        if found[o.name].by_choice and o.op in at_work and any(found[r.name].int8 for r in own)
    }
    if ops:
        recipe = _without(recipe, ops, graph)
        changes.append(Change(tuple(ops), "a tensor that is int8 for some readers only", "float"))
        found = resolve(recipe, graph)
    wider: dict[str, Override] = {}
    known = {o.target: o for o in recipe.overrides}
    for own in readers.values():
        bits = {r.name: found[r.name].bits for r in own if found[r.name].int8}
        widest = max(bits.values(), default=0)
        for name in (n for n, b in bits.items() if b < widest):
            wider[name] = replace(known.get(name, Override(name)), bits=widest)
    if wider:
        named = tuple(dict.fromkeys(graph.operands[name].op for name in wider))
        changes.append(Change(named, "a tensor at several widths", "the widest of them"))
    return recipe.override(*wider.values()), changes


def _widened(recipe: Recipe, ops: Iterable[str], graph: Graph, bits: int) -> Recipe:
    """The same with ``bits`` for every int8 operand of some ops."""
    decisions = resolve(recipe, graph)
    known = {o.target: o for o in recipe.overrides}
    operands = [o for name in ops for o in graph.ops[name].operands if decisions[o.name].int8]
    return recipe.override(
        *(replace(known.get(o.name, Override(o.name)), bits=bits) for o in operands)
    )


def _partly(op: Op, decisions: dict[str, Decision]) -> bool:
    if op.type == "add":  # one quantized branch is how engines fuse it
        return False
    found = {decisions[o.name].int8 for o in op.operands}
    return len(found) > 1


def _stored(op: Op) -> bool:
    return any(o.kind == "weight" for o in op.operands)


def _names(ops: Iterable[Op]) -> tuple[str, ...]:
    return tuple(op.name for op in ops)


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
