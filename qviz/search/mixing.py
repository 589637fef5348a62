"""Networks at several widths, and the network that any mix of their layers makes.

Everything is prepared once at every width: the ranges that suit it and, after a reconstruction,
weights and biases tuned for it. A mix takes each layer from the network of its width: the bits,
the weight and its limits, the bias, and the ranges of the tensors it reads. A range belongs to a
tensor, so where readers of one tensor differ, the narrowest decides: it has the fewest steps to
spend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx

from qviz.errors import TuneError
from qviz.execute import Edit, Edits
from qviz.graph import Graph
from qviz.recipe import Override, Recipe, resolve
from qviz.rewrite import get_attr
from qviz.search.layers import layers_of
from qviz.search.widths import BASE, Layer, Width
from qviz.simulate import Simulator
from qviz.weights import NOTHING, TunedWeights, bias_of, tuned_graph, weight_of, with_bias


@dataclass(frozen=True, eq=False)
class Prepared:
    """The whole network at one width.

    Attributes:
        recipe: its ranges; its bits are those of the width.
        weights: tuned for it, relative to the graph.
    """

    recipe: Recipe
    weights: TunedWeights = NOTHING


@dataclass(frozen=True, eq=False)
class Networks:
    """One graph prepared at several widths.

    Attributes:
        graph: the model that all weights are relative to.
        original: simulator of the float model that losses are measured against.
        at: width -> the network prepared for it; the base is among them.
        base: what layers are switched from.
    """

    graph: Graph
    original: Simulator
    at: Mapping[Width, Prepared]
    base: Width = BASE

    def __post_init__(self) -> None:
        if self.base not in self.at:
            raise TuneError("bit allocation", f"nothing is prepared at {self.base}", "Prepare it")

    @property
    def widths(self) -> tuple[Width, ...]:
        """What is offered, widest first."""
        return tuple(sorted(self.at, reverse=True))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What gets a width."""
        return layers_of(self.graph, self.at[self.base].recipe)

    @cached_property
    def base_weights(self) -> TunedWeights:
        """The base's weights, with a bias of zero for each op that has one at another width."""
        weights = self.at[self.base].weights
        for other in self.at.values():
            for op in other.weights.biases.keys() - weights.biases.keys():
                size = other.weights.values[other.weights.biases[op]].shape
                weights = weights.then(with_bias(self.graph, op, torch.zeros(size)))
        return weights

    @cached_property
    def simulator(self) -> Simulator:
        """Runs the base, and by ``edits_of`` every mix."""
        if not self.base_weights and self.original.graph is self.graph:
            return self.original
        return Simulator(tuned_graph(self.graph, self.base_weights))

    @cached_property
    def _simulators(self) -> Mapping[Width, Simulator]:
        """Of the network at each width that has weights of its own."""
        return {
            width: Simulator(tuned_graph(self.graph, found.weights))
            for width, found in self.at.items()
            if width != self.base and (found.weights or self.base_weights)
        }

    def changes(self, layer: Layer, width: Width) -> bool:
        """Whether this width makes another network of a layer than the base does."""
        if layer.elements and width.weights != self.base.weights:
            return True
        decisions = resolve(self.at[self.base].recipe, self.graph)
        reads = any(
            o.kind == "activation" and decisions[o.name].int8
            for name in layer.ops
            for o in self.graph.ops[name].operands
        )
        return reads and width.activations != self.base.activations

    def mixed(self, widths: Mapping[str, Width]) -> tuple[Recipe, TunedWeights]:
        """The network with these layers at these widths and everything else at the base's.

        Args:
            widths: layer -> width.

        Returns:
            The recipe, and the weights relative to ``graph``; whoever keeps them names them in it.
        """
        recipe, weights = self.at[self.base].recipe, self.base_weights
        chosen = {
            layer: widths[layer.name]
            for layer in self.layers
            if widths.get(layer.name, self.base) != self.base
        }
        for layer, width in chosen.items():
            recipe = with_width(recipe, self.graph, layer, width)
            weights = self._with_weights(weights, layer, width)
        return self._with_ranges(recipe, chosen), weights

    def _with_ranges(self, recipe: Recipe, chosen: Mapping[Layer, Width]) -> Recipe:
        narrowest: dict[str, Width] = {}
        for layer, width in chosen.items():
            for operand in (o for n in layer.ops for o in self.graph.ops[n].operands):
                if operand.kind == "activation":
                    other = narrowest.get(operand.tensor, width)
                    narrowest[operand.tensor] = min(other, width, key=_by_activations)
        ranges = tuple(
            self.at[narrowest[r.tensor]].recipe.range_of.get(r.tensor, r)
            if r.tensor in narrowest
            else r
            for r in recipe.ranges
        )
        return replace(recipe, ranges=ranges)

    def _with_weights(self, weights: TunedWeights, layer: Layer, width: Width) -> TunedWeights:
        """One layer's weight, limits and bias as they are at its width."""
        own = self.at[width].weights
        values, biases = dict(weights.values), dict(weights.biases)
        limits = dict(weights.limits)
        for op in layer.ops:
            operand = weight_of(self.graph, op)
            names = {own.biases.get(op) or bias_of(self.graph, op)}
            if operand is not None:
                names.add(operand.tensor)
                limits.pop(operand.name, None)
                if operand.name in own.limits:
                    limits[operand.name] = own.limits[operand.name]
            if op in own.biases:
                biases[op] = own.biases[op]
            for name in names - {None}:
                assert name is not None
                values.pop(name, None)
                if name in own.values:
                    values[name] = own.values[name]
        return replace(weights, values=values, biases=biases, limits=limits)

    def edits_of(self, widths: Mapping[str, Width]) -> Callable[[], Edits]:
        """What makes a mix of the base's simulator; computed when called."""

        def make() -> Edits:
            recipe, _ = self.mixed(widths)
            edits = dict(self.simulator.edits(recipe))
            for layer in self.layers:
                other = self._simulators.get(widths.get(layer.name, self.base))
                if other is not None:
                    for op in layer.ops:
                        self._take(edits, op, other, widths[layer.name], recipe)
            return edits

        return make

    def _take(
        self,
        edits: dict[int, Sequence[tuple[int, Edit]]],
        op: str,
        other: Simulator,
        width: Width,
        recipe: Recipe,
    ) -> None:
        """Replace an op's weight and bias by those of another simulator."""
        step = self.simulator.program.step_of_op[op]
        own: dict[int, Edit] = dict(edits.get(step, ()))
        operand = weight_of(self.graph, op)
        if operand is not None and operand.position in own:
            own[operand.position] = other.weight(operand, width.weights, recipe.per_channel)[1]
        position = _bias_argument(self.simulator.graph, op)
        if position is not None:
            own[position] = _bias(other.graph, op, self.simulator.graph)
        edits[step] = tuple(own.items())


