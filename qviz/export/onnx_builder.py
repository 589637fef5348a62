"""Nodes, stored tensors and names of one ONNX file while it is being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qviz.export.onnx_package import onnx

#: torch dtype -> name of the ONNX element type.
ELEMENTS = {
    torch.float32: "FLOAT",
    torch.float64: "DOUBLE",
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.int16: "INT16",
    torch.int8: "INT8",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}
#: The largest magnitude of a float16.
HALF_MAX = 65504.0


class Builder:
    """Collects what becomes a graph; names are unique.

    Args:
        half: float32 becomes float16, everywhere in the graph.

    Attributes:
        nodes: ``NodeProto`` in order.
        stored: ``TensorProto`` by name.
        op: name of the op whose nodes are being written.
    """

    def __init__(self, *, half: bool = False) -> None:
        self.half = half
        self.nodes: list[Any] = []
        self.stored: dict[str, Any] = {}
        self.op = ""
        self._onnx = onnx()
        self._node_names: set[str] = set()
        self._values: set[str] = set()
        self._numbers: dict[tuple[object, ...], str] = {}

    def reserve(self, name: str) -> None:
        """Keep a value name for what will be called that."""
        self._values.add(name)

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What a dtype of the model is in the file."""
        real = dtype in (torch.float32, torch.float64)
        return (torch.float16 if self.half else torch.float32) if real else dtype

    def element(self, dtype: torch.dtype) -> int:
        """Number of the ONNX element type of a dtype of the model."""
        return int(getattr(self._onnx.TensorProto, ELEMENTS[self.dtype(dtype)]))

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        name: str | None = None,
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node; the name of its first output.

        Args:
            kind: the ONNX operator.
            inputs: value names, "" for one that is left out.
            name: of the node; ``op/Kind`` if it is not given or taken.
            outputs: value names; made from the node's name if they are not given.
            attributes: None is left out.
        """
        own = self._free(name or f"{self.op}/{kind}", self._node_names)
        made = [self._free(own, self._values)] if outputs is None else list(outputs)
        self._values.update(made)
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), made, name=own, **given))
        return made[0]

    def store(self, value: Tensor | np.ndarray[Any, Any], name: str) -> str:
        """Store a tensor under a name of its own; the name it got."""
        array = self._array(value) if isinstance(value, Tensor) else value
        own = self._free(name, self._values)
        self.stored[own] = self._onnx.numpy_helper.from_array(np.array(array, order="C"), own)
        return own

    def store_once(self, value: Tensor | np.ndarray[Any, Any], name: str) -> str:
        """The name itself, storing the tensor at the first time."""
        return name if name in self.stored else self.store(value, name)

    def integers(self, *values: int) -> str:
        """A stored list of int64, the same one for the same numbers."""
        return self._number("int64", tuple(values), np.array(values, np.int64))

    def scalar(self, value: float | bool, dtype: torch.dtype) -> str:
        """A stored number of a dtype of the model."""
        own = self.dtype(dtype)
        array = (
            self._array(torch.tensor(value, dtype=torch.float64).to(own))
            if (own.is_floating_point)
            else self._array(torch.tensor(value, dtype=own))
        )
        if own == torch.float16 and np.isfinite(value):
            array = np.array(np.clip(value, -HALF_MAX, HALF_MAX), np.float16)
        return self._number(str(own), (repr(value),), array)

    def _number(self, kind: str, key: tuple[object, ...], array: np.ndarray[Any, Any]) -> str:
        known = (kind, array.shape, *key)
        if known not in self._numbers:
            short = "x".join(str(k) for k in key)[:40] or "none"
            self._numbers[known] = self.store(array, f"number/{kind}/{short}")
        return self._numbers[known]

    def _array(self, value: Tensor) -> np.ndarray[Any, Any]:
        value = value.detach()
        if self.half and value.is_floating_point() and value.dtype != torch.float16:
            infinite = value.isinf()
            value = torch.where(infinite, value, value.clamp(-HALF_MAX, HALF_MAX))
        array: np.ndarray[Any, Any] = value.to(self.dtype(value.dtype)).contiguous().numpy()
        return array

    def _free(self, name: str, taken: set[str]) -> str:
        own, number = name, 0
        while own in taken:
            number += 1
            own = f"{name}.{number}"
        taken.add(own)
        return own
