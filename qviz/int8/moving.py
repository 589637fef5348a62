"""An integer program rewritten for another device and another float type.

A program is written for the CPU and float32. Put elsewhere, it is the same graph with

* its stored tensors there; codes, scales and biases of integer ops keep their types, all other
  float tensors take the float type (numbers beyond float16's range are cut off at its ends);
* integer ops that write floats writing that type (``out_dtype``), and every float op running in it;
* devices and float32 in the arguments of nodes replaced.

Inputs and outputs stay float32: an input that is only quantized is quantized as it came, any other
is converted on its way in, and outputs are converted back at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qviz import optypes
from qviz.int8.placement import Place, reported
from qviz.int8.twin import bound, is_integer_call, kernel_of
from qviz.rewrite import aten, get_attr, set_attr

#: Integer ops that write floats when they have no ``out_scale``.
WRITERS = frozenset({"linear", "conv", "conv_transpose", "matmul", "add", "dequantize"})
WEIGHTED = frozenset({"linear", "conv", "conv_transpose"})
#: Arguments that integer ops read in float32 whatever the float type.
ALWAYS_FLOAT32 = ("weight_scale", "bias")


def placed(program: fx.GraphModule, source: fx.Graph, place: Place) -> fx.GraphModule:
    """A program somewhere else.

    Args:
        program: holds the stored tensors; not changed. What was made narrower stays as rounded as
            it was: load the checkpoint again to get its float32 values back.
        source: its graph as it was saved: for the CPU and float32.
        place: where to.

    Raises:
        DeviceError: the GPU's memory is full.
    """
    return _Move(program, source, place).run()


class _Move:
    """Writes the graph anew; one per call of ``placed``."""

    def __init__(self, program: fx.GraphModule, source: fx.Graph, place: Place) -> None:
        self._program = program
        self._source = source
        self._place = place
        self._narrow = place.dtype is not torch.float32
        self._graph = fx.Graph()
        self._new: dict[fx.Node, fx.Node] = {}
        self._kept: set[fx.Node] = set()  # nodes of the source that stay float32
        self._casts: dict[fx.Node, fx.Node] = {}

    def run(self) -> fx.GraphModule:
        if self._narrow:
            self._find_kept()
        for node in self._source.nodes:
            if node.target is aten._assert_tensor_metadata.default:
                continue  # it asserts the device and type that were
            self._new[node] = self._copied(node)
        self._graph.set_codegen(self._source._codegen)
        root = nn.Module()
        with reported():
            self._move_tensors(root)
        module = fx.GraphModule(root, self._graph)
        if self._place.device.type == "cuda":
            _prepare(module)
        return module

    # -- what stays float32 ---------------------------------------------------------------------

    def _find_kept(self) -> None:
        for node in self._source.nodes:
            if not _is_float32(node):
                continue
            if node.op == "get_attr":
                keeps = any(node in _read_in_float32(user) for user in node.users)
            elif node.op == "call_function" and is_integer_call(node):
                keeps = all(user.op == "output" for user in node.users)
            else:
                keeps = node.op == "placeholder" or self._only_moves(node)
            if keeps:
                self._kept.add(node)

    def _only_moves(self, node: fx.Node) -> bool:
        """Whether a node moves elements of a kept input to where they are quantized."""
        inputs = [n for n in node.all_input_nodes if _is_float32(n)]
        return (
            _moves(node)
            and len(inputs) == 1
            and inputs[0] in self._kept
            and inputs[0].op != "get_attr"
            and _only_quantized(node)
        )

    # -- nodes ----------------------------------------------------------------------------------

    def _copied(self, node: fx.Node) -> fx.Node:
        if node.op == "output":
            return self._graph.node_copy(node, self._as_float32)
        if node.op != "call_function" or not self._narrow:
            copy = self._graph.node_copy(node, lambda n: self._new[n])
            copy.args, copy.kwargs = self._renamed(node, copy.args, copy.kwargs)
            return copy
        if is_integer_call(node):
            return self._integer(node)
        read = self._new.__getitem__ if node in self._kept else self._narrowed
        copy = self._graph.node_copy(node, read)
        copy.args, copy.kwargs = self._renamed(node, copy.args, copy.kwargs)
        if node not in self._kept and _begins_floats(node) and not _says_float32(node):
            # Integers that became floats, or a constant: float32 because nothing else was said.
            return self._graph.call_function(aten.to.dtype, (copy, self._place.dtype))
        return copy

    def _integer(self, node: fx.Node) -> fx.Node:
        """Integer ops take any float type, so nothing is converted before them."""
        copy = self._graph.node_copy(node, lambda n: self._new[n])
        if kernel_of(node) in WRITERS and _is_float32(node) and node not in self._kept:
            copy.kwargs = {**copy.kwargs, "out_dtype": self._place.dtype}
        return copy

    def _narrowed(self, node: fx.Node) -> fx.Node:
        """The new node, in the float type."""
        if node not in self._kept:
            return self._new[node]
        return self._cast(node, self._place.dtype)

    def _as_float32(self, node: fx.Node) -> fx.Node:
        if not self._narrow or not _is_float32(node) or node in self._kept:
            return self._new[node]
        return self._cast(node, torch.float32)

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        if node not in self._casts:
            self._casts[node] = self._graph.call_function(aten.to.dtype, (self._new[node], dtype))
        return self._casts[node]

    def _renamed(self, node: fx.Node, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:  # noqa: ANN401
        """Arguments with this place's device and float type in them."""
        if node.op != "call_function" or is_integer_call(node):
            return args, dict(kwargs)
        change = self._narrow and node not in self._kept
        limit = torch.finfo(self._place.dtype).max

        def rename(value: Any) -> Any:  # noqa: ANN401 - an argument of a node
            if isinstance(value, torch.device):
                return self._place.device
            if isinstance(value, torch.dtype):
                return self._place.dtype if change and value is torch.float32 else value
            if isinstance(value, float) and change and limit < abs(value) < float("inf"):
                return limit if value > 0 else -limit
            if isinstance(value, list | tuple):
                return type(value)(rename(v) for v in value)
            return value

        return tuple(rename(a) for a in args), {k: rename(v) for k, v in kwargs.items()}

    # -- tensors --------------------------------------------------------------------------------

    def _move_tensors(self, root: nn.Module) -> None:
        for node in self._source.nodes:
            if node.op != "get_attr":
                continue
            value = get_attr(self._program, str(node.target))
            if _is_float32(node):
                value = self._in_type(value, torch.float32 if node in self._kept else None)
            value = value.to(self._place.device)
            if self._place.device.type == "cuda" and _is_float_image_weight(node):
                value = value.contiguous(memory_format=torch.channels_last)
            set_attr(root, str(node.target), value)

    def _in_type(self, value: Tensor, dtype: torch.dtype | None) -> Tensor:
        dtype = dtype or self._place.dtype
        if dtype is not torch.float16 or value.dtype is torch.float16:
            return value.to(dtype)
        limit = torch.finfo(dtype).max
        finite = torch.where(value.isinf(), value, value.clamp(-limit, limit))
        return finite.to(dtype)


