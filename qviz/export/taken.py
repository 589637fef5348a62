"""From what a file says to a recipe: whose ranges, which operands are int8, at how many bits.

The base says everything else: the profile, and the ranges of tensors that the file does not name.
A range that makes the same grid as the base's is the base's, so that what differs is what the file
says. What the file does not name is float: that is what its own tool does with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qviz.affine import MAX_BITS, MIN_BITS, weight_params
from qviz.errors import FormatError
from qviz.export import names
from qviz.export.decide import SAME, decided, with_ranges
from qviz.export.importing import Imported
from qviz.export.said import Said, Scales, Span
from qviz.graph import Graph, Op, Operand
from qviz.profiles import profile
from qviz.recipe import FUSED, Recipe, resolve
from qviz.rewrite import get_attr

#: A weight scale that differs by more from that of the largest values is worth a note.
OTHER = 1e-3


@dataclass
class _Found:
    """The same in a graph's names: by tensor, and by op for weights."""

    ranges: dict[str, Span] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    weights: dict[str, Scales] = field(default_factory=dict)
    floats: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def to_recipe(said: Said, path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of a file.

    Raises:
        FormatError: nothing in it is of this model.
        RecipeError: the base does not fit the graph.
    """
    found = _found(said, path, graph)
    ranges = {t: s for t, s in found.ranges.items() if MIN_BITS <= s.bits <= MAX_BITS}
    other = [t for t in found.ranges if t not in ranges]
    for op, scales in found.weights.items():
        if scales.bits is not None and not MIN_BITS <= scales.bits <= MAX_BITS:
            found.weights[op] = replace(scales, bits=None)
            other.append(f"{op}/weight")
    if other:
        found.notes.append(
            f"In float, because {MIN_BITS} to {MAX_BITS} bits are simulated: {names.several(other)}"
        )
    recipe, kept = with_ranges(base, ranges, graph, said.tool)
    known = [w for w in found.weights.values() if w.bits and w.values]
    if known or said.per_channel is not None:
        several = any(len(w.values) > 1 for w in known)
        recipe = replace(recipe, per_channel=said.per_channel or several)
        found.notes += _weight_notes(found.weights, graph, recipe.per_channel)
    bits = _bits(said, found, ranges, graph)
    made = decided(recipe, bits, graph)
    notes = _notes(found, ranges, kept, made, base, graph)
    return Imported(made, (*notes, *found.notes))


def _found(said: Said, path: Path, graph: Graph) -> _Found:
    found = _Found()
    known_ops = names.ops(graph)
    if said.by == "tensor":
        own = names.match(said.ranges, names.tensors(graph))
        parameters = names.match(said.weights or (), names.parameters(graph))
        theirs = {own: (said.weights or {})[given] for given, own in parameters.items()}
        for op, operand in _weights_of(graph):
            if operand.tensor in theirs:
                found.weights[op.name] = theirs[operand.tensor]
        observed = set(graph.observed)
        roots = {given: graph.tensors[name].root for given, name in own.items()}
        exact = {roots[g]: g for g, name in own.items() if roots[g] == name}
        for given, root in roots.items():
            if root in observed and exact.get(root, given) == given:
                found.ranges[root] = said.ranges[given]
        unread = [g for g, root in roots.items() if root not in observed]
        if unread:
            found.notes.append(f"Ranges that no int8 op reads: {names.several(unread)}")
        matched, asked = {*own, *parameters}, {*said.ranges, *(said.weights or ())}
    else:
        own = names.match({**said.ranges, **(said.weights or {})}, known_ops)
        _by_op(said, own, found, graph)
        matched, asked = set(own), {*said.ranges, *(said.weights or ())}
    operands = {o: None for o in graph.operands}
    floats = names.match(said.floats, {**known_ops, **operands})
    found.floats = set(floats.values())
    if not matched and not floats:
        raise FormatError(
            str(path),
            f"names nothing that {graph.name} has: its first names are "
            f"{names.several([*asked, *said.floats]) or 'none'}; the model's are "
            f"{names.several(graph.observed if said.by == 'tensor' else known_ops)}",
            "Import it into the model that it was made for",
        )
    strange = [n for n in (*said.ranges, *(said.weights or ())) if n not in matched]
    strange += [n for n in said.floats if n not in floats]
    if strange:
        unknown = names.several(dict.fromkeys(strange))
        found.notes.append(f"Names that {graph.name} does not have: {unknown}")
    return found


def _by_op(said: Said, own: Mapping[str, str], found: _Found, graph: Graph) -> None:
    differing = []
    for given, name in own.items():
        if (said.weights or {}).get(given) is not None:
            found.weights[name] = (said.weights or {})[given]
        if (span := said.ranges.get(given)) is None:
            continue
        for operand in graph.ops[name].operands:
            if operand.kind == "activation":
                found.readers.add(name)
                before = found.ranges.get(operand.tensor, span)
                if not math.isclose(before.hi - before.lo, span.hi - span.lo, rel_tol=SAME):
                    differing.append(operand.tensor)
                wider = max(before, span, key=lambda s: s.hi - s.lo)
                found.ranges[operand.tensor] = wider
    if differing:
        found.notes.append(
            "Read with several ranges, of which the widest was taken: "
            f"{names.several(dict.fromkeys(differing))}"
        )


def _weights_of(graph: Graph) -> Iterable[tuple[Op, Operand]]:
    return ((op, o) for op in graph.quantizable for o in op.operands if o.kind == "weight")


def _bits(
    said: Said, found: _Found, ranges: Mapping[str, Span], graph: Graph
) -> dict[str, int | None]:
    """Operand -> its width in the file, None where it is float."""
    bits: dict[str, int | None] = {}
    for op in graph.quantizable:
        own: dict[str, int | None] = {}
        for operand in op.operands:
            if operand.kind == "activation":
                here = said.by == "tensor" or op.name in found.readers
                span = ranges.get(operand.tensor) if here else None
                own[operand.name] = None if span is None else span.bits
            elif said.weights is None:
                own[operand.name] = 8
            else:
                own[operand.name] = found.weights.get(op.name, Scales((), None)).bits
        unnamed = said.weights is not None and any(
            o.kind == "weight" and op.name not in found.weights for o in op.operands
        )
        partly = said.whole and op.type != "add" and None in own.values()
        gone = op.name in found.floats or unnamed or partly
        bits |= {n: None if gone or n in found.floats else b for n, b in own.items()}
    return bits


def _weight_notes(weights: Mapping[str, Scales], graph: Graph, per_channel: bool) -> list[str]:
    """Weights whose grid is not that of their largest values, the only one that a recipe has."""
    other = []
    for op, operand in _weights_of(graph):
        scales = weights.get(op.name)
        if scales is None or scales.bits is None or not scales.values:
            continue
        value = get_attr(graph.module, graph.weights[operand.tensor])
        own = weight_params(value, scales.bits, operand.axis if per_channel else None)
        theirs = torch.tensor(scales.values, dtype=torch.float32)
        mine = own.scale.reshape(-1)
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=OTHER, atol=0):
            other.append(operand.tensor)
    if not other:
        return []
    return [
        "Weights whose scales are not those of their largest values, which qviz uses: "
        f"{names.several(dict.fromkeys(other))}"
    ]


def _notes(
    found: _Found,
    ranges: Mapping[str, Span],
    kept: int,
    made: Recipe,
    base: Recipe,
    graph: Graph,
) -> list[str]:
    same = f", {kept} of them the same as before" if kept else ""
    decisions = resolve(made, graph)
    free = resolve(replace(made, int8=True, overrides=()), graph)
    read = {
        o.tensor
        for o in graph.operands.values()
        if o.kind == "activation" and free[o.name].reason != FUSED
    }
    notes = [f"Ranges taken of {len(ranges)} of {len(read | {*ranges})} tensors{same}"]
    left = [
        op.name for op in graph.quantizable if not any(decisions[o.name].int8 for o in op.operands)
    ]
    partly = [n for n, d in decisions.items() if d.by_choice and n.rpartition("/")[0] not in left]
    notes.append(f"Ops in float: {names.several(left) or 'none'}")
    if partly:
        notes.append(f"Operands in float: {names.several(partly)}")
    zero = [t for t, span in ranges.items() if span.affine]
    if zero and profile(base.profile).symmetric:
        notes.append(
            f"Zero points of {len(zero)} tensors are not used: profile {base.profile} is symmetric"
        )
    return notes
