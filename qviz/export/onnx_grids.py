"""Which values and weights of a file are quantized, and the QuantizeLinear pairs that say so.

A pair stands where the op reads its operand, as in the simulation, so readers that are float see
the unrounded value. Names follow ONNX Runtime's own quantizer: ``X_scale``, ``X_zero_point``,
``X_QuantizeLinear_Output``, ``X_DequantizeLinear_Output``, ``weight_quantized``. A scale is named
after the tensor whose range it is: the readers of a max-pooled or reshaped value share its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from qviz import affine
from qviz.affine import QuantParams
from qviz.export.onnx_builder import Builder
from qviz.graph import Operand
from qviz.recipe import Recipe, resolve
from qviz.simulate import Simulator

#: The smallest float16 above zero.
HALF_TINY = 2.0**-24


@dataclass(frozen=True, eq=False)
class Pair:
    """One QuantizeLinear of the file.

    Attributes:
        value: name of the value that is rounded.
        tensor: name of the tensor whose range it uses.
        codes: name of the codes.
        params: the grid, with the scale as it is stored.
    """

    value: str
    tensor: str
    codes: str
    params: QuantParams


@dataclass(eq=False)
class Quantizers:
    """Quantized operands of a recipe, written into a file as they are read.

    Attributes:
        pairs: every QuantizeLinear written, by the name of its codes.
    """

    builder: Builder
    simulator: Simulator
    recipe: Recipe
    pairs: dict[str, Pair] = field(default_factory=dict)
    _written: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.simulator.graph
        decisions = resolve(self.recipe, graph)
        self._bits = {name: d.bits for name, d in decisions.items() if d.int8}
        nodes: dict[str, dict[int, Operand]] = {}
        for op in graph.quantizable:
            nodes[op.node] = {o.position: o for o in op.operands if o.name in self._bits}
        self._operands: Mapping[str, dict[int, Operand]] = nodes

    def operand(self, node: fx.Node, position: int) -> Operand | None:
        """The int8 operand that a node reads at a position, None if it reads float there."""
        return self._operands.get(node.name, {}).get(position)

    def activation(self, operand: Operand, value: str) -> str:
        """Round a value for an operand; the name of the rounded value."""
        key = (value, operand.tensor)
        if key not in self._written:
            self._written[key] = self._pair(operand, value)
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
        self.pairs[codes] = Pair(value, tensor, codes, params)
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
        params = self._stored(params, value)
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
        return QuantParams(
            scale, params.zero_point, params.quant_min, params.quant_max, params.axis
        )


def half_scale(scale: Tensor) -> Tensor:
    """Scales rounded to float16, never to zero: float32 values, same shape."""
    return scale.to(torch.float16).to(torch.float32).clamp_min(HALF_TINY)
