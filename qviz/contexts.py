"""Blocks under ``torch.autocast`` or ``torch.no_grad``: their ops become ops of the graph itself.

torch.export writes such a block as one call of a graph of its own. Switching gradients changes no
value, and autocast that is switched off changes none either (attention blocks do that to stay in
float32), so the calls inside are what the model computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qviz.errors import UnsupportedModelError

_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
#: Where the block's graph stands among the arguments; what it reads follows.
_BLOCK_AT: dict[Any, int] = {_GRADIENTS: 1, _AUTOCAST: 4}


def inline(module: fx.GraphModule, name: str) -> None:
    """Replace every block by the ops inside it, in place.

    Args:
        module: an exported program.
        name: of the model, for messages.

    Raises:
        UnsupportedModelError: a block computes in a lower precision.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _BLOCK_AT:
            continue
        if node.target is _AUTOCAST and node.args[2]:
            kind = str(node.args[1]).removeprefix("torch.")
            raise UnsupportedModelError(
                name,
                f"a part of forward runs under autocast in {kind}, ranges need float32",
                "Take torch.autocast out of forward, or pass enabled=False",
            )
        _inline_block(module, node, name)
    graph.eliminate_dead_code()


def _inline_block(module: fx.GraphModule, node: fx.Node, name: str) -> None:
    position = _BLOCK_AT[node.target]
    holder = node.args[position]
    assert isinstance(holder, fx.Node)
    block = getattr(module, str(holder.target))
    inline(block, name)
    inputs = [n for n in block.graph.nodes if n.op == "placeholder"]
    known = dict(zip(inputs, node.args[position + 1 :], strict=True))
    with module.graph.inserting_before(node):
        results: Any = module.graph.graph_copy(block.graph, known)
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
    for reader in list(node.users):  # of a tuple, each takes one
        reader.replace_all_uses_with(results[reader.args[1]])
        module.graph.erase_node(reader)
    module.graph.erase_node(node)
