"""Rewrites that turn what torch.export gives into the graph that qviz works on.

Each function takes the ``fx.GraphModule`` of an exported program and changes it in place (it is
qviz's own copy); none changes what the graph computes, beyond float rounding of folded weights:

1. ``functionalize``: ``relu_`` -> ``relu``, so that every value has one meaning for ever and any
   op can be resumed from cached inputs;
2. ``drop_noops``: asserts, guards, eval-mode dropout, detach, clone; ``view`` -> ``reshape``,
   because a view of a channels-last tensor is not one;
3. ``decompose_attention``: scaled_dot_product_attention -> matmul, scale, mask, softmax, matmul;
4. ``fold_batch_norm``: Wu et al. 2020 eq. 16, into conv, conv-transpose and linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

CONVS = {
    aten.conv1d.default: "conv1d",
    aten.conv1d.padding: "conv1d",
    aten.conv2d.default: "conv2d",
    aten.conv2d.padding: "conv2d",
    aten.conv3d.default: "conv3d",
    aten.conv3d.padding: "conv3d",
}
TRANSPOSED_CONVS = {
    aten.conv_transpose1d.default: "conv_transpose1d",
    aten.conv_transpose2d.input: "conv_transpose2d",
    aten.conv_transpose3d.input: "conv_transpose3d",
}

_NOOPS = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.detach_.default,
}
_TO_RESHAPE = {aten.view.default, aten._unsafe_view.default}


def get_attr(module: fx.GraphModule, target: str) -> Tensor:
    """The tensor behind a ``get_attr`` node's dotted target."""
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def set_attr(module: torch.nn.Module, target: str, value: Tensor) -> None:
    """Set the tensor behind a dotted target, making the modules on the way."""
    *path, name = target.split(".")
    for part in path:
        child = getattr(module, part, None)
        if not isinstance(child, torch.nn.Module):
            child = torch.nn.Module()
            module.add_module(part, child)
        module = child
    if hasattr(module, name):
        delattr(module, name)  # a parameter, a buffer or a plain attribute (a lifted constant)
    module.register_buffer(name, value)


def has_attr(module: torch.nn.Module, target: str) -> bool:
    """Whether a dotted target exists."""
    value: Any = module
    for part in target.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def insert_call(
    graph: fx.Graph, like: fx.Node, target: Callable[..., Any], args: tuple[Any, ...]
) -> fx.Node:
    """Add a call before ``like`` that carries its origin, with the value's shape inferred."""
    with graph.inserting_before(like):
        node = graph.call_function(target, args)
    node.meta = {k: like.meta[k] for k in ("nn_module_stack", "stack_trace") if k in like.meta}
    fake = fx.node.map_arg(args, lambda n: n.meta["val"])
    tensors = [v for v in torch.utils._pytree.tree_leaves(fake) if isinstance(v, Tensor)]
    mode = next((t.fake_mode for t in tensors if hasattr(t, "fake_mode")), None)
    if mode is None:
        node.meta["val"] = target(*fake)
    else:
        with mode:
            node.meta["val"] = target(*fake)
    return node


def functionalize(module: fx.GraphModule) -> bool:
    """Replace in-place calls by their functional form; False if a mutated value has views.

    A mutation of ``x`` is seen by every later reader of ``x``: those are pointed to the new
    value. If ``x`` is a view, or has views, other values change with it; then nothing further is
    done and the caller lets torch.export functionalize instead.
    """
    graph = module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        functional = _functional_form(node)
        if functional is None:
            continue
        mutated = node.args[0]
        if not isinstance(mutated, fx.Node) or mutated.op != "call_function":
            return False
        if _shares_memory(mutated) or any(_shares_memory(u) for u in mutated.users):
            return False
        node.target = functional
        later = [u for u in mutated.users if u is not node and order[u] > order[node]]
        for user in later:
            user.replace_input_with(mutated, node)
    return True


