"""What is timed: an integer program, the names of its calls, and inputs for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qviz.int8 import twin
from qviz.int8.checkpoint import PROGRAM, Checkpoint
from qviz.int8.lower import Lowered, LoweredOp
from qviz.optypes import label

#: Size of an axis that may be of any size and is not the batch's.
FREE = 128


@dataclass(frozen=True)
class Input:
    """One input of a program.

    Attributes:
        name: of the tensor.
        key: its position, or its keyword.
        dtype: ``float32`` ...
        shape: of a sample.
        batch_dim: the axis that grows with the number of samples, None if there is none.
    """

    name: str
    key: int | str
    dtype: str
    shape: tuple[int, ...]
    batch_dim: int | None

    def make(self, batch: int, device: str) -> Tensor:
        """Values that any model takes: normal noise, or ones (an id, or a mask that hides none)."""
        sizes = [FREE if size < 0 else size for size in self.shape]
        if self.batch_dim is not None:
            sizes.insert(self.batch_dim, batch)
        dtype: torch.dtype = getattr(torch, self.dtype)
        if not dtype.is_floating_point:
            return torch.ones(sizes, dtype=dtype, device=device)
        noise = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
        return noise.to(device, dtype)


@dataclass(frozen=True, eq=False)
class Subject:
    """An integer program.

    Attributes:
        program: takes and gives what the model does.
        calls: node name of each ``qviz::`` call -> name of the op it computes, or of the tensor
            that it turns into codes.
        ops: what became of each op, in execution order.
        inputs: in the order of the placeholders.
        digest: of the program.
    """

    program: fx.GraphModule
    calls: Mapping[str, str]
    ops: tuple[LoweredOp, ...]
    inputs: tuple[Input, ...]
    digest: str

    @staticmethod
    def of_checkpoint(checkpoint: Checkpoint) -> Subject:
        """What a checkpoint holds."""
        manifest = checkpoint.manifest
        rows = [LoweredOp(**row | {"fused": tuple(row["fused"])}) for row in manifest["ops"]]
        inputs = [
            Input(i["name"], i["key"], i["dtype"], tuple(i["shape"]), i["batch_dim"])
            for i in manifest["inputs"]
        ]
        digest = str(manifest["files"][PROGRAM]["sha256"])
        return Subject(checkpoint.program, manifest["calls"], tuple(rows), tuple(inputs), digest)

    @staticmethod
    def of_lowered(lowered: Lowered) -> Subject:
        """What was just lowered."""
        tensors = lowered.graph.tensors
        inputs = []
        for item in lowered.graph.inputs:
            info = tensors[item.tensor]
            inputs.append(Input(item.tensor, item.key, info.dtype, info.shape, info.batch_dim))
        digest = hashlib.sha256(lowered.recipe.to_json().encode()).hexdigest()
        return Subject(lowered.module, lowered.calls, lowered.rows, tuple(inputs), digest)

    def arguments(
        self, batch: int, device: str = "cpu"
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Inputs for one run: by position, and by keyword."""
        made = [(item.key, item.make(batch, device)) for item in self.inputs]
        named = {key: value for key, value in made if isinstance(key, str)}
        return tuple(value for key, value in made if isinstance(key, int)), named

    @property
    def notes(self) -> tuple[str, ...]:
        """What the inputs leave open, in words."""
        return tuple(
            f"an axis of input {item.name} may be of any size; timed at {FREE}"
            for item in self.inputs
            if any(size < 0 for size in item.shape)
        )


@dataclass(frozen=True)
class Owner:
    """Which row a call belongs to.

    Attributes:
        op: name of the op or tensor; ``[type]`` if several of a type cannot be told apart.
        type: of the op.
        kernel: ``int8 conv``, ``quantize``, ``dequantize``, ``codes`` or ``float``.
        members: names of the ops that it computes, its own first; empty for a border.
    """

    op: str
    type: str
    kernel: str
    members: tuple[str, ...]


def owners(subject: Subject) -> dict[str, Owner]:
    """The row of every call of the program, by node name."""
    known = {row.op: row for row in subject.ops}
    nodes = [n for n in subject.program.graph.nodes if n.op == "call_function"]
    found: dict[str, Owner] = {}
    rest: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if not twin.is_integer_call(node):
            rest.setdefault(label(node), []).append(node)
            continue
        kernel, name = twin.kernel_of(node), _name(node, subject.calls)
        row = known.get(name)
        if kernel in ("quantize", "dequantize") or row is None:
            found[node.name] = Owner(name, kernel, kernel, ())
        else:
            what = row.kernel if row.kernel.startswith("int8") else f"int8 {kernel}"
            found[node.name] = Owner(name, row.type, what, (name, *row.fused))
    for kind, same in rest.items():
        ops = [r for r in subject.ops if r.type == kind and not r.kernel.startswith("int8")]
        found |= _matched(kind, same, ops)
    return {node.name: found[node.name] for node in nodes}


def _name(node: fx.Node, calls: Mapping[str, str]) -> str:
    """Of an integer call; a dequantize is named after what it reads."""
    if node.name in calls and calls[node.name] != node.name:
        return calls[node.name]
    source = next((n for n in node.all_input_nodes if n.name in calls), None)
    return calls[source.name] if source is not None else node.name


def _matched(kind: str, nodes: Sequence[fx.Node], ops: Sequence[LoweredOp]) -> dict[str, Owner]:
    """Calls of one type and the ops of that type, both in execution order."""
    if len(nodes) == len(ops):
        return {
            node.name: Owner(op.op, kind, op.kernel, (op.op,))
            for node, op in zip(nodes, ops, strict=True)
        }
    kernel = ops[0].kernel if ops else "float"
    return {node.name: Owner(f"[{kind}]", kind, kernel, ()) for node in nodes}


def readers(node: fx.Node, moving: Mapping[str, bool]) -> list[fx.Node]:
    """The calls for whose sake a quantize or dequantize call exists.

    Args:
        node: the call.
        moving: whether a call, by node name, only moves or borders codes.
    """
    found: dict[fx.Node, None] = {}
    waiting, seen = list(node.users), set(node.users)
    while waiting:
        user = waiting.pop()
        if user.op != "call_function":
            continue
        if not moving[user.name]:
            found[user] = None
            continue
        waiting += [after for after in user.users if after not in seen]
        seen |= set(user.users)
    return list(found)


def any_arguments(values: Any) -> list[Tensor]:  # noqa: ANN401 - a call's arguments
    """The tensors among a call's arguments."""
    return [v for v in torch.utils._pytree.tree_leaves(values) if isinstance(v, Tensor)]