def with_width(recipe: Recipe, graph: Graph, layer: Layer, width: Width) -> Recipe:
    """The same recipe with one layer at a width; what is float stays float."""
    operands = [o for name in layer.ops for o in graph.ops[name].operands]
    names = {*layer.ops, *(o.name for o in operands)}
    known = {o.target: o for o in recipe.overrides}
    plain = [replace(known[name], bits=None) for name in names & known.keys()]
    kept = tuple(o for o in recipe.overrides if o.target not in names)
    recipe = replace(recipe, overrides=kept + tuple(o for o in plain if o.int8 is not None))
    bits = {o.name: width.weights if o.kind == "weight" else width.activations for o in operands}
    if len(set(bits.values())) == 1:
        bits = dict.fromkeys(layer.ops, next(iter(bits.values())))
    left = {o.target: o for o in recipe.overrides}
    return recipe.override(
        *(replace(left.get(name, Override(name)), bits=b) for name, b in bits.items())
    )


def _by_activations(width: Width) -> tuple[int, int]:
    return width.activations, width.weights


def _bias_argument(graph: Graph, op: str) -> int | None:
    """Position of an op's stored bias among its arguments, None if it has none."""
    name = bias_of(graph, op)
    node = next(n for n in graph.module.graph.nodes if n.name == graph.ops[op].node)
    for position, value in enumerate(node.args):
        if isinstance(value, fx.Node) and value.op == "get_attr" and value.target == name:
            return position
    return None


def _bias(graph: Graph, op: str, like: Graph) -> Tensor:
    """An op's bias, zero where only the other graph has one."""
    name = bias_of(graph, op)
    if name is not None:
        return get_attr(graph.module, name)
    other = bias_of(like, op)
    assert other is not None  # asked only where ``like`` has one
    return torch.zeros_like(get_attr(like.module, other))