def _is_float32(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype is torch.float32


def _begins_floats(node: fx.Node) -> bool:
    """Whether a node makes float32 of what is no float tensor."""
    if not _is_float32(node):
        return False
    values = (n.meta.get("val") for n in node.all_input_nodes)
    parts = (v for value in values for v in (value if isinstance(value, list | tuple) else [value]))
    return not any(isinstance(v, Tensor) and v.is_floating_point() for v in parts)


def _says_float32(node: fx.Node) -> bool:
    return any(value is torch.float32 for value in (*node.args, *node.kwargs.values()))


def _read_in_float32(user: fx.Node) -> list[Any]:
    """The arguments of a call that it reads in float32."""
    if user.op != "call_function" or not is_integer_call(user):
        return []
    if kernel_of(user) not in WEIGHTED:
        return []
    given = bound(user.target, user.args, user.kwargs)
    return [given[name] for name in ALWAYS_FLOAT32]


def _moves(node: fx.Node) -> bool:
    return node.target is aten.contiguous.default or optypes.passes_codes(node)


def _only_quantized(node: fx.Node) -> bool:
    """Whether nothing becomes of a value but codes, after moves of its elements at most."""
    return all(
        user.op == "call_function"
        and (
            user.target is aten.sym_size.int
            or (is_integer_call(user) and kernel_of(user) == "quantize")
            or (_moves(user) and len(user.all_input_nodes) == 1 and _only_quantized(user))
        )
        for user in node.users
    )


def _is_float_image_weight(node: fx.Node) -> bool:
    """Whether a stored tensor is the weight of a float 2d convolution."""
    return any(user.target is aten.conv2d.default and user.args[1] is node for user in node.users)


def _prepare(module: fx.GraphModule) -> None:
    """Pack the weights now: while a CUDA graph is captured, it would be part of the graph."""
    from qviz.int8.cuda import weights

    for node in module.graph.nodes:
        if node.op == "call_function" and is_integer_call(node) and kernel_of(node) in WEIGHTED:
            given = bound(node.target, node.args, node.kwargs)
            if given["weight"].op == "get_attr":
                weight = get_attr(module, str(given["weight"].target))
                weights.prepare(kernel_of(node), weight, int(given.get("groups", 1)))
