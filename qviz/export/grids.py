"""The grids of a recipe by tensor and by parameter, as formats that know no operands need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qviz.affine import QuantParams
from qviz.export.request import Request
from qviz.recipe import TensorRange, resolve


@dataclass(frozen=True, eq=False)
class ActivationGrid:
    """How one activation tensor is rounded.

    Attributes:
        range: clip range, in the tensor's units.
        bits: width of the codes.
        params: scale and zero point, per tensor.
    """

    range: TensorRange
    bits: int
    params: QuantParams

    @property
    def symmetric(self) -> bool:
        """Whether the codes are signed, with zero point 0."""
        return self.params.quant_min < 0

    @property
    def offset(self) -> int:
        """Code of real 0 on the unsigned grid that starts at 0: 128 for symmetric int8."""
        return int(self.params.zero_point) - self.params.quant_min


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """How one weight is rounded; its zero point is 0.

    Attributes:
        op: an op that reads it.
        parameter: its name in the model.
        bits: width of the codes.
        params: one scale, or one per output channel.
    """

    op: str
    parameter: str
    bits: int
    params: QuantParams

    @property
    def scales(self) -> list[float]:
        """Size of a step, of each channel or of the whole weight."""
        return [float(s) for s in self.params.scale.reshape(-1)]


@dataclass(frozen=True, eq=False)
class Grids:
    """A recipe by tensor and parameter.

    Attributes:
        activations: by tensor, those that some operand reads as int8, in execution order.
        weights: by op, likewise; None as value where the op's weight stays float although its
            activations are int8.
        float_ops: ops that the recipe leaves in float altogether, by choice.
        float_operands: other operands that it leaves in float by choice.
    """

    activations: Mapping[str, ActivationGrid]
    weights: Mapping[str, WeightGrid | None]
    float_ops: tuple[str, ...]
    float_operands: tuple[str, ...]


def grids_of(request: Request) -> Grids:
    """The grids of the request's recipe.

    Where the operands that read a tensor disagree, the first one's width counts: a format in which
    that cannot be said has ``Limits(alike=True)``.
    """
    recipe, simulator = request.recipe, request.simulator
    decisions = resolve(recipe, request.graph)
    activations: dict[str, ActivationGrid] = {}
    weights: dict[str, WeightGrid | None] = {}
    float_ops: list[str] = []
    float_operands: list[str] = []
    for op in request.graph.quantizable:
        chosen = [o.name for o in op.operands if decisions[o.name].by_choice]
        some = any(decisions[o.name].int8 for o in op.operands)
        if not some:
            float_ops += [op.name] if chosen else []
            continue
        float_operands += chosen
        for operand in op.operands:
            name, bits = operand.tensor, decisions[operand.name].bits
            if operand.kind == "weight":
                weights[op.name] = None
                if decisions[operand.name].int8:
                    params = simulator.weight(operand, bits, recipe.per_channel)[0]
                    weights[op.name] = WeightGrid(op.name, name, bits, params)
            elif decisions[operand.name].int8 and name not in activations:
                params = simulator.activation_params(name, recipe, bits)
                activations[name] = ActivationGrid(recipe.range_of[name], bits, params)
    order = {name: i for i, name in enumerate(request.graph.tensors)}
    ordered = dict(sorted(activations.items(), key=lambda item: order[item[0]]))
    return Grids(ordered, weights, tuple(float_ops), tuple(float_operands))
