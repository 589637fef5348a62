"""Layers with everything decided: for programs that keep their tensors in the kernels' own carrier.

The operators of ops.py take and give int8 codes, so an input that may be negative has its top bits
flipped on the way into a kernel: one extra pass over its bytes. A program that is lowered for this
CPU alone can leave its tensors flipped between layers (uint8, zero point 128; or zero point 0 after
a ReLU) and pays that pass only where floats become codes. These objects are its layers; they run
the same kernels, and fall back on the same exact ones, as the operators. One thing differs: a
kernel adds an output zero point of 128 before it rounds, so the code of a near tie may be its
neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.int8 import cpu, exact, onednn, selftest
from qviz.int8.epilogue import Epilogue, check_activation, finish_
from qviz.int8.operands import Carried, Geometry, Weight
from qviz.int8.packing import packed_weight


class _Packed:
    """What a packed convolution and a packed linear layer share.

    Args:
        weight: int8 codes; not to be written to afterwards.
        scale: of the weight, float32, one per output channel.
        bias: float32, one per output channel.
        x_scale: of the input.
        then: what follows the sum.
        x_zero_point: carrier of the input: 128, or 0 for codes that are never negative.
        out_zero_point: carrier of the output: 128, or 0 when ``then`` gives no negative codes.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        x_scale: float,
        then: Epilogue,
        *,
        x_zero_point: int = onednn.SHIFT,
        out_zero_point: int = onednn.SHIFT,
    ) -> None:
        check_activation(then.activation, then.args)
        self._kept = weight  # packed forms live as long as the weight does
        self._weight = Weight(packed_weight(weight), scale, bias)
        self._x_scale = x_scale
        self._x_zero_point = x_zero_point
        self._out_zero_point = out_zero_point
        self.then = then

    def _codes(self, x: Tensor) -> Tensor:
        return onednn.unshifted(x) if self._x_zero_point else x.view(torch.int8)

    def _carrier(self, out: Tensor) -> Tensor:
        """A result of any backend in the output's carrier; floats stay floats."""
        if out.dtype is not torch.int8:
            return out
        return onednn.shifted(out) if self._out_zero_point else out.view(torch.uint8)

    def _residual(self, residual: Tensor | None) -> Tensor | None:
        """The residual as the kernels want it: in the output's carrier, or float."""
        if residual is None or residual.is_floating_point() or self._out_zero_point:
            return residual
        return residual.view(torch.int8)

    def _plain(self, residual: Tensor | None) -> Tensor | None:
        kept = self._residual(residual)
        return onednn.unshifted(kept) if kept is not None and kept.dtype is torch.uint8 else kept


class PackedConv(_Packed):
    """A 2d or 3d convolution over carriers; ``how`` as in ``qviz::conv``, output channels last."""

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        x_scale: float,
        then: Epilogue,
        how: Geometry,
        *,
        x_zero_point: int = onednn.SHIFT,
        out_zero_point: int = onednn.SHIFT,
    ) -> None:
        super().__init__(
            weight, scale, bias, x_scale, then,
            x_zero_point=x_zero_point, out_zero_point=out_zero_point,
        )  # fmt: skip
        self.how = how
        self._kind = cpu.conv_kind(weight, how.groups)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run it.

        Args:
            x: uint8 [N, C, *in] in the input's carrier.
            residual: the output's shape: uint8 in the output's carrier, or float.

        Returns:
            uint8 in the output's carrier; float32 without an ``out_scale``.
        """
        if selftest.backend(self._kind) == "onednn":
            try:
                carried = Carried(x, self._x_scale, self._x_zero_point)
                out = onednn.conv(
                    carried, self._weight, self.how, self.then,
                    self._residual(residual), self._out_zero_point,
                )  # fmt: skip
                return out.view(torch.uint8) if out.dtype is torch.int8 else out
            except RuntimeError as error:
                cpu.refused(self._kind, error)
        y = exact.conv(self._codes(x), self._x_scale, self._weight, self.how)
        return self._carrier(finish_(y, self._plain(residual), self.then))


class PackedLinear(_Packed):
    """A linear layer over carriers."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run it.

        Args:
            x: uint8 [M, K] in the input's carrier.
            residual: [M, N]: uint8 in the output's carrier, or float.

        Returns:
            uint8 in the output's carrier; float32 without an ``out_scale``.
        """
        if selftest.backend("linear") == "onednn":
            try:
                carried = Carried(x, self._x_scale, self._x_zero_point)
                out = onednn.linear(
                    carried, self._weight, self.then, self._residual(residual),
                    self._out_zero_point,
                )  # fmt: skip
                return out.view(torch.uint8) if out.dtype is torch.int8 else out
            except RuntimeError as error:
                cpu.refused("linear", error)
        y = exact.linear(self._codes(x), self._x_scale, self._weight)
        return self._carrier(finish_(y, self._plain(residual), self.then))
