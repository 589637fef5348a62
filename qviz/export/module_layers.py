"""The int8 ops of a recipe as the nn.Modules that make them, for formats that address modules.

Other libraries quantize the user's own module, in which batch norms are still there. A weight that
a norm was folded into is that module's weight times one factor per output channel, so its scale
divided by the size of the factor gives the same codes, up to a sign that the norm takes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qviz.affine import Grid, QuantParams, quantize, symmetric_params
from qviz.errors import FormatError
from qviz.export.request import Request
from qviz.graph import Graph, Op, Operand
from qviz.recipe import Decision, Recipe, resolve
from qviz.rewrite import get_attr

#: Op type -> the module whose call it is.
KINDS: dict[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
    "linear": nn.Linear,
}


@dataclass(frozen=True, eq=False)
class Rounding:
    """How one operand of a layer is rounded.

    Attributes:
        amax: float32 limit in the units of the user's tensor: 0-d, or one per output channel.
        params: the grid of that limit.
        bits: 2 to 8.
    """

    amax: Tensor
    params: QuantParams
    bits: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One module with int8 operands.

    Attributes:
        path: of the module in the user's model, "" for the model itself.
        module: the user's.
        ops: its calls.
        input: None if it stays float.
        weight: None if it stays float.
    """

    path: str
    module: nn.Module
    ops: tuple[str, ...]
    input: Rounding | None
    weight: Rounding | None

    def name(self, part: str) -> str:
        """``path.part``."""
        return f"{self.path}.{part}" if self.path else part

    @property
    def stored(self) -> Tensor:
        """The module's weight, float32 on the CPU."""
        value = self.module.weight
        assert isinstance(value, Tensor)
        return value.detach().cpu().float()

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [N, K] of the module's own weight, their scales [N, 1], the input's scale [1]."""
        assert self.weight is not None
        assert self.input is not None
        params = self.weight.params
        codes = quantize(self.stored, params)
        scale = params.scale.expand(codes.shape[0]).reshape(-1, 1)
        return codes, scale, self.input.params.scale.reshape(1)


def made_by_modules(graph: Graph, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Rule: an int8 op is the call of a module that holds its weight."""
    ops = [op.name for op in _int8(graph, recipe) if not _own_weight(op)]
    return {"not the call of a linear or convolution module": tuple(ops)} if ops else {}


def called_alike(graph: Graph, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Rule: a module that is called several times rounds its input in one way."""
    decisions = resolve(recipe, graph)
    calls: dict[str, list[Op]] = {}
    for op in graph.quantizable:
        if op.type in KINDS and _own_weight(op):
            calls.setdefault(op.module, []).append(op)
    chosen = {op.name for op in _int8(graph, recipe)}
    different = [
        op.name
        for ops in calls.values()
        if len({_said(op, recipe, decisions) for op in ops}) > 1
        for op in ops
        if op.name in chosen
    ]
    reason = "one module called with different ranges or not always int8"
    return {reason: tuple(different)} if different else {}


def module_layers(request: Request, title: str) -> tuple[Layer, ...]:
    """The modules that a recipe quantizes, in execution order.

    Raises:
        FormatError: the model's modules are not known, an op is not the call of a plain module, or
            nothing is int8.
    """
    if not isinstance(request.model, nn.Module):
        raise FormatError(
            title,
            "it addresses the modules of a model, which an exported program does not have",
            "Open the model as file.py:factory or from Python",
        )
    modules = dict(request.model.named_modules(remove_duplicate=False))
    calls: dict[str, list[Op]] = {}
    for op in _int8(request.graph, request.recipe):
        calls.setdefault(op.module, []).append(op)
    wrong = [ops[0] for path, ops in calls.items() if not _plain(ops[0], modules.get(path))]
    if wrong:
        kinds = sorted({type(modules.get(op.module)).__name__ for op in wrong})
        raise FormatError(
            title,
            f"it cannot quantize {', '.join(op.name for op in wrong)}, made by "
            f"{' and '.join(kinds)} instead of a plain linear or convolution module",
            "Leave them in float",
        )
    if not calls:
        raise FormatError(title, "no op that it can hold is int8", "Make a linear op int8")
    return tuple(_layer(request, path, modules[path], ops) for path, ops in calls.items())


def _int8(graph: Graph, recipe: Recipe) -> Iterable[Op]:
    decisions = resolve(recipe, graph)
    return [op for op in graph.quantizable if any(decisions[o.name].int8 for o in op.operands)]


def _own_weight(op: Op) -> bool:
    weight = next((o.tensor for o in op.operands if o.kind == "weight"), None)
    if weight is None:
        return False
    # a second call that another batch norm was folded into has a weight of its own: conv.call1
    own = rf"{re.escape(op.module)}\.(call\d+\.)?weight" if op.module else "weight"
    return re.fullmatch(own, weight) is not None or op.name == op.module


def _said(op: Op, recipe: Recipe, decisions: dict[str, Decision]) -> tuple[object, ...]:
    """What a recipe says of one call, to be compared with another call of the same module."""
    said: list[object] = []
    for operand in op.operands:
        decision = decisions[operand.name]
        said += [decision.int8, decision.bits if decision.int8 else None]
        if decision.int8 and operand.kind == "activation":
            said.append(_amax(operand, recipe))
    return tuple(said)


def _amax(operand: Operand, recipe: Recipe) -> float:
    chosen = recipe.range_of[operand.tensor]
    return max(-chosen.lo, chosen.hi)


def _plain(op: Op, module: nn.Module | None) -> bool:
    """Whether libraries that replace modules know this one: its forward is torch's own."""
    kind = KINDS[op.type]
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        return False
    return "weight" in module._parameters  # else it is computed from other parameters


def _layer(request: Request, path: str, module: nn.Module, ops: list[Op]) -> Layer:
    decisions = resolve(request.recipe, request.graph)
    parts: dict[str, Rounding] = {}
    for operand in ops[0].operands:
        bits = decisions[operand.name].bits
        if not decisions[operand.name].int8:
            continue
        if operand.kind == "weight":
            parts["weight"] = _weight(request, ops[0], operand, module, bits)
        else:
            params = request.simulator.activation_params(operand.tensor, request.recipe, bits)
            amax = torch.tensor(_amax(operand, request.recipe), dtype=torch.float32)
            parts["input"] = Rounding(amax, params, bits)
    return Layer(
        path, module, tuple(op.name for op in ops), parts.get("input"), parts.get("weight")
    )


def _weight(request: Request, op: Op, operand: Operand, module: nn.Module, bits: int) -> Rounding:
    per_channel = request.recipe.per_channel
    axis = operand.axis or 0
    params, _ = request.simulator.weight(operand, bits, per_channel)
    folded = _channels(get_attr(request.graph.module, operand.tensor), axis)
    amax = folded if per_channel else folded.amax()
    if op.name not in request.graph.folded.values():
        return Rounding(amax, params, bits)
    own = _channels(module.weight, axis)  # type: ignore[arg-type]
    spread = torch.where(folded > 0, amax / folded, torch.ones_like(folded))
    amax = own * spread
    return Rounding(amax, symmetric_params(amax, Grid(bits, narrow=True), axis), bits)


def _channels(weight: Tensor, axis: int) -> Tensor:
    """Largest magnitude of each channel, float32 on the CPU."""
    value = weight.detach().cpu().float().abs()
    return value.amax([d for d in range(value.dim()) if d != axis])
