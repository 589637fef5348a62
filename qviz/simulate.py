"""Simulate a recipe: run a Graph with the chosen operands rounded to their integer grids.

An int8 operand is fake-quantized where its op reads it (Wu et al. 2020, eq. 9 and 12), so the
value itself stays float for readers that are float. That is what an engine computes whose int8
tensors are requantized from the float epilogue. Weights are fake-quantized once per bit width and
granularity and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from qviz.affine import (
    Grid,
    QuantParams,
    fake_quantize,
    range_params,
    symmetric_params,
    weight_params,
)
from qviz.errors import NotFiniteError
from qviz.execute import Edit, Edits, Program
from qviz.graph import Graph, Operand
from qviz.recipe import Recipe, TensorRange, activation_grid, resolve


@dataclass(frozen=True, eq=False)
class FakeQuantize:
    """Rounds a tensor to one grid; the edit that makes an activation operand int8."""

    params: QuantParams

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` on the grid, as float."""
        return fake_quantize(x, self.params)


class Simulator:
    """A Program and what recipes share: quantizers by range, quantized weights by bit width."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.program = Program(graph)
        self._weights: dict[tuple[str, int, bool], tuple[QuantParams, Tensor]] = {}
        self._activations: dict[tuple[str, int, TensorRange], FakeQuantize] = {}

    @cached_property
    def differentiable(self) -> Program:
        """The same program, step for step, with ops that autograd can go back through."""
        return Program(self.graph, plain=True)

    def edits(self, recipe: Recipe) -> Edits:
        """The replaced operands of a recipe, by step.

        Raises:
            RecipeError: the recipe does not fit the graph.
        """
        decisions = resolve(recipe, self.graph)
        edits: dict[int, list[tuple[int, Edit]]] = {}
        for name, operand in self.graph.operands.items():
            if decisions[name].int8:
                edit = self._edit(operand, recipe, decisions[name].bits)
                step = self.program.step_of_op[operand.op]
                edits.setdefault(step, []).append((operand.position, edit))
        return edits

    def _edit(self, operand: Operand, recipe: Recipe, bits: int) -> Edit:
        if operand.kind == "weight":
            return self.weight(operand, bits, recipe.per_channel)[1]
        key = (recipe.profile, bits, recipe.range_of[operand.tensor])
        if key not in self._activations:
            self._activations[key] = FakeQuantize(
                self.activation_params(operand.tensor, recipe, bits)
            )
        return self._activations[key]

    def activation_params(self, tensor: str, recipe: Recipe, bits: int) -> QuantParams:
        """Grid of an activation tensor under a recipe that has a range for it."""
        chosen = recipe.range_of[tensor]
        return range_params(chosen.lo, chosen.hi, activation_grid(recipe, self.graph, tensor, bits))

    def weight(self, operand: Operand, bits: int, per_channel: bool) -> tuple[QuantParams, Tensor]:
        """Grid and fake-quantized value of a weight operand, made once.

        Its range is the limit that the graph has for it at this width and granularity, else its
        largest magnitude.

        Raises:
            NotFiniteError: the weight holds NaN or Inf.
        """
        key = (operand.name, bits, per_channel)
        if key not in self._weights:
            value = self.program.parameter(operand.tensor)
            axis = operand.axis if per_channel else None
            limit = self.graph.limits.get(operand.name, {}).get(bits)
            try:
                if limit is not None and limit.dim() == (axis is not None):
                    params = symmetric_params(limit, Grid(bits, narrow=True), axis)
                else:
                    params = weight_params(value, bits, axis)
            except NotFiniteError as error:
                raise NotFiniteError(
                    f"weight {operand.tensor}",
                    error.reason,
                    f"Load the weights again, or leave {operand.op} in float",
                ) from None
            self._weights[key] = (params, fake_quantize(value, params))
        return self._weights[key]


def first_difference(a: Edits, b: Edits) -> int | None:
    """Index of the first step at which two sets of edits differ, None if they do not."""
    different = [
        step
        for step in a.keys() | b.keys()
        if {(p, id(e)) for p, e in a.get(step, ())} != {(p, id(e)) for p, e in b.get(step, ())}
    ]
    return min(different, default=None)
