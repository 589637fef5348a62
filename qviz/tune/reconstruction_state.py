"""One unit as it is, and what a fit may make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from qviz.affine import Grid, QuantParams
from qviz.recipe import Recipe, TensorRange, activation_grid, resolve
from qviz.simulate import FakeQuantize, Simulator
from qviz.tune.reconstruction_cache import Cache
from qviz.tune.reconstruction_units import Unit
from qviz.weights import bias_of, weight_of


@dataclass(frozen=True, eq=False)
class State:
    """What a fit has found for a unit; None where the op keeps its own.

    Attributes:
        weight: the value to store, float32.
        limit: amax of its grid, ``[C]`` or 0-d.
        bias: ``[C]``.
        ranges: of activations.
    """

    weight: Tensor | None = None
    limit: Tensor | None = None
    bias: Tensor | None = None
    ranges: tuple[TensorRange, ...] = ()


class Variables(Protocol):
    """What a method changes of one unit."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as torch.optim takes them."""

    def weight(self, *, final: bool) -> Tensor | None:
        """The weight as the op multiplies with it; ``final`` is as it will be stored."""

    def bias(self) -> Tensor | None:
        """The bias; None is the op's own."""

    def read(self, position: int, x: Tensor) -> Tensor:
        """An input as the op reads it."""

    def penalty(self, done: float) -> Tensor | None:
        """Added to the loss; ``done`` is the part of the iterations that is over."""

    def state(self) -> State:
        """What to keep."""


class AsItIs:
    """One unit before it is fitted.

    Attributes:
        unit: the unit.
        cache: what it is fitted on.
        value: its stored weight, None if it has no int8 weight.
        params: grid of the weight.
        start_bias: its bias, None if it has none.
        channels: of its output.
        ranges: of each int8 input, by position, with the grid it makes.
    """

    def __init__(self, unit: Unit, cache: Cache, simulator: Simulator, recipe: Recipe) -> None:
        graph = simulator.graph
        decisions = resolve(recipe, graph)
        self.unit, self.cache = unit, cache
        self.value: Tensor | None = None
        self.params: QuantParams | None = None
        self._rounded: Tensor | None = None
        if unit.weight is not None:
            bits = decisions[unit.weight.name].bits
            self.value = simulator.program.parameter(unit.weight.tensor).float()
            self.params, self._rounded = simulator.weight(unit.weight, bits, recipe.per_channel)
        stored = weight_of(graph, unit.op)
        axis = -1
        if stored is not None and graph.ops[unit.op].type.startswith("conv"):
            axis = 1 - simulator.program.parameter(stored.tensor).dim()
        shape = graph.tensors[unit.op].shape or (1,)  # an add may make one number per sample
        self.channels = shape[axis]
        name = bias_of(graph, unit.op)
        self.start_bias = None if name is None else simulator.program.parameter(name)
        self.ranges: Mapping[int, tuple[TensorRange, Grid]] = {
            o.position: (
                recipe.range_of[o.tensor],
                activation_grid(recipe, graph, o.tensor, decisions[o.name].bits),
            )
            for o in unit.inputs
        }
        self._reads = {
            o.position: FakeQuantize(
                simulator.activation_params(o.tensor, recipe, decisions[o.name].bits)
            )
            for o in unit.inputs
        }

    @property
    def size(self) -> float:
        """Root mean square of the output; of its median channel where errors are weighed.

        What weighs them is that a few rows and channels are enormous, and these are not the unit.
        """
        target, weights = self.cache.target, self.cache.weights
        if weights is None:
            return float(target.square().mean().sqrt()) or 1.0
        others = list(range(target.dim() - 1))
        power = (weights * target.square()).sum(others) / weights.sum(others).clamp(min=1e-38)
        return float(power.median().sqrt()) or float(power.mean().sqrt()) or 1.0

    def groups(self) -> list[dict[str, Any]]:
        """Nothing is changed."""
        return []

    def weight(self, *, final: bool) -> Tensor | None:
        """The weight on its grid."""
        return self._rounded

    def bias(self) -> Tensor | None:
        """The op's own."""
        return None

    def read(self, position: int, x: Tensor) -> Tensor:
        """An input on its grid; as it is if the op reads it in float."""
        return self._reads[position](x) if position in self._reads else x

    def penalty(self, done: float) -> Tensor | None:
        """None."""
        return None

    def state(self) -> State:
        """Nothing to keep."""
        return State()
