"""What only the whole graph can tell of one node: its batch axis, its root, its sign.

Lives during capture alone; ``graph.py`` holds what remains of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from qviz import optypes
from qviz.graph import TensorInfo
from qviz.rewrite import aten


class Facts:
    """Answers about nodes that need the whole graph."""

    def __init__(
        self, module: fx.GraphModule, symbols: dict[Any, int], names: Mapping[fx.Node, str]
    ) -> None:
        self.module = module
        self.symbols = symbols
        self.samples = next(iter(symbols.values()))
        self.names = names
        self.order = {n: i for i, n in enumerate(module.graph.nodes)}
        self.nonnegative: dict[fx.Node, bool] = {}
        self.depends: dict[fx.Node, bool] = {}
        self.batch: dict[fx.Node, tuple[int | None, int]] = {}
        for node in module.graph.nodes:
            self.depends[node] = node.op == "placeholder" or any(
                self.depends[n] for n in node.all_input_nodes
            )
            self.nonnegative[node] = optypes.nonnegative(node, self.nonnegative)
            if isinstance(node.meta.get("val"), Tensor):
                self.batch[node] = self._batch_axis(node)

    def _batch_axis(self, node: fx.Node) -> tuple[int | None, int]:
        """(axis, entries per sample); no axis: (None, 1) without a batch, else (None, 0 or n)."""
        found: list[tuple[int, int]] = []
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int) or not size.node.expr.free_symbols & self.symbols.keys():
                continue
            found.append((axis, self._per_sample(size.node.expr)))
        if len(found) != 1:
            return None, 0 if found else 1
        axis, multiple = found[0]
        if multiple == 1 or (multiple and self._sample_major(node, axis, multiple)):
            return axis, multiple
        return None, multiple

    def _per_sample(self, expr: Any) -> int:  # noqa: ANN401 - sympy
        """Entries per sample of a size that grows with the batch; 0 if not in proportion to it."""
        once, twice = (expr.subs({s: k * v for s, v in self.symbols.items()}) for k in (1, 2))
        if not once.is_number or twice != 2 * once or once % self.samples:
            return 0
        return int(once / self.samples)

    def _sample_major(self, node: fx.Node, axis: int, multiple: int) -> bool:
        """Whether the several entries that each sample has along ``axis`` lie together.

        They do if the axis came from a reshape with the batch as the outer of the merged axes, or
        from a value in which they did.
        """
        if node.target in (aten.reshape.default, aten.flatten.using_ints):
            source = node.args[0]
            if not isinstance(source, fx.Node) or self.batch.get(source, (None, 1))[0] != axis:
                return False
            before, after = source.meta["val"].shape, node.meta["val"].shape
            return tuple(before[:axis]) == tuple(after[:axis])
        inputs = [self.batch[n] for n in node.all_input_nodes if n in self.batch]
        return any(known is not None and inner == multiple for known, inner in inputs)

    def root(self, node: fx.Node) -> fx.Node:
        """The tensor whose range ``node`` shares: back through pass-through ops."""
        while True:
            plain = node.op == "call_function" and node.target not in optypes.CONCATENATIONS
            through = plain and optypes.passes_codes(node)
            if through or getattr(node.target, "__name__", "") == "getitem":
                source = node.args[0]
                # a stored token spread over the batch has no data of its own to observe
                known = isinstance(source, fx.Node) and self.depends[source]
                if isinstance(source, fx.Node) and known and (through or _has_codes(source)):
                    node = source
                    continue
            return node

    def after_matmul(self, node: fx.Node) -> bool:
        """Whether ``node`` comes straight from a matrix product that nothing else reads."""
        while len(node.users) == 1:
            kind = optypes.label(node) if node.op == "call_function" else ""
            if kind.startswith("conv") or kind in ("linear", "matmul"):
                return True
            if not optypes.passes_codes(node) or not isinstance(node.args[0], fx.Node):
                return False
            node = node.args[0]
        return False

    def tensor(self, node: fx.Node) -> TensorInfo:
        """What the graph keeps of a value; its consumers are not known here."""
        value = node.meta["val"]
        axis, multiple = self.batch[node]
        shape = [
            s if isinstance(s, int) else optypes.concrete(s, self.symbols) for s in value.shape
        ]
        if axis is not None:
            shape[axis : axis + 1] = [] if multiple == 1 else [multiple]
        elif self.depends[node]:
            shape = [s if isinstance(s, int) else -1 for s in value.shape]
        root = self.root(node)
        channel = _channel_dim(node, value.dim())
        return TensorInfo(
            name=self.names[node],
            node=node.name,
            shape=tuple(shape),
            dtype=str(value.dtype).removeprefix("torch."),
            batch_dim=axis,
            batch_multiple=multiple,
            channel_dim=None if channel == axis else channel,
            root=self.names.get(root, self.names[node]),
            consumers=(),
            nonnegative=self.nonnegative[node],
        )


def _channel_dim(node: fx.Node, dims: int) -> int | None:
    """Axis 1 for images, the last for tokens and vectors (as conv and linear read them)."""
    if dims < 2:
        return None
    if dims in (4, 5) and not any(optypes.label(u) in ("linear", "matmul") for u in node.users):
        return 1
    if dims == 3 and any(optypes.label(u).startswith("conv") for u in node.users):
        return 1
    return dims - 1


def _has_codes(source: fx.Node) -> bool:
    return source.op == "call_function" and optypes.passes_codes(source)
