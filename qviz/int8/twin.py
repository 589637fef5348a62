"""What an integer program stands for in float, derived from the program alone.

A saved checkpoint knows nothing of the model it came from, and needs nothing: every ``qviz::`` call
says which float arithmetic it replaces.

* ``simulated``   one call as the simulation does it: dequantize, compute in float, round
* ``float_twin``  the whole program with dequantized weights and no rounding, to compare speed with
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qviz import affine
from qviz.affine import QuantParams
from qviz.rewrite import aten, get_attr, set_attr

_CONV: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSE: dict[int, Any] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

Arguments = Mapping[str, Any]


def is_integer_call(node: fx.Node) -> bool:
    """Whether the node calls an operator of ``qviz``."""
    return getattr(node.target, "namespace", "") == "qviz"


def kernel_of(node: fx.Node) -> str:
    """``conv`` for a call of ``qviz::conv``."""
    name: str = node.target._schema.name  # type: ignore[union-attr]
    return name.removeprefix("qviz::")


def bound(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """A call's arguments by name, defaults included."""
    schema = target._schema.arguments
    values = {a.name: a.default_value for a in schema if a.has_default_value()}
    values.update(zip((a.name for a in schema), args, strict=False))
    return {**values, **kwargs}


def grid(scale: float, qmin: int, qmax: int) -> QuantParams:
    """The symmetric grid that a call's numbers describe."""
    return QuantParams(torch.tensor(scale), torch.zeros((), dtype=torch.int32), qmin, qmax)


def _real(x: Tensor, scale: float) -> Tensor:
    """A tensor in float, whether it holds codes or real values."""
    if x.is_floating_point():
        return x.to(torch.float32)
    return affine.dequantize(x, grid(scale, -128, 127))


def dequantized_weight(weight: Tensor, scale: Tensor, *, transposed: bool = False) -> Tensor:
    """A weight's real values; the channels lie along axis 0, or 1 if ``transposed``."""
    shape = [1] * weight.dim()
    shape[int(transposed)] = -1
    return weight.to(torch.float32).mul_(scale.reshape(shape))


def simulated(kernel: str, a: Arguments, weight: Tensor | None) -> Tensor:
    """One integer call as the simulation computes it.

    Args:
        kernel: name of the operator.
        a: its arguments by name.
        weight: its dequantized weight, for an op that has one.

    Returns:
        What the call gives: int8 codes, or floats.
    """
    if kernel == "quantize":
        return affine.quantize(a["x"].to(torch.float32), grid(a["scale"], a["qmin"], a["qmax"]))
    if kernel == "dequantize":
        return _typed(affine.dequantize(a["q"], grid(a["scale"], -128, 127)), a)
    if kernel == "max_pool":
        return _pool(a["x"].to(torch.float32), a).to(torch.int8)
    if kernel == "matmul":
        y = torch.matmul(_real(a["a"], a["a_scale"]), _real(a["b"], a["b_scale"]))
    elif kernel == "add":
        y = _real(a["a"], a["a_scale"]) + _real(a["b"], a["b_scale"])
    else:
        y = _weighted(kernel, a, _real(a["x"], a["x_scale"]), weight)
    y = _activated(y, a)
    if a["out_scale"] is None:
        return _typed(y, a)
    return affine.quantize(y, grid(a["out_scale"], a["out_qmin"], a["out_qmax"]))


def _typed(y: Tensor, a: Arguments) -> Tensor:
    """Floats in the type that the call writes."""
    return y.to(a["out_dtype"] or torch.float32)


