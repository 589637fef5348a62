"""Write the lowered graph: kernel calls, codes moved, floats where floats are wanted.

Walks the captured graph once, in order. Every value gets the forms that ``demand.py`` found: float,
codes, or both. Stored tensors become buffers of the new module under their own names; what depends
on no input is computed here and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qviz import optypes
from qviz.int8 import geometry
from qviz.int8.demand import Demand, bias_of, holds_floats, is_shape, passes_codes
from qviz.int8.fuse import Group
from qviz.int8.plan import CodeGrid, IntegerOp, Plan, WeightCodes
from qviz.rewrite import aten, has_attr, set_attr
from qviz.simulate import Simulator

qviz: Any = torch.ops.qviz

_ADAPTIVE = {aten.adaptive_max_pool2d.default}


class Emitter:
    """Builds one lowered module; use ``lower``.

    Attributes:
        root: holds the stored tensors.
        graph: the new graph.
        names: of the new graph's integer calls: name of the op they compute.
        weights: stored integer weights by buffer name; those of float ops are stored dequantized.
        moved: names of the captured nodes that move codes.
    """

    def __init__(
        self,
        simulator: Simulator,
        plan: Plan,
        groups: Mapping[fx.Node, Group],
        asked: Mapping[fx.Node, Demand],
    ) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.names: dict[fx.Node, str] = {}
        self.weights: dict[str, WeightCodes] = {}
        self.moved: set[str] = set()
        self._simulator = simulator
        self._plan = plan
        self._groups = groups
        self._asked = asked
        self._inside = {n for g in groups.values() for n in g.nodes[:-1]}
        self._real: dict[fx.Node, fx.Node] = {}
        self._codes: dict[tuple[fx.Node, CodeGrid], fx.Node] = {}
        self._rounded: dict[tuple[fx.Node, CodeGrid], fx.Node] = {}
        self._buffers: dict[str, fx.Node] = {}
        self._constant: dict[fx.Node, Any] = {}
        self._channels_last = any(o.type == "conv2d" for o in simulator.graph.ops.values())
        tensors = simulator.graph.tensors.values()
        self._tensor_of = {t.node: t.name for t in tensors}

    def run(self) -> None:
        """Write the graph."""
        source = self._simulator.graph.module.graph
        self._find_constants(source)
        for node in source.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                self.graph.output(fx.node.map_arg(node.args[0], self._float))
            elif node in self._inside or node in self._constant or node.op == "get_attr":
                continue
            elif node in self._groups:
                self._group(self._groups[node])
            elif is_shape(node):
                self._shape(node)
            elif self._asked[node].real or self._asked[node].grids:
                self._plain(node)

    # -- values ---------------------------------------------------------------------------------

    def _find_constants(self, source: fx.Graph) -> None:
        """Values of calls that depend on no input; single tensors only."""
        for node in source.nodes:
            if node.op == "get_attr":
                self._constant[node] = self._simulator.program.parameter(str(node.target))
            elif node.op == "call_function" and all(
                n in self._constant for n in node.all_input_nodes
            ):
                args, kwargs = fx.node.map_arg(
                    (node.args, dict(node.kwargs)), lambda n: self._constant[n]
                )
                with torch.no_grad():
                    self._constant[node] = node.target(*args, **kwargs)

    def _float(self, node: fx.Node) -> fx.Node:
        """The value in float (or as it is, if it is no float tensor)."""
        if node not in self._real:
            value = self._constant[node]
            if isinstance(value, Tensor):
                name = str(node.target) if node.op == "get_attr" else f"constants.{node.name}"
                self._real[node] = self._buffer(self._float_name(name, node), value)
            else:
                args = fx.node.map_arg(node.args, self._float)
                kwargs = fx.node.map_arg(dict(node.kwargs), self._float)
                self._real[node] = self.graph.create_node(
                    "call_function", node.target, args, kwargs
                )
        return self._real[node]

    def _float_name(self, name: str, node: fx.Node) -> str:
        """``name``, or another if an integer op stores its codes under it."""
        stored = {w.parameter for i in self._plan.integer.values() if (w := i.weight) is not None}
        stored |= {w.parameter for ws in self._plan.weights.values() for w in ws.values()}
        return f"{name}_float" if node.op == "get_attr" and name in stored else name

    def _as_codes(self, node: fx.Node, grid: CodeGrid) -> fx.Node:
        key = (node, grid)
        if key not in self._codes:
            self._quantize(node, self._float(node), grid)
        return self._codes[key]

    def _as_rounded(self, node: fx.Node, grid: CodeGrid) -> fx.Node:
        """The float values of the codes: what a float op reads whose operand is rounded."""
        key = (node, grid)
        if key not in self._rounded:
            codes = self._as_codes(node, grid)
            self._rounded[key] = self._call(qviz.dequantize.default, (codes, grid.scale))
        return self._rounded[key]

    def _quantize(self, node: fx.Node, value: fx.Node, grid: CodeGrid) -> None:
        call = self._call(qviz.quantize.default, (value, *grid))
        self.names[call] = self._tensor_of.get(node.name, node.name)
        self._codes[node, grid] = call

    def _made(self, node: fx.Node, value: fx.Node) -> None:
        """``value`` is ``node`` in float; make the codes that are asked of it."""
        self._real[node] = value
        for grid in self._asked[node].grids:
            if (node, grid) not in self._codes:
                self._quantize(node, value, grid)

    def _call(self, target: Callable[..., Any], args: tuple[Any, ...], **kwargs: Any) -> fx.Node:
        return self.graph.call_function(target, args, kwargs)

    def _buffer(self, name: str, value: Tensor) -> fx.Node:
        if name not in self._buffers:
            assert not has_attr(self.root, name)
            set_attr(self.root, name, value)
            self._buffers[name] = self.graph.get_attr(name)
        return self._buffers[name]

    def _weight(self, weight: WeightCodes, *, real: bool) -> tuple[fx.Node, fx.Node | None]:
        """Buffers of a weight: codes and scale, or its dequantized values."""
        name, number = weight.parameter, 1
        while name in self.weights and not _same(self.weights[name], weight, real, self.root, name):
            number += 1
            name = f"{weight.parameter}_{number}"
        known = name in self.weights
        self.weights.setdefault(name, weight)
        if real:
            value = self._buffers.get(name)
            return (value or self._buffer(name, weight.dequantized())), None
        if known:
            return self._buffers[name], self._buffers[f"{name}_scale"]
        return self._buffer(name, weight.codes), self._buffer(f"{name}_scale", weight.scale)

    # -- nodes ----------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        value = self.graph.placeholder(node.name)
        value.target = node.target
        value.meta["val"] = node.meta["val"]
        shape = node.meta["val"]
        if self._channels_last and isinstance(shape, Tensor) and shape.dim() == 4:
            value = self._call(aten.contiguous.default, (value,), memory_format=torch.channels_last)
        self._made(node, value)

    def _shape(self, node: fx.Node) -> None:
        if not self._asked[node].real:
            return
        source = node.all_input_nodes[0]
        form = self._real.get(source)
        if form is None:
            form = next(c for (n, _), c in self._codes.items() if n is source)
        self._real[node] = self._call(node.target, (form, *node.args[1:]))  # type: ignore[arg-type]

    def _plain(self, node: fx.Node) -> None:
        asked = self._asked[node]
        if passes_codes(node):
            for grid in asked.grids:
                self._codes[node, grid] = self._moved(node, grid)
                self.moved.add(node.name)
            if not asked.real:
                return
        rounded = self._plan.rounded.get(node, {})
        weights = self._plan.weights.get(node, {})
        args: list[Any] = []
        for position, argument in enumerate(node.args):
            if position in weights:
                args.append(self._weight(weights[position], real=True)[0])
            elif position in rounded:
                assert isinstance(argument, fx.Node)
                args.append(self._as_rounded(argument, rounded[position]))
            else:
                args.append(fx.node.map_arg(argument, self._float))
        kwargs = fx.node.map_arg(dict(node.kwargs), self._float)
        call = self.graph.create_node("call_function", node.target, tuple(args), kwargs)
        self._made(node, call)

    def _moved(self, node: fx.Node, grid: CodeGrid) -> fx.Node:
        """A pass-through op on codes."""

        def form(n: fx.Node) -> fx.Node:
            return self._as_codes(n, grid) if holds_floats(n) else self._float(n)

        target: Any = node.target
        args = fx.node.map_arg(node.args, form)
        kwargs = fx.node.map_arg(dict(node.kwargs), form)
        if target in geometry.MAX_POOLS:
            pool = self._call(qviz.max_pool.default, geometry.pool_arguments(node, args))
            self.names[pool] = self._tensor_of[node.name]
            return pool
        if target in _ADAPTIVE:  # no int8 kernel: the codes travel as floats, which hold them
            real = self._call(qviz.dequantize.default, (args[0], 1.0))
            return self._call(target, (real, *args[1:]), **kwargs)
        source = node.args[0]
        call = self.graph.create_node("call_function", target, args, kwargs)
        if isinstance(source, fx.Node) and source.target in _ADAPTIVE:
            return self._call(qviz.quantize.default, (call, 1.0))
        return call

    # -- kernels --------------------------------------------------------------------------------

    def _group(self, group: Group) -> None:
        asked = self._asked[group.tail]
        if not (asked.real or asked.grids):
            return
        head = group.head
        grid = asked.only if not (head.kind == "matmul" and group.residual) else None
        target = {} if grid is None else _target(grid)
        if head.kind == "matmul":
            call = self._matmul(head, target)
        elif head.kind == "add":
            call = self._add(head, {**_activation(group), **target})
        else:
            call = self._weighted(group, {**self._residual(group), **_activation(group), **target})
        self.names[call] = head.op.name
        if head.kind == "matmul" and group.residual is not None:
            call = self._call(aten.add.Tensor, (self._float(group.residual[0]), call))
        if grid is None:
            self._made(group.tail, call)
        else:
            self._codes[group.tail, grid] = call

    def _input(self, head: IntegerOp, position: int) -> tuple[fx.Node, float]:
        node, grid = head.node.args[position], head.inputs[position]
        assert isinstance(node, fx.Node)
        if grid is None:
            return self._float(node), 1.0
        return self._as_codes(node, grid), grid.scale

    def _matmul(self, head: IntegerOp, extra: dict[str, Any]) -> fx.Node:
        first, second = sorted(head.inputs)
        args = (*self._input(head, first), *self._input(head, second))
        return self._call(qviz.matmul.default, args, **extra)

    def _add(self, head: IntegerOp, extra: dict[str, Any]) -> fx.Node:
        args = (*self._input(head, 0), *self._input(head, 1))
        return self._call(qviz.add.default, args, **extra)

    def _residual(self, group: Group) -> dict[str, Any]:
        if group.residual is None:
            return {}
        node, grid = group.residual
        if grid is None:
            return {"residual": self._float(node)}
        return {"residual": self._as_codes(node, grid), "residual_scale": grid.scale}

    def _weighted(self, group: Group, extra: dict[str, Any]) -> fx.Node:
        head = group.head
        assert head.weight is not None
        (position,) = head.inputs
        x, scale = self._input(head, position)
        codes, weight_scale = self._weight(head.weight, real=False)
        bias = bias_of(head.node)
        before = (x, scale, codes, weight_scale, None if bias is None else self._float(bias))
        source = head.node.args[position]
        assert isinstance(source, fx.Node)
        if head.kind == "conv_transpose":
            how = geometry.transpose_arguments(head.node)
            return self._call(qviz.conv_transpose.default, (*before, *how), **extra)
        grid = head.inputs[position]
        if never_negative(source) or (grid is not None and grid.qmin >= 0):
            extra["x_qmin"] = 0
        if head.kind == "linear":
            return self._call(qviz.linear.default, before, **extra)
        window, pads = geometry.conv_arguments(head.node)
        if any(pads):  # more on one side than on the other, which no kernel takes
            padded = self._call(aten.constant_pad_nd.default, (x, pads, 0))
            before = (padded, *before[1:])
        return self._call(qviz.conv.default, (*before, *window), **extra)


def _target(grid: CodeGrid) -> dict[str, Any]:
    found: dict[str, Any] = {"out_scale": grid.scale}
    if (grid.qmin, grid.qmax) != (-128, 127):
        found |= {"out_qmin": grid.qmin, "out_qmax": grid.qmax}
    return found


def _activation(group: Group) -> dict[str, Any]:
    if group.activation == "none":
        return {}
    limits = {"activation_args": list(group.limits)} if group.limits else {}
    return {"activation": group.activation, **limits}


def _same(known: WeightCodes, new: WeightCodes, real: bool, root: nn.Module, name: str) -> bool:
    stored: Any = root.get_buffer(name)
    return (
        known.bits == new.bits
        and known.axis == new.axis
        and known.transposed == new.transposed
        and stored.is_floating_point() == real
    )


def never_negative(node: fx.Node) -> bool:
    """Whether no code can be below zero, by the ops that made the value alone."""
    while passes_codes(node):
        inputs = [n for n in node.all_input_nodes if holds_floats(n)]
        if len(inputs) != 1:
            return bool(inputs) and all(never_negative(n) for n in inputs)
        node = inputs[0]
    if node.target in optypes.NONNEGATIVE:
        return True
    if node.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", -1.0)
        return isinstance(low, int | float) and low >= 0
    return False
