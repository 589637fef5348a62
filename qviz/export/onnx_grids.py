"""Which values and weights of a file are quantized, and the QuantizeLinear pairs that say so.

A pair stands where the op reads its operand, as in the simulation, so readers that are float see
the unrounded value. Where every reader of a moved value (pooled, padded, reshaped) is int8, the
value may be rounded before the move as well, which changes nothing and lets an engine move codes.
Names follow ONNX Runtime's own quantizer: ``X_scale``, ``X_zero_point``,
``X_QuantizeLinear_Output``, ``X_DequantizeLinear_Output``, ``weight_quantized``. A scale is named
after the tensor whose range it is: the readers of a max-pooled or reshaped value share its scale.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, fx

from qviz import affine, optypes
from qviz.affine import QuantParams
from qviz.export.onnx_builder import Builder
from qviz.graph import Operand
from qviz.int8.demand import bias_of
from qviz.recipe import Recipe, resolve
from qviz.rewrite import get_attr
from qviz.simulate import Simulator

#: Largest bias in steps of the accumulator: half of int32, the other half is for the products.
LARGEST_BIAS = 2.0**30
#: The smallest float16 above zero.
HALF_TINY = 2.0**-24


@dataclass(eq=False)
class Quantizers:
    """Quantized operands of a recipe, written into a file as they are read.

    Attributes:
        carry: round before a value is moved as well, if only int8 operands read it afterwards.
        widened: weight -> number of channels whose step was enlarged for the bias.
    """

    builder: Builder
    simulator: Simulator
    recipe: Recipe
    carry: bool = False
    widened: dict[str, int] = field(default_factory=dict)
    _written: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.simulator.graph
        decisions = resolve(self.recipe, graph)
        self._bits = {name: d.bits for name, d in decisions.items() if d.int8}
        nodes: dict[str, dict[int, Operand]] = {}
        for op in graph.quantizable:
            nodes[op.node] = {o.position: o for o in op.operands if o.name in self._bits}
        self._operands: Mapping[str, dict[int, Operand]] = nodes
        self._carried: dict[str, Operand] = {}
        moving = {op.node for op in graph.ops.values() if op.passthrough} if self.carry else set()
        for node in reversed(graph.module.graph.nodes):
            if node.name in moving and node.target not in optypes.CONCATENATIONS:
                self._carries(node)

    def _carries(self, node: fx.Node) -> None:
        """Note a move whose result is read by int8 operands of one tensor alone."""
        readers: set[Operand | None] = set()
        users = list(node.users)
        for user in users:
            if getattr(user.target, "__name__", "") == "getitem":  # a part of a split
                users += user.users
            elif user.name in self._carried:
                readers.add(self._carried[user.name])
            else:
                sources = {node, *(u for u in node.users if u.target is operator.getitem)}
                readers |= {
                    self.operand(user, i) for i, a in enumerate(user.args) if a in sources
                } or {None}
        tensors = {None if o is None else o.tensor for o in readers}
        if len(tensors) == 1 and None not in tensors:
            self._carried[node.name] = next(o for o in readers if o is not None)

    def moved(self, node: fx.Node) -> Operand | None:
        """An int8 operand that reads what ``node`` moves, if nothing else does."""
        return self._carried.get(node.name)

    def operand(self, node: fx.Node, position: int) -> Operand | None:
        """The int8 operand that a node reads at a position, None if it reads float there."""
        return self._operands.get(node.name, {}).get(position)

    def activation(self, operand: Operand, value: str) -> str:
        """Round a value for an operand; the name of the rounded value."""
        key = (value, operand.tensor)
        if key not in self._written:
            made = self._pair(operand, value)
            self._written[key] = made
            self._written[made, operand.tensor] = made  # a move that moves nothing hands it on
        return self._written[key]

    def _pair(self, operand: Operand, value: str) -> str:
        b, tensor = self.builder, operand.tensor
        params = self.simulator.activation_params(tensor, self.recipe, self._bits[operand.name])
        params = self._stored(params)
        grid = self._grid(tensor, params)
        codes = b.node(
            "QuantizeLinear",
            (value, *grid),
            name=f"{value}_QuantizeLinear",
            outputs=(f"{value}_QuantizeLinear_Output",),
        )
        return b.node(
            "DequantizeLinear",
            (codes, *grid),
            name=f"{value}_DequantizeLinear",
            outputs=(f"{value}_DequantizeLinear_Output",),
        )

    def weight(self, operand: Operand, *, transpose: bool = False) -> str:
        """Store a weight's codes and dequantize them; the name of the rounded weight.

        Args:
            operand: a weight.
            transpose: store the matrix with its axes swapped.
        """
        suffix = "_transposed" if transpose else ""
        key = (operand.tensor + suffix, operand.tensor)
        if key not in self._written:
            self._written[key] = self._weight(operand, transpose, suffix)
        return self._written[key]

    def _weight(self, operand: Operand, transpose: bool, suffix: str) -> str:
        b, name = self.builder, operand.tensor
        params, _ = self.simulator.weight(
            operand, self._bits[operand.name], self.recipe.per_channel
        )
        value = self.simulator.program.parameter(name)
        params = self._stored(self._widened(operand, params), value)
        codes = affine.quantize(value, params)
        axis = params.axis
        if transpose:
            codes, axis = codes.t(), None if axis is None else 1 - axis
        stored = b.store(codes, f"{name}{suffix}_quantized")
        return b.node(
            "DequantizeLinear",
            (stored, *self._grid(name, params)),
            name=f"{name}{suffix}_DequantizeLinear",
            outputs=(f"{name}{suffix}_DequantizeLinear_Output",),
            axis=axis,
        )

    def _widened(self, weight: Operand, params: QuantParams) -> QuantParams:
        """The grid with steps so large that every bias fits into int32.

        ONNX Runtime adds the bias to the accumulator, as int32 codes of the accumulator's step. A
        channel whose weights are next to nothing (batch norm folded into a dead channel) has so
        small a step that its bias overflows. Against such a bias its weights do not matter.
        """
        needed = torch.zeros_like(params.scale)
        graph = self.simulator.graph
        nodes = {n.name: n for n in graph.module.graph.nodes}
        for op in graph.quantizable:
            own = self._operands.get(op.node, {})
            mine = any(o.tensor == weight.tensor for o in own.values() if o.kind == "weight")
            inputs = [o for o in own.values() if o.kind == "activation"]
            bias = bias_of(nodes[op.node])
            if not mine or not inputs or bias is None or bias.op != "get_attr":
                continue
            value = get_attr(graph.module, str(bias.target)).detach().abs()
            bits = self._bits[inputs[0].name]
            scale = self.simulator.activation_params(inputs[0].tensor, self.recipe, bits).scale
            step = value / (float(scale) * LARGEST_BIAS)
            needed = torch.maximum(needed, step if params.axis is not None else step.amax())
        count = int((needed > params.scale).sum())
        if not count:
            return params
        self.widened[weight.tensor] = count
        scale = torch.maximum(params.scale, needed)
        return replace(params, scale=scale)

    def _grid(self, tensor: str, params: QuantParams) -> tuple[str, str]:
        b = self.builder
        zero = params.zero_point.to(params.dtype)
        return (
            b.store_once(params.scale, f"{tensor}_scale"),
            b.store_once(zero, f"{tensor}_zero_point"),
        )

    def _stored(self, params: QuantParams, weight: Tensor | None = None) -> QuantParams:
        """The grid with its scale as the file's float type holds it."""
        if not self.builder.half:
            return params
        scale = half_scale(params.scale)
        if weight is not None:
            # a scale that lost bits (below 6e-5) must not clip the largest weight
            reach = affine.spread(scale, weight, params.axis) * (params.quant_max + 0.5)
            short = (weight.abs() > reach).to(torch.float32)
            others = [d for d in range(weight.dim()) if d != params.axis]
            clipped = short.amax(others) if params.axis is not None else short.amax()
            up = torch.from_numpy(
                np.nextafter(scale.numpy().astype(np.float16), np.float16(np.inf)).astype(
                    np.float32
                )
            ).reshape(scale.shape)
            scale = torch.where(clipped > 0, up, scale)
        return replace(params, scale=scale)


def half_scale(scale: Tensor) -> Tensor:
    """Scales rounded to float16, never to zero: float32 values, same shape."""
    return scale.to(torch.float16).to(torch.float32).clamp_min(HALF_TINY)