def _shares_memory(node: fx.Node) -> bool:
    """Whether the result may be a view of an argument, which a mutation would reach too."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # a part of a split
    schema = node.target._schema
    # an in-place op returns what it was given, and its readers are pointed to that anyway
    return not schema.is_mutable and any(a.alias_info is not None for a in schema.arguments)


def _functional_form(node: fx.Node) -> Callable[..., Any] | None:
    """``aten.relu`` for a call of ``aten.relu_``, None for a call that mutates nothing."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    schema = node.target._schema
    if not schema.is_mutable or node.target in _NOOPS:
        return None
    name = schema.name.split("::")[1]
    packet = getattr(aten, name.removesuffix("_"), None)
    overload = schema.overload_name or "default"
    return getattr(packet, overload, None) if name.endswith("_") and packet else node.target


def mutates(module: fx.GraphModule) -> bool:
    """Whether a call that changes its argument is left."""
    return any(
        isinstance(n.target, torch._ops.OpOverload)
        and n.target._schema.is_mutable
        and n.target not in _NOOPS
        for n in module.graph.nodes
        if n.op == "call_function"
    )


def drop_noops(module: fx.GraphModule) -> None:
    """Remove what has no effect in evaluation and make every view a reshape."""
    graph = module.graph
    for node in list(graph.nodes):
        if (
            (node.op == "call_module" and node.target == "_guards_fn")
            or (node.op == "call_function" and "assert" in str(node.target))
            or "sym_constrain_range" in str(node.target)
            # what the model would leave behind in an input or a buffer
            or (node.target is aten.copy_.default and not node.users)
        ):
            graph.erase_node(node)
        elif node.op != "call_function":
            continue
        elif node.target in _NOOPS or _same_dtype_cast(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in _TO_RESHAPE:
            node.target = aten.reshape.default
        elif node.target is aten.squeeze.default:
            # without axes it would take the batch axis of a single sample away too
            sizes = node.args[0].meta["val"].shape
            ones = [i for i, s in enumerate(sizes) if isinstance(s, int) and s == 1]
            node.target, node.args = aten.squeeze.dims, (node.args[0], ones)
    graph.eliminate_dead_code()


def _same_dtype_cast(node: fx.Node) -> bool:
    if "aten.to." not in str(node.target) and node.target is not aten._to_copy.default:
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or "val" not in source.meta:
        return False
    before, after = source.meta["val"], node.meta["val"]
    return bool(before.dtype == after.dtype and before.device == after.device)


def decompose_attention(module: fx.GraphModule) -> None:
    """Replace scaled_dot_product_attention by its formula, so both matmuls are ops."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is aten.scaled_dot_product_attention.default:
            result = _attention(module.graph, node)
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)


def _attention(graph: fx.Graph, node: fx.Node) -> fx.Node:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = given["query"], given["key"], given["value"]

    def call(target: Callable[..., Any], *args: Any) -> fx.Node:
        return insert_call(graph, node, target, args)

    if given.get("enable_gqa"):
        repeat = query.meta["val"].shape[-3] // key.meta["val"].shape[-3]
        key = call(aten.repeat_interleave.self_int, key, repeat, -3)
        value = call(aten.repeat_interleave.self_int, value, repeat, -3)
    scale = given.get("scale")
    if scale is None:
        scale = 1.0 / math.sqrt(int(query.meta["val"].shape[-1]))
    keys = call(aten.transpose.int, key, -2, -1)
    scores = call(aten.matmul.default, query, keys)  # (..., L, E) x (..., E, S) -> (..., L, S)
    scores = call(aten.mul.Tensor, scores, float(scale))
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        rows, columns = (int(s) for s in scores.meta["val"].shape[-2:])
        ones = call(aten.ones.default, [rows, columns])
        above = call(aten.triu.default, ones, 1)
        hidden = call(aten.ne.Scalar, above, 0)
        scores = call(aten.masked_fill.Scalar, scores, hidden, float("-inf"))
    elif mask is not None and mask.meta["val"].dtype == torch.bool:
        hidden = call(aten.logical_not.default, mask)
        scores = call(aten.masked_fill.Scalar, scores, hidden, float("-inf"))
    elif mask is not None:
        scores = call(aten.add.Tensor, scores, mask)
    # a row that the mask hides completely attends to nothing: 0, where softmax gives NaN
    hides = mask is not None
    weights = call(aten._safe_softmax.default if hides else aten.softmax.int, scores, -1)
    return call(aten.matmul.default, weights, value)


def fold_batch_norm(module: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Fold each batch norm into the conv, conv-transpose or linear right before it.

    ``W' = gamma W / sqrt(var + eps)`` per output channel and
    ``b' = gamma (b - mean) / sqrt(var + eps) + beta`` (Wu et al. 2020, eq. 16).

    Returns:
        Batch norm nodes that are gone -> the node that took them in.
    """
    folded: dict[fx.Node, fx.Node] = {}
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or len(source.users) != 1:
            continue
        if not _stored_statistics(node) or not _foldable(source):
            continue
        _fold(module, source, node)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        folded[node] = source
    graph.eliminate_dead_code()
    return folded


def _stored(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _stored_statistics(norm: fx.Node) -> bool:
    """Whether a batch norm is a fixed scale and shift, not one made from the batch."""
    weight, bias, mean, var, training = norm.args[1:6]
    given = [a for a in (weight, bias) if a is not None]
    return not training and all(_stored(a) for a in (mean, var, *given))


def _foldable(node: fx.Node) -> bool:
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    if len(node.args) < 2 or not _stored(node.args[1]) or not (bias is None or _stored(bias)):
        return False
    if node.target is aten.linear.default:
        return bool(node.meta["val"].dim() == 2)  # else axis 1, which it norms, is not the channel
    return node.target in CONVS or node.target in TRANSPOSED_CONVS


def _fold(module: fx.GraphModule, node: fx.Node, norm: fx.Node) -> None:
    def tensor(argument: Any) -> Tensor | None:  # noqa: ANN401 - a node or nothing
        return None if argument is None else get_attr(module, argument.target).double()

    weight_node: Any = node.args[1]
    bias_node: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    mean, var = tensor(norm.args[3]), tensor(norm.args[4])
    assert mean is not None
    assert var is not None
    eps: Any = norm.args[7]
    factor = torch.rsqrt(var + float(eps))  # (C,)
    gamma, beta, bias = tensor(norm.args[1]), tensor(norm.args[2]), tensor(bias_node)
    if gamma is not None:
        factor = gamma * factor
    weight = get_attr(module, weight_node.target).double()
    new_bias = ((0.0 if bias is None else bias) - mean) * factor
    if beta is not None:
        new_bias = new_bias + beta
    new_weight = _scale_outputs(weight, factor, node)
    stem = stem_of(weight_node.target)
    name = _free_name(module, node, stem, {weight_node, bias_node})
    set_attr(module, f"{name}.weight", new_weight.float())
    set_attr(module, f"{name}.bias", new_bias.float())
    graph = module.graph
    with graph.inserting_before(node):
        nodes = [graph.get_attr(f"{name}.{part}") for part in ("weight", "bias")]
    nodes[0].meta["val"] = weight_node.meta["val"]
    nodes[1].meta["val"] = norm.args[3].meta["val"]  # type: ignore[union-attr]
    node.args = (node.args[0], *nodes, *node.args[3:])
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "bias"}


def stem_of(target: str) -> str:
    """``conv`` for ``conv.weight``; something that is no tensor yet for any other parameter."""
    return target.removesuffix(".weight") if target.endswith(".weight") else f"{target}_folded"


def _free_name(
    module: fx.GraphModule, node: fx.Node, stem: str, own: Sequence[Any] | set[Any]
) -> str:
    """``stem`` if this call is the only reader of its parameters, else ``stem.call1`` ..."""
    readers = {
        user
        for candidate in module.graph.nodes
        if candidate.op == "get_attr"
        and candidate.target in {n.target for n in own if n is not None}
        for user in candidate.users
    }
    if readers <= {node}:
        return stem
    number = 1
    while has_attr(module, f"{stem}.call{number}"):
        number += 1
    return f"{stem}.call{number}"


def _scale_outputs(weight: Tensor, factor: Tensor, node: fx.Node) -> Tensor:
    if node.target not in TRANSPOSED_CONVS:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))  # (O, I, ...) * (O,)
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    inputs, per_group, *kernel = weight.shape  # (I, O / groups, ...)
    grouped = weight.reshape(groups, inputs // groups, per_group, *kernel)
    scale = factor.reshape(groups, 1, per_group, *[1] * len(kernel))
    return (grouped * scale).reshape(weight.shape)
