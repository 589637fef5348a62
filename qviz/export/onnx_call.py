"""One call of the captured graph on its way into a file: its arguments by name, its values written.

A translator of ``onnx_ops*.py`` is a function of a ``Call`` that adds nodes and returns the name
of the value they make (or several names, for a call with several results).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from qviz.errors import UnsupportedModelError
from qviz.export.onnx_builder import Builder


class Value(NamedTuple):
    """A tensor of the file: its name there, and what capture knew of it."""

    name: str
    val: Tensor


class Size(NamedTuple):
    """A size that depends on the batch: the name of an int64 list of one number."""

    name: str


class Operands(Protocol):
    """Finds the values of arguments, rounded where the recipe says so."""

    def argument(self, node: fx.Node, reader: fx.Node) -> Value | Size:
        """The value of a captured node as a reader that has no int8 arithmetic gets it."""

    def rounds(self, node: fx.Node, position: int) -> bool:
        """Whether a node reads an int8 operand at a position."""

    def read(self, node: fx.Node, position: int, *, transpose: bool = False) -> str:
        """The name of a tensor argument, rounded if it is an int8 operand."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call.

    Attributes:
        b: the file being written.
        node: the captured node.
        name: of the op, and of the tensor it makes.
        a: arguments by their names in the operator's schema, defaults included, as captured.
        val: what capture knew of the result.
        source: ``file.py:12`` of the line that called it.
        operands: reads arguments by position.
        transposed_weights: the engine wants a linear weight stored as (inputs, outputs).
    """

    b: Builder
    node: fx.Node
    name: str
    a: Mapping[str, Any]
    val: Any
    source: str
    operands: Operands
    transposed_weights: bool

    def tensor(self, key: str, dtype: torch.dtype | None = None) -> str:
        """The name of a tensor or number argument, cast to ``dtype`` if it has another."""
        return self.cast(self.a[key], dtype or self.val.dtype)

    def value(self, key: str = "self") -> Value:
        """A tensor argument as it is."""
        found = self.known(self.a[key])
        assert isinstance(found, Value)
        return found

    def known(self, argument: Any) -> Any:  # noqa: ANN401 - an fx argument
        """A captured argument as a value, a size or a plain number."""
        if isinstance(argument, fx.Node):
            return self.operands.argument(argument, self.node)
        return argument

    def shape(self, key: str = "self") -> list[Any]:
        """Sizes of a tensor argument as captured; those of the batch are symbols."""
        return list(self.a[key].meta["val"].shape)

    def axis(self, dim: int, key: str = "self") -> int:
        """An axis of a tensor argument, counted from the front."""
        return dim % max(len(self.shape(key)), 1)

    def cast(self, value: Any, dtype: torch.dtype) -> str:  # noqa: ANN401 - an fx argument
        """The name of a tensor, size or number in ``dtype``."""
        value = self.known(value)
        if isinstance(value, Size):
            value = Value(self.b.node("Squeeze", (value.name,)), torch.empty((), dtype=torch.int64))
        if not isinstance(value, Value):
            return self.b.scalar(value, dtype)
        if self.b.dtype(value.val.dtype) == self.b.dtype(dtype):
            return value.name
        return self.b.node("Cast", (value.name,), to=self.b.element(dtype))

    def read(self, position: int, *, transpose: bool = False) -> str:
        """A tensor argument by position, rounded if the recipe says so."""
        return self.operands.read(self.node, position, transpose=transpose)

    def optional(self, key: str) -> str:
        """The name of a tensor argument, "" for None."""
        return "" if self.a[key] is None else self.value(key).name

    def emit(self, kind: str, *inputs: str, main: bool = False, **attributes: Any) -> str:
        """Add a node on the way; ``main`` gives it the op's name."""
        return self.b.node(kind, inputs, name=self.name if main else None, **attributes)

    def result(self, kind: str, *inputs: str, main: bool = True, **attributes: Any) -> str:
        """Add the node that makes the op's tensor."""
        name = self.name if main else None
        return self.b.node(kind, inputs, name=name, outputs=(self.name,), **attributes)

    def sizes(self, values: Sequence[Any]) -> str:
        """An int64 list of numbers and sizes."""
        values = [self.known(v) for v in values]
        if all(isinstance(v, int) for v in values):
            return self.b.integers(*values)
        parts = [v.name if isinstance(v, Size) else self.b.integers(v) for v in values]
        return self.b.node("Concat", parts, axis=0)

    def captured_shape(self, val: Tensor | None = None) -> str:
        """The shape of the result as an int64 list, -1 for the batch.

        Raises:
            UnsupportedModelError: several sizes depend on the batch.
        """
        shape = [s if isinstance(s, int) else -1 for s in (self.val if val is None else val).shape]
        if shape.count(-1) > 1:
            raise self.refuse("several of its sizes depend on the batch")
        return self.b.integers(*shape)

    def refuse(self, reason: str) -> UnsupportedModelError:
        """That the call cannot be written."""
        return refusal(self.name, str(self.node.target), reason, self.source)


Translator = Callable[[Call], Any]


def refusal(name: str, target: str, reason: str, source: str) -> UnsupportedModelError:
    """That an op cannot be written, with its line and what to do."""
    where = f" at {source}" if source else ""
    return UnsupportedModelError(
        name,
        f"{target}{where} cannot be written as ONNX: {reason}",
        "Write it with other operations in forward, or export another format",
    )
