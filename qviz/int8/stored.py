"""Weights as they are stored: a program whose narrow weights are packed, and back.

``stored_program`` replaces every weight of at most 4 bits by its packed codes and a call of
``qviz::unpack_int4`` (a weight that a float op reads rounded: by its scale as well), so that what
torch.export saves is as small as the codes are. ``unpacked`` computes those calls once, after
which the program is the one that was lowered: nothing is unpacked while it runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qviz.int8.int4 import BITS, pack_int4
from qviz.int8.lower import Lowered
from qviz.int8.plan import WeightCodes
from qviz.rewrite import aten, get_attr, has_attr, set_attr

PACKED = "_packed"
SCALE = "_scale"

qviz: Any = torch.ops.qviz


def is_packed(weight: WeightCodes) -> bool:
    """Whether a checkpoint stores it two codes per byte."""
    return weight.bits <= BITS


def stored_program(lowered: Lowered) -> fx.GraphModule:
    """The program as it is saved; ``lowered`` is not changed."""
    narrow = {name: w for name, w in lowered.weights.items() if is_packed(w)}
    if not narrow:
        return lowered.module
    return _Packing(lowered, narrow).run()


def stored_tensors(lowered: Lowered) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds: integers wherever a weight is rounded."""
    tensors: dict[str, Tensor] = {}
    for name, value in lowered.module.state_dict().items():
        weight = lowered.weights.get(name)
        if weight is None:
            tensors[name] = value.detach().contiguous().clone()
            continue
        tensors[f"{name}{SCALE}"] = weight.scale.clone()
        if is_packed(weight):
            tensors[f"{name}{PACKED}"] = pack_int4(weight.codes)
        else:
            tensors[name] = weight.codes.contiguous().clone()
    return tensors


class _Packing:
    """Writes the stored graph; one per call of ``stored_program``."""

    def __init__(self, lowered: Lowered, narrow: dict[str, WeightCodes]) -> None:
        self._module = lowered.module
        self._narrow = narrow
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._buffers: dict[str, fx.Node] = {}

    def run(self) -> fx.GraphModule:
        source = self._module.graph
        new: dict[fx.Node, fx.Node] = {}
        for node in source.nodes:
            if node.op == "get_attr":
                new[node] = self._value(str(node.target))
            else:
                new[node] = self._graph.node_copy(node, new.__getitem__)
        self._graph.set_codegen(source._codegen)
        return fx.GraphModule(self._root, self._graph, type(self._module).__name__)

    def _value(self, name: str) -> fx.Node:
        weight = self._narrow.get(name)
        if weight is None:
            return self._buffer(name, get_attr(self._module, name))
        shape = list(weight.codes.shape)
        packed = self._buffer(f"{name}{PACKED}", pack_int4(weight.codes))
        codes = self._call(qviz.unpack_int4.default, packed, shape)
        if not get_attr(self._module, name).is_floating_point():
            return codes
        per_channel = [1] * len(shape)
        per_channel[weight.axis] = -1
        scale = self._buffer(f"{name}{SCALE}", weight.scale.reshape(per_channel))
        return self._call(aten.mul.Tensor, codes, scale)

    def _call(self, target: Any, *args: Any) -> fx.Node:  # noqa: ANN401 - an operator
        return self._graph.call_function(target, args)

    def _buffer(self, name: str, value: Tensor) -> fx.Node:
        if name not in self._buffers:
            assert not has_attr(self._root, name)
            set_attr(self._root, name, value)
            self._buffers[name] = self._graph.get_attr(name)
        return self._buffers[name]


def unpacked(program: fx.GraphModule) -> fx.GraphModule:
    """The program with its weights as int8 codes, a module of its own.

    Args:
        program: as ``torch.export.load(...).module()`` gives it; its stored tensors are shared.
    """
    graph = program.graph
    held: dict[fx.Node, Tensor] = {}
    for node in graph.nodes:
        made = _computed(program, node, held)
        if made is not None:
            held[node] = made
    for node, value in held.items():
        if all(user in held for user in node.users):
            continue
        name = _name(node)
        set_attr(program, name, value)
        with graph.inserting_before(node):
            stored = graph.get_attr(name)
        stored.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(stored)
    if held:
        graph.eliminate_dead_code()
    # Only what the graph reads goes along: packed codes do not.
    return fx.GraphModule(program, graph)


def _computed(program: fx.GraphModule, node: fx.Node, held: dict[fx.Node, Tensor]) -> Tensor | None:
    """The value of a node that makes a weight of packed codes, None for any other node."""
    if node.op != "call_function":
        return None
    inputs = node.all_input_nodes
    begins = node.target is qviz.unpack_int4.default
    if not (begins or any(n in held for n in inputs)):
        return None
    if not all(n in held or n.op == "get_attr" for n in inputs):
        return None
    args, kwargs = fx.node.map_arg(
        (node.args, dict(node.kwargs)),
        lambda n: held[n] if n in held else get_attr(program, str(n.target)),
    )
    with torch.no_grad():
        made: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return made


def _name(node: fx.Node) -> str:
    """Of the weight that a chain of calls makes: its packed codes are called after it."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return str(node.target).removesuffix(PACKED)
