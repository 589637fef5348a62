"""A stored weight seen as rows (output channels) and columns (input channels), and scaled by them.

divided rows       W[o, i] / s[o]     an output channel gets smaller
multiplied columns W[o, i] * s[i]     the op undoes that an input channel got smaller
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qviz.rewrite import CONVS, TRANSPOSED_CONVS


@dataclass(frozen=True)
class Layout:
    """How an op stores its weight.

    Attributes:
        groups: of a convolution; a depthwise one has as many as input channels.
        inputs_first: input channels are the first axis (transposed conv, ``x @ w``).
    """

    groups: int = 1
    inputs_first: bool = False

    def blocks(self, weight: Tensor) -> Tensor:
        """The weight as ``[groups, outputs per group, inputs per group, kernel]``."""
        if self.inputs_first:  # grouped transposed convolutions are no quantizable ops
            return weight.reshape(*weight.shape[:2], -1).transpose(0, 1)[None]
        outputs, inputs = weight.shape[:2]
        return weight.reshape(self.groups, outputs // self.groups, inputs, -1)

    def rows(self, weight: Tensor) -> Tensor:
        """Largest magnitude of each output channel, ``[O]``."""
        return self.blocks(weight).abs().amax((2, 3)).flatten()

    def columns(self, weight: Tensor) -> Tensor:
        """Largest magnitude with which each input channel is read, ``[I]``."""
        return self.blocks(weight).abs().amax((1, 3)).flatten()

    def divided(self, weight: Tensor, s: Tensor) -> Tensor:
        """Rows divided by ``s`` ``[O]``."""
        return self._back(self.blocks(weight) / s.reshape(self.groups, -1, 1, 1), weight)

    def multiplied(self, weight: Tensor, s: Tensor) -> Tensor:
        """Columns multiplied by ``s`` ``[I]``."""
        return self._back(self.blocks(weight) * s.reshape(self.groups, 1, -1, 1), weight)

    def _back(self, blocks: Tensor, weight: Tensor) -> Tensor:
        plain = blocks[0].transpose(0, 1) if self.inputs_first else blocks
        return plain.reshape(weight.shape)

    def bounds(
        self, weight: Tensor, bias: Tensor | None, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Between which limits each output lies if all inputs lie in [low, high]: ``[O]`` twice.

        Interval arithmetic in float64; [low, high] must hold the zero that padding adds.
        """
        blocks = self.blocks(weight).double()
        up, down = blocks.clamp(min=0), blocks.clamp(max=0)
        add = 0.0 if bias is None else bias.double()
        least = (up * low + down * high).sum((2, 3)).flatten() + add
        most = (up * high + down * low).sum((2, 3)).flatten() + add
        return least, most


def layout_of(node: fx.Node, axis: int) -> Layout:
    """Layout of the weight of a conv, linear or product with a stored matrix.

    Args:
        node: the op's.
        axis: output-channel axis of its weight operand.
    """
    target: Any = node.target
    if target in CONVS:
        groups: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
        return Layout(groups=int(groups))
    return Layout(inputs_first=target in TRANSPOSED_CONVS or axis == 1)


def channel_axis(node: fx.Node, weight: Tensor) -> int:
    """Channel axis of what the op reads and makes, counted from the end."""
    target: Any = node.target
    convolves = target in CONVS or target in TRANSPOSED_CONVS
    return -(weight.dim() - 1) if convolves else -1


def absolute_max(x: Tensor, axis: int) -> Tensor:
    """Largest magnitude along ``axis`` over all other axes."""
    moved = x.movedim(axis, 0)
    return moved.reshape(moved.shape[0], -1).abs().amax(1) if x.numel() else torch.zeros(len(moved))
