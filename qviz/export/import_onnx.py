"""Read an ONNX file with Q/DQ pairs: ranges and what is float, of our files and of others'.

Nodes are matched with ops by name, then by the name of the weight they read, and last by their
order, kind by kind, where the file has as many of a kind as the model. A file that qviz wrote holds
its recipe; that is what is read, if the pairs still say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qviz.affine import range_params
from qviz.errors import FormatError, RecipeError
from qviz.export import names
from qviz.export.importing import Imported
from qviz.export.onnx_grids import half_scale
from qviz.export.onnx_reading import File, Node, Rounded, read_file
from qviz.export.said import Said, Scales, Span
from qviz.export.taken import to_recipe
from qviz.graph import Graph, Op, Operand
from qviz.profiles import profile
from qviz.recipe import Recipe, activation_grid, resolve

TOOL = "onnx"


def fits(path: Path) -> bool:
    """Whether it is called an ONNX file: the format has no mark of its own."""
    return path.suffix.lower() == ".onnx"


def read(path: Path, graph: Graph, base: Recipe) -> Imported:
    """The recipe of a file.

    Raises:
        FormatError: it cannot be read, has no Q/DQ pairs, or nothing in it is of this model.
        MissingExtraError: onnx is not installed.
    """
    file = read_file(path)
    matched, how = _match(file, graph)
    if not matched:
        own = names.several(op.name for op in graph.quantizable)
        theirs = names.several(n.name for n in file.nodes)
        raise FormatError(
            str(path),
            f"names nothing that {graph.name} has: its first nodes are {theirs}; the model's "
            f"ops are {own}",
            "Import it into the model that it was made for",
        )
    notes = list(how)
    recipe = _own_recipe(file, matched, graph)
    if recipe is not None:
        return Imported(recipe, ("The recipe that qviz wrote into the file", *notes))
    if file.metadata.get("qviz_recipe"):
        notes.append("The pairs are no longer those of the recipe that qviz wrote into the file")
    said, differing = _said(matched, graph, profile(base.profile).symmetric)
    if differing:
        notes.append(
            f"Read with several ranges, of which the widest was taken: {names.several(differing)}"
        )
    made = to_recipe(said, path, graph, base)
    return replace(made, notes=(*made.notes, *notes))


# -- whose node is it -----------------------------------------------------------------------------


def _match(file: File, graph: Graph) -> tuple[dict[str, Node], list[str]]:
    """Op -> node, and what to say about it."""
    by_name = {n.name: n for n in file.nodes if n.name}
    found = {op: by_name[given] for given, op in names.match(by_name, names.ops(graph)).items()}
    found = {op: node for op, node in found.items() if _kind(graph.ops[op]) == node.kind}
    notes: list[str] = []
    by_weight = {n.weight: n for n in file.nodes if n.weight and n not in found.values()}
    readers = {
        o.tensor: op.name
        for op in graph.quantizable
        for o in op.operands
        if o.kind == "weight" and op.name not in found
    }
    parameters = {p: m for p, m in names.parameters(graph).items() if p in readers}
    for given, parameter in names.match(by_weight, parameters).items():
        found[readers[parameter]] = by_weight[given]
    ordered: list[str] = []
    taken = {id(n) for n in found.values()}
    for kind in sorted({n.kind for n in file.nodes}):
        ops = [op for op in graph.quantizable if op.name not in found and _kind(op) == kind]
        nodes = [n for n in file.nodes if n.kind == kind and id(n) not in taken]
        if ops and len(ops) == len(nodes):
            found |= {op.name: node for op, node in zip(ops, nodes, strict=True)}
            ordered += [op.name for op in ops]
    if ordered:
        notes.append(f"Matched by their order only: {names.several(ordered)}")
    missing = [op.name for op in graph.quantizable if op.name not in found]
    if missing:
        notes.append(f"Not found in the file, left in float: {names.several(missing)}")
    taken = {id(n) for n in found.values()}
    strange = [n.name or n.weight for n in file.nodes if id(n) not in taken and any(n.inputs)]
    if strange:
        notes.append(
            f"Rounded in the file, but not found in {graph.name}: {names.several(strange)}"
        )
    return found, notes


def _kind(op: Op) -> str:
    """What a node calls the arithmetic of an op."""
    if op.type.startswith("conv_transpose"):
        return "conv_transpose"
    if op.type.startswith("conv"):
        return "conv"
    stored = any(o.kind == "weight" for o in op.operands)
    return "linear" if stored else op.type


# -- what it says ---------------------------------------------------------------------------------


def _inputs(op: Op, node: Node) -> list[tuple[Operand, Rounded | None]]:
    """Operands with what the file does to them; the activation stands before the weight."""
    return list(zip(op.operands, node.inputs, strict=False))


def _said(matched: Mapping[str, Node], graph: Graph, symmetric: bool) -> tuple[Said, list[str]]:
    ranges: dict[str, Span] = {}
    weights: dict[str, Scales] = {}
    floats: list[str] = []
    differing: list[str] = []
    for op in graph.quantizable:
        if op.name not in matched:
            floats.append(op.name)
            continue
        for operand, rounded in _inputs(op, matched[op.name]):
            if rounded is None:
                floats.append(operand.name)
                if operand.kind == "weight":
                    weights.setdefault(operand.tensor, Scales((), None))
            elif operand.kind == "weight":
                weights[operand.tensor] = Scales(tuple(rounded.scale.reshape(-1).tolist()))
            else:
                span = _span(rounded, symmetric)
                before = ranges.setdefault(operand.tensor, span)
                if before != span:
                    differing.append(operand.tensor)
                    ranges[operand.tensor] = max(before, span, key=lambda s: s.hi - s.lo)
    return Said(TOOL, "tensor", ranges, weights, floats), differing


def _span(rounded: Rounded, symmetric: bool) -> Span:
    scale, zero = np.float32(rounded.scale.reshape(-1)[0]), rounded.zero_point
    low, high = (0, 255) if rounded.unsigned else (-128, 127)
    if (zero == 0 and not rounded.unsigned) or (symmetric and zero == 128):
        amax = amax_of(scale)
        return Span(-amax, amax)
    return Span((low - zero) * float(scale), (high - zero) * float(scale), affine=True)


def amax_of(scale: np.float32) -> float:
    """A limit whose float32 quotient by 127 is this scale."""
    amax = np.float32(127 * float(scale))
    near = [amax, np.nextafter(amax, np.float32(0)), np.nextafter(amax, np.float32(np.inf))]
    return float(next((a for a in near if np.float32(a / np.float32(127)) == scale), amax))


def _own_recipe(file: File, matched: Mapping[str, Node], graph: Graph) -> Recipe | None:
    """The recipe in the file's metadata, if its pairs say the same."""
    text = file.metadata.get("qviz_recipe")
    if not text:
        return None
    try:
        recipe = Recipe.from_json(text)
        decisions = resolve(recipe, graph)
    except RecipeError:
        return None
    half = file.metadata.get("qviz_float_type") == "float16"
    for op in graph.quantizable:
        node = matched.get(op.name)
        if node is None:
            return None
        for operand, rounded in _inputs(op, node):
            decision = decisions[operand.name]
            if decision.int8 != (rounded is not None):
                return None
            if rounded is None or operand.kind == "weight":
                continue
            chosen = recipe.range_of[operand.tensor]
            span = activation_grid(recipe, graph, operand.tensor, decision.bits)
            grid = range_params(chosen.lo, chosen.hi, span)
            scale = half_scale(grid.scale) if half else grid.scale
            stored = torch.from_numpy(rounded.scale).reshape(())
            if not torch.equal(scale, stored) or int(grid.zero_point) != rounded.zero_point:
                return None
    return recipe
