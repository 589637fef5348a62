"""Put ranges and widths into a recipe, changing no more of the base than they say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from qviz.affine import range_params
from qviz.export.said import Span
from qviz.graph import Graph
from qviz.recipe import Override, Recipe, TensorRange, activation_grid, resolve

#: Two scales that differ by less are the same but for rounding in float32.
SAME = 2e-6


def with_ranges(
    base: Recipe, spans: Mapping[str, Span], graph: Graph, tool: str
) -> tuple[Recipe, int]:
    """The base with other ranges, and how many of them are the base's own."""
    made: dict[str, TensorRange] = dict(base.range_of)
    kept = 0
    for tensor in (t for t in graph.tensors if t in spans):
        span = spans[tensor]
        lo = 0.0 if graph.tensors[tensor].nonnegative and span.lo == -span.hi else span.lo
        grid = activation_grid(base, graph, tensor, span.bits)
        params, before = range_params(span.lo, span.hi, grid), base.range_of.get(tensor)
        if before is not None:
            old = range_params(before.lo, before.hi, grid)
            close = math.isclose(float(old.scale), float(params.scale), rel_tol=SAME)
            if close and int(old.zero_point) == int(params.zero_point):
                kept += 1
                continue
        made[tensor] = TensorRange(tensor, lo, span.hi, span.calibrator or tool)
    ranges = tuple(made.values())
    used = Counter(made[t].calibrator for t in spans)
    calibrator = used.most_common(1)[0][0] if used and kept < len(spans) else base.calibrator
    return replace(base, ranges=ranges, calibrator=calibrator), kept


def decided(recipe: Recipe, bits: Mapping[str, int | None], graph: Graph) -> Recipe:
    """The recipe with these operands int8; as it is where it says so already."""
    if _agrees(recipe, bits, graph):
        return recipe
    widths: dict[str, Counter[int]] = {"weight": Counter(), "activation": Counter()}
    free = replace(recipe, int8=True, overrides=())
    can = {name for name, d in resolve(free, graph).items() if d.int8}
    for operand in graph.operands.values():
        width = bits[operand.name]
        if width is not None and operand.name in can:
            widths[operand.kind][width] += 1
    usual = {kind: n.most_common(1)[0][0] for kind, n in widths.items() if n}
    free = replace(
        free,
        weight_bits=usual.get("weight", recipe.weight_bits),
        activation_bits=usual.get("activation", recipe.activation_bits),
    )
    others, left = [], []
    for op in graph.quantizable:
        own = [o for o in op.operands if o.name in can]
        gone = [o.name for o in own if bits[o.name] is None]
        left += [op.name] if own and len(gone) == len(own) else gone
        for operand in own:
            width = bits[operand.name]
            if width is not None and width != usual[operand.kind]:
                others.append(Override(operand.name, bits=width))
    return free.override(*others).skip(*left)


def _agrees(recipe: Recipe, bits: Mapping[str, int | None], graph: Graph) -> bool:
    free = resolve(replace(recipe, int8=True, overrides=()), graph)
    return all(
        bits[name] == (d.bits if d.int8 else None)
        for name, d in resolve(recipe, graph).items()
        if free[name].int8
    )
