"""Call a program's nodes one by one, with a time, or a look, at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qviz.int8.timing import Stopwatch
from qviz.rewrite import get_attr

Look = Callable[[fx.Node, tuple[Any, ...], Mapping[str, Any], Any], None]


@dataclass(frozen=True, eq=False)
class Step:
    """One call.

    Attributes:
        node: of the program.
        done: nodes whose values nobody reads after it.
    """

    node: fx.Node
    done: tuple[fx.Node, ...]


class Walk:
    """A program, ready to be called node by node.

    Values are let go after their last reader, as in the program's own code, so that memory is as
    warm as it is there. Stored tensors are found beforehand.

    Attributes:
        program: what is walked.
        steps: its calls in execution order.
    """

    def __init__(self, program: fx.GraphModule) -> None:
        self.program = program
        nodes = list(program.graph.nodes)
        last = {source: node for node in nodes for source in node.all_input_nodes}
        dying: dict[fx.Node, list[fx.Node]] = {}
        for source, reader in last.items():
            if source.op != "get_attr":
                dying.setdefault(reader, []).append(source)
        self.steps = tuple(
            Step(node, tuple(dying.get(node, ()))) for node in nodes if node.op == "call_function"
        )
        self._inputs = [node for node in nodes if node.op == "placeholder"]
        self._stored = {
            node: get_attr(program, str(node.target)) for node in nodes if node.op == "get_attr"
        }

    def run(
        self, inputs: Sequence[Tensor], watch: Stopwatch | None = None, look: Look | None = None
    ) -> None:
        """Call every node once.

        Args:
            inputs: as ``flat_inputs`` arranges them.
            watch: begin and end are called around each call; arguments are ready before begin.
            look: called with each node, its arguments and its value.
        """
        values: dict[fx.Node, Any] = {**self._stored, **zip_inputs(self._inputs, inputs)}
        with torch.no_grad():
            for step in self.steps:
                node, target = step.node, step.node.target
                assert callable(target)
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                if watch is None:
                    made = target(*args, **kwargs)
                else:
                    watch.begin()
                    made = target(*args, **kwargs)
                    watch.end()
                if look is not None:
                    look(node, args, kwargs, made)
                values[node] = made
                del args, kwargs, made
                for dead in step.done:
                    values.pop(dead, None)


def zip_inputs(nodes: Sequence[fx.Node], inputs: Sequence[Tensor]) -> dict[fx.Node, Tensor]:
    """Input tensors by placeholder."""
    return dict(zip(nodes, inputs, strict=True))
