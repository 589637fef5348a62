"""Which ops of a graph run on integers under a recipe, with which grids; the rest, and why not.

A recipe decides per operand; a kernel needs all of them. An op runs on codes if everything it
multiplies is int8 (an add: if either input is). Otherwise it runs in float on rounded operands,
which is what the simulation did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx

from qviz import affine
from qviz.errors import RecipeError
from qviz.graph import Op, Operand
from qviz.profiles import PROFILES, profile
from qviz.recipe import FUSED, Decision, Recipe, resolve
from qviz.rewrite import CONVS, TRANSPOSED_CONVS, aten
from qviz.simulate import Simulator

Kind = Literal["conv", "conv_transpose", "linear", "matmul", "add"]


class CodeGrid(NamedTuple):
    """Symmetric codes of one tensor: the size of one step, and the integers that are used."""

    scale: float
    qmin: int
    qmax: int


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """One weight as integers.

    Attributes:
        parameter: its name in the graph.
        codes: int8, laid out as the kernel reads it.
        scale: float32, one per output channel.
        bits: 2 to 8.
        axis: of ``codes`` along which the output channels lie.
        transposed: whether ``codes`` is the transpose of the parameter.
    """

    parameter: str
    codes: Tensor
    scale: Tensor
    bits: int
    axis: int
    transposed: bool

    def dequantized(self) -> Tensor:
        """The weight's values on its grid, in the shape of ``codes``."""
        shape = [1] * self.codes.dim()
        shape[self.axis] = -1
        return self.codes.to(torch.float32).mul_(self.scale.reshape(shape))


@dataclass(frozen=True, eq=False)
class IntegerOp:
    """An op that runs on codes.

    Attributes:
        op: the op.
        node: its node in the graph.
        kind: which kernel.
        inputs: argument position -> grid; None is an add's float input.
        weight: for conv, conv_transpose and linear.
        addend: argument position of a float tensor that is added to a product (baddbmm, and addmm
            whose bias is no vector).
    """

    op: Op
    node: fx.Node
    kind: Kind
    inputs: Mapping[int, CodeGrid | None]
    weight: WeightCodes | None = None
    addend: int | None = None


@dataclass(eq=False)
class Plan:
    """What a recipe means for the nodes of a graph.

    Attributes:
        integer: ops that run on codes.
        rounded: ops that run in float on rounded activations: node -> position -> grid.
        weights: the same for weights.
        reasons: op name -> why it runs in float although an operand of it is int8, or is float.
    """

    integer: dict[fx.Node, IntegerOp] = field(default_factory=dict)
    rounded: dict[fx.Node, dict[int, CodeGrid]] = field(default_factory=dict)
    weights: dict[fx.Node, dict[int, WeightCodes]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def make_plan(simulator: Simulator, recipe: Recipe) -> Plan:
    """Decide for every quantizable op.

    Raises:
        RecipeError: the recipe does not fit the graph, or its profile is not symmetric.
    """
    if not profile(recipe.profile).symmetric:
        able = ", ".join(p.name for p in PROFILES.values() if p.symmetric)
        raise RecipeError(
            f"profile {recipe.profile}",
            "its codes have zero points, and the integer kernels take symmetric int8 only",
            f"Make the recipe for one of {able}, or export it as ONNX",
        )
    graph = simulator.graph
    decisions = resolve(recipe, graph)
    nodes = {n.name: n for n in graph.module.graph.nodes}
    plan = Plan()
    for op in graph.quantizable:
        _decide(plan, op, nodes[op.node], decisions, _Grids(simulator, recipe, decisions))
    return plan


@dataclass(frozen=True, eq=False)
class _Grids:
    """Grids and weight codes of operands under one recipe."""

    simulator: Simulator
    recipe: Recipe
    decisions: Mapping[str, Decision]

    def activation(self, operand: Operand) -> CodeGrid:
        bits = self.decisions[operand.name].bits
        params = self.simulator.activation_params(operand.tensor, self.recipe, bits)
        return CodeGrid(float(params.scale), params.quant_min, params.quant_max)

    def weight(self, operand: Operand, *, transpose: bool) -> WeightCodes:
        bits = self.decisions[operand.name].bits
        params, _ = self.simulator.weight(operand, bits, self.recipe.per_channel)
        codes = affine.quantize(self.simulator.program.parameter(operand.tensor), params)
        axis = operand.axis or 0
        scale = params.scale.expand(codes.shape[axis]).contiguous()
        codes = codes.t() if transpose else codes
        return WeightCodes(
            operand.tensor, codes.contiguous(), scale, bits, 0 if transpose else axis, transpose
        )


def _decide(
    plan: Plan, op: Op, node: fx.Node, decisions: Mapping[str, Decision], grids: _Grids
) -> None:
    chosen = [o for o in op.operands if decisions[o.name].int8]
    if not chosen:
        plan.reasons[op.name] = _why_float(op, decisions)
        return
    reason = _refusal(op, node, chosen, decisions)
    if reason is None:
        plan.integer[node] = _integer(op, node, chosen, grids)
        return
    plan.reasons[op.name] = reason
    for operand in chosen:
        if operand.kind == "weight":
            weight = grids.weight(operand, transpose=False)
            plan.weights.setdefault(node, {})[operand.position] = weight
        else:
            plan.rounded.setdefault(node, {})[operand.position] = grids.activation(operand)


def _why_float(op: Op, decisions: Mapping[str, Decision]) -> str:
    reasons = {decisions[o.name].reason or "" for o in op.operands}
    return " and ".join(sorted(reasons - {FUSED, ""})) or FUSED


def _refusal(
    op: Op, node: fx.Node, chosen: list[Operand], decisions: Mapping[str, Decision]
) -> str | None:
    """Why the op cannot run on codes, None if it can."""
    if op.type == "add":
        return None
    missing = [o for o in op.operands if o not in chosen]
    if missing:
        return f"{missing[0].name} is float: {decisions[missing[0].name].reason}"
    shapes = [_val(node.args[o.position]).dim() for o in op.operands]
    if op.type.startswith("conv") and shapes[0] != shapes[1]:
        return "a single sample without a batch axis"
    if op.type == "matmul" and min(shapes) < 2:
        return "a vector is not worth an integer kernel"
    if op.type == "matmul" and op.operands[1].kind == "weight" and shapes[1] != 2:
        return f"a stored weight with {shapes[1]} axes"
    return None


def _integer(op: Op, node: fx.Node, chosen: list[Operand], grids: _Grids) -> IntegerOp:
    activations = [o for o in op.operands if o.kind == "activation"]
    inputs = {o.position: grids.activation(o) if o in chosen else None for o in activations}
    stored = next((o for o in op.operands if o.kind == "weight"), None)
    if stored is None:
        addend = 0 if node.target is aten.baddbmm.default else None
        return IntegerOp(op, node, "add" if op.type == "add" else "matmul", inputs, addend=addend)
    kind: Kind = "linear"
    if node.target in CONVS or node.target in TRANSPOSED_CONVS:
        kind = "conv" if node.target in CONVS else "conv_transpose"
    transpose = kind == "linear" and stored.axis == 1
    addend = None
    if node.target is aten.addmm.default and _val(node.args[0]).dim() != 1:
        addend = 0
    return IntegerOp(op, node, kind, inputs, grids.weight(stored, transpose=transpose), addend)


def _val(argument: Any) -> Tensor:  # noqa: ANN401 - an fx argument
    value: Tensor = argument.meta["val"]
    return value
