"""One op for one meaning: forms that only decomposed programs have become those of torch.nn.

A model comes from torch.export with ``conv2d``, ``linear`` and ``batch_norm``. A program that was
decomposed before it was saved says ``convolution``, a product with a permuted weight, and a batch
norm with three results; models with weight norm or standardized weights compute a weight that
never changes. Later rewrites and tables need to know only the first kind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qviz.rewrite import (
    CONVS,
    TRANSPOSED_CONVS,
    aten,
    get_attr,
    has_attr,
    insert_call,
    set_attr,
    stem_of,
)

_PLAIN = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_TRANSPOSED = {
    1: aten.conv_transpose1d.default,
    2: aten.conv_transpose2d.input,
    3: aten.conv_transpose3d.input,
}
#: Products -> the argument that may be a stored weight.
_WEIGHT_AT = {
    **dict.fromkeys((*CONVS, *TRANSPOSED_CONVS), 1),
    **dict.fromkeys((aten.linear.default, aten.matmul.default, aten.mm.default), 1),
    aten.addmm.default: 2,
}


def normalize(module: fx.GraphModule) -> None:
    """Write batch norms, convolutions and computed weights in their plain form, in place."""
    _batch_norms(module.graph)
    _convolutions(module.graph)
    _computed_weights(module)


def _batch_norms(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        x, weight, bias, mean, var, momentum, eps = node.args
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        plain = insert_call(graph, node, aten.batch_norm.default, args)
        for user in list(node.users):
            user.replace_all_uses_with(plain)
            graph.erase_node(user)
        graph.erase_node(node)


def _convolutions(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target is not aten.convolution.default:
            continue
        x, weight, bias, stride, padding, dilation, transposed, extra, groups = node.args
        dims = weight.meta["val"].dim() - 2
        if transposed:
            node.target = _TRANSPOSED[dims]
            node.args = (x, weight, bias, stride, padding, extra, groups, dilation)
        else:
            node.target = _PLAIN[dims]
            node.args = (x, weight, bias, stride, padding, dilation, groups)


def _computed_weights(module: fx.GraphModule) -> None:
    """Store weights that are a function of parameters alone."""
    fixed: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        inputs = node.all_input_nodes
        called = node.op == "call_function" and bool(inputs)
        if node.op == "get_attr" or (called and fixed.issuperset(inputs)):
            fixed.add(node)
            continue
        position = _WEIGHT_AT.get(node.target)
        weight: Any = None if position is None else node.args[position]
        if position is not None and weight in fixed and weight.op == "call_function":
            node.update_arg(position, _stored(module, node, weight))
    module.graph.eliminate_dead_code()


def _stored(module: fx.GraphModule, reader: fx.Node, weight: fx.Node) -> fx.Node:
    with torch.no_grad():
        value = _value(module, weight)
    source = weight
    while source.op != "get_attr":
        source = source.all_input_nodes[0]
    path, parametrized, _ = str(source.target).partition(".parametrizations.")
    stem = path if parametrized else stem_of(path)
    name, number = f"{stem}.weight", 0
    while has_attr(module, name):
        number += 1
        name = f"{stem}.call{number}.weight"
    set_attr(module, name, value.contiguous())
    with module.graph.inserting_before(reader):
        stored = module.graph.get_attr(name)
    stored.meta["val"] = weight.meta["val"]
    return stored


def _value(module: fx.GraphModule, node: fx.Node) -> Tensor:
    if node.op == "get_attr":
        return get_attr(module, str(node.target))
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: _value(module, n))
    value: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return value
