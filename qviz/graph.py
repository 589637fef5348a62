"""What a captured model is: ops, operands, tensors, and the aten graph that computes them.

Vocabulary (one meaning each, used everywhere):

* an *op* is one call in the graph, named by the module that makes it
  (``layer1.0.conv1``, ``layer1.0:add``, ``blocks.3.attn:matmul.1``);
* a *tensor* is a value, named by the op that makes it; calibration ranges belong to tensors;
* an *operand* is one input of a quantizable op (``conv1/input``, ``conv1/weight``,
  ``layer1.0:add/1``); int8 or float is decided per operand.

Values only: ``capture.py`` builds them, ``simulate.py`` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, fx
from torch.utils._pytree import TreeSpec

OperandKind = Literal["activation", "weight"]

#: Op types that have int8 arithmetic, in the order a table shows them.
QUANTIZABLE_TYPES = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "matmul",
    "add",
)


@dataclass(frozen=True)
class Operand:
    """One input of a quantizable op.

    Attributes:
        name: ``op/input``, ``op/weight``, or ``op/0`` and ``op/1`` for matmul and add.
        op: name of the op it feeds.
        kind: an activation (range from calibration) or a weight (range from its values).
        tensor: the tensor whose range it uses. For an activation the *root*: pass-through ops
            (max-pool, reshape, slice, ...) hand on the range of the tensor they read. For a
            weight the parameter's name.
        position: positional argument of the op that it is.
        axis: for a weight, the output-channel axis; None for activations.
        after_matmul: an activation that comes straight from a conv, linear or matmul with no
            other reader, so that an engine can add it before rounding (see profiles).
    """

    name: str
    op: str
    kind: OperandKind
    tensor: str
    position: int
    axis: int | None = None
    after_matmul: bool = False


@dataclass(frozen=True)
class Op:
    """One op of the graph.

    Attributes:
        name: the name a person reads (see the module docstring).
        type: ``conv2d``, ``linear``, ``matmul``, ``add``, ``relu``, ``layer_norm`` ...
        target: the aten overload it calls, ``aten.conv2d.default``.
        node: name of the fx node that computes it.
        operands: its quantizable inputs; empty if the op has no int8 arithmetic.
        reads: names of the tensors it reads, in argument order.
        passthrough: it only moves or selects values, so int8 codes pass it with their scale.
        reason: why it stays float, None if it is quantizable or pass-through.
        module: path of the module that called it, "" for the model itself.
        shape: of its output without the batch axis; a size that depends on the batch is -1.
        macs: multiply-accumulates per sample.
        parameters: number of weight and bias elements it reads.
        source: ``file.py:123`` of the line that called it, "" if unknown.
    """

    name: str
    type: str
    target: str
    node: str
    operands: tuple[Operand, ...]
    reads: tuple[str, ...]
    passthrough: bool
    reason: str | None
    module: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    source: str

    @property
    def quantizable(self) -> bool:
        """Whether the op has int8 arithmetic."""
        return bool(self.operands)


@dataclass(frozen=True)
class TensorInfo:
    """One value of the graph.

    Attributes:
        name: name of the op that makes it, or of the model input.
        node: name of the fx node whose value it is.
        shape: without the batch axis if there is one, unless a sample has several entries on it:
            then these are there in its place; a size that varies is -1.
        dtype: ``float32``, ``int64`` ...
        batch_dim: the axis that grows with the number of samples, None if there is none.
        batch_multiple: entries of that axis per sample (1, or e.g. heads x windows).
        channel_dim: the axis along which channels are counted, None if there is none.
        root: the tensor whose range it shares; its own name unless a pass-through op made it.
        consumers: names of the operands that read it as int8.
        nonnegative: no value can be below zero (it comes from ReLU, softmax, ...).
    """

    name: str
    node: str
    shape: tuple[int, ...]
    dtype: str
    batch_dim: int | None
    batch_multiple: int
    channel_dim: int | None
    root: str
    consumers: tuple[str, ...]
    nonnegative: bool

    @property
    def dims(self) -> int:
        """Axes of the value, the batch axis among them."""
        return len(self.shape) + (self.batch_dim is not None and self.batch_multiple == 1)


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model: its own copy of the weights, batch norm folded, everything named.

    Attributes:
        name: the model's class or file name.
        module: the aten graph; parameters are ``get_attr`` nodes. Never changed after capture.
        ops: by name, in execution order; every op, quantizable or not.
        tensors: by name, in execution order; every op's output and every model input.
        inputs: names of the tensors that are the model's inputs, in the order of the
            placeholders, with the argument position or keyword they came from.
        outputs: names of the tensors that the model returns, in the order of its tree.
        output_spec: how those tensors are nested in what the model returns.
        weights: parameter name of each weight operand -> attribute of ``module``.
        folded: batch norms folded, as op name -> name of the op they went into.
        limits: weight operand -> bits -> amax that its grid takes instead of the largest
            magnitude (see ``weights.py``).
        rescaled: op -> what its output channels were multiplied with on purpose, ``[C]``
            (``weights.py``).
    """

    name: str
    module: fx.GraphModule
    ops: Mapping[str, Op]
    tensors: Mapping[str, TensorInfo]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    output_spec: TreeSpec
    weights: Mapping[str, str]
    folded: Mapping[str, str]
    limits: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    rescaled: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def operands(self) -> dict[str, Operand]:
        """All quantizable operands by name, in execution order."""
        return {o.name: o for op in self.ops.values() for o in op.operands}

    @property
    def quantizable(self) -> tuple[Op, ...]:
        """The ops that have int8 arithmetic, in execution order."""
        return tuple(op for op in self.ops.values() if op.quantizable)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the tensors that need a range: roots read by an activation operand."""
        wanted = {o.tensor for o in self.operands.values() if o.kind == "activation"}
        return tuple(name for name in self.tensors if name in wanted)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample, all ops."""
        return sum(op.macs for op in self.ops.values())


@dataclass(frozen=True)
class GraphInput:
    """Where one placeholder gets its value.

    Attributes:
        tensor: name of the tensor.
        node: name of the placeholder node.
        key: position in the positional arguments, or the keyword.
    """

    tensor: str
    node: str
    key: int | str