def _weighted(kernel: str, a: Arguments, x: Tensor, weight: Tensor | None) -> Tensor:
    assert weight is not None
    if kernel == "linear":
        y = F.linear(x, weight, a["bias"])
    elif kernel == "conv":
        how = (a["stride"], a["padding"], a["dilation"], a["groups"])
        y = _CONV[weight.dim()](x, weight, a["bias"], *how)
    else:
        window = (a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"])
        y = _TRANSPOSE[weight.dim()](x, weight, a["bias"], *window)
    return y if a["residual"] is None else y + _real(a["residual"], a["residual_scale"])


def _activated(y: Tensor, a: Arguments) -> Tensor:
    activation = a.get("activation", "none")
    if activation == "relu":
        return F.relu(y)
    return F.hardtanh(y, *a["activation_args"]) if activation == "hardtanh" else y


def _pool(x: Tensor, a: Arguments) -> Tensor:
    how = (a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
    pooled: Tensor = _POOL[len(a["kernel"])](x, *how)
    return pooled


def float_twin(module: fx.GraphModule) -> fx.GraphModule:
    """The program in float: weights dequantized once, nothing rounded.

    Args:
        module: a program with ``qviz::`` calls whose weights are stored tensors; not changed.

    Returns:
        The float program; each node's ``meta["source"]`` names the node that it stands for.
    """
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    twin = _Twin(module, graph, new)
    for node in module.graph.nodes:
        known = len(graph.nodes)
        if node.op == "call_function" and is_integer_call(node):
            new[node] = twin.translate(node)
        else:
            new[node] = graph.node_copy(node, lambda n: new[n])
        for made in itertools.islice(reversed(graph.nodes), len(graph.nodes) - known):
            made.meta["source"] = node.name
    graph.set_codegen(module.graph._codegen)
    graph.eliminate_dead_code()
    return fx.GraphModule(twin.root, graph)


class _Twin:
    """Translates integer calls into float ones."""

    def __init__(
        self, module: fx.GraphModule, graph: fx.Graph, new: Mapping[fx.Node, fx.Node]
    ) -> None:
        self.root = torch.nn.Module()
        for node in module.graph.nodes:
            if node.op == "get_attr":
                set_attr(self.root, str(node.target), get_attr(module, str(node.target)))
        self._graph = graph
        self._new = new

    def translate(self, node: fx.Node) -> fx.Node:
        kernel = kernel_of(node)
        a = bound(node.target, node.args, node.kwargs)
        if kernel in ("quantize", "dequantize"):
            return self._new[a["x" if kernel == "quantize" else "q"]]
        if kernel == "max_pool":
            pool = {
                1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default
            }[len(a["kernel"])]  # fmt: skip
            names = ("x", "kernel", "stride", "padding", "dilation", "ceil_mode")
            return self._call(pool, *(a[n] for n in names))
        if kernel == "matmul":
            return self._call(aten.matmul.default, a["a"], a["b"])
        if kernel == "add":
            y = self._call(aten.add.Tensor, a["a"], a["b"])
        else:
            y = self._weighted(kernel, a)
        if a["activation"] == "none":
            return y
        if a["activation"] == "relu":
            return self._graph.call_function(aten.relu.default, (y,))
        return self._graph.call_function(aten.hardtanh.default, (y, *a["activation_args"]))

    def _call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._graph.call_function(target, fx.node.map_arg(args, lambda n: self._new[n]))

    def _weighted(self, kernel: str, a: Arguments) -> fx.Node:
        transposed = kernel == "conv_transpose"
        codes, scale = (get_attr(self.root, str(a[k].target)) for k in ("weight", "weight_scale"))  # type: ignore[arg-type]
        name = f"{a['weight'].target}_real"
        weight = dequantized_weight(codes, scale, transposed=transposed)
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        set_attr(self.root, name, weight)
        stored = self._graph.get_attr(name)
        bias = None if a["bias"] is None else self._new[a["bias"]]
        head = (self._new[a["x"]], stored, bias)
        how: tuple[Any, ...] = ()
        if kernel == "linear":
            target: Any = aten.linear.default
        elif transposed:
            forms = {
                3: aten.conv_transpose1d.default,
                4: aten.conv_transpose2d.input,
                5: aten.conv_transpose3d.input,
            }
            target = forms[weight.dim()]
            how = (a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"])
        else:
            plain = {3: aten.conv1d.default, 4: aten.conv2d.default, 5: aten.conv3d.default}
            target = plain[weight.dim()]
            how = (a["stride"], a["padding"], a["dilation"], a["groups"])
        y = self._graph.call_function(target, (*head, *how))
        return y if a["residual"] is None else self._add(y, a["residual"])

    def _add(self, y: fx.Node, residual: fx.Node) -> fx.Node:
        return self._graph.call_function(aten.add.Tensor, (y, self._new[residual]))
