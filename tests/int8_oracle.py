"""Ways to compare an op with the integer oracle, shared by the tests of the int8 ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qviz.int8 import reference
from qviz.int8.epilogue import Epilogue

X_SCALE = 0.043
RESIDUAL_SCALE = 0.31
#: Beyond this distance from a tie no float32 epilogue may round to the other side.
NEAR_TIE = 2e-4


def random_codes(*shape: int, low: int = -128, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(low, 128, shape, dtype=torch.int8, generator=generator)


def random_reals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def assert_agrees(out: Tensor, expected: reference.Reals, then: Epilogue) -> None:
    """``expected`` comes from ``reference.finished``: floats, or codes before rounding."""
    assert out.shape == expected.shape
    if then.out_scale is None:
        assert out.dtype is torch.float32
        tolerance = 1e-6 * max(float(np.abs(expected).max(initial=0)), 1e-30)
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=tolerance)
        return
    assert out.dtype is torch.int8
    codes = reference.rounded(expected, then.qmin, then.qmax)
    differ = reference.codes(out) != codes
    assert np.abs(reference.codes(out) - codes).max(initial=0) <= 1
    fraction = np.abs(expected - np.floor(expected) - 0.5)
    assert (fraction[differ] < NEAR_TIE).all(), "a code differs away from a tie"
    assert differ.mean() <= 1e-3 if differ.size else True


def expected_conv(
    x: Tensor,
    x_scale: float,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    window: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    residual: Tensor | None,
    then: Epilogue,
) -> reference.Reals:
    sums = reference.conv_sums(reference.codes(x), reference.codes(weight), *window)
    y = reference.scaled(sums, x_scale, scale, bias, 1)
    return reference.finished(y, residual, then)


@dataclass(frozen=True)
class Window:
    """One convolution: sizes and window."""

    channels: int
    width: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    batch: int = 2

    @property
    def lists(self) -> tuple[list[int], list[int], list[int], int]:
        dims = len(self.size)
        return [self.stride] * dims, [self.padding] * dims, [self.dilation] * dims, self.groups

    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = random_codes(self.batch, self.channels, *self.size)
        weight = random_codes(self.width, self.channels // self.groups, *self.kernel, low=-127)
        scale = random_reals(self.width).abs() * 0.01 + 1e-3
        return x, weight, scale, random_reals(self.width, seed=1)


WINDOWS = {
    "1x1": Window(16, 24, (9, 7), (1, 1)),
    "3x3": Window(16, 24, (9, 7), (3, 3), padding=1),
    "3x3 stride 2": Window(16, 24, (9, 8), (3, 3), stride=2, padding=1),
    "3x3 dilation 2": Window(16, 24, (9, 9), (3, 3), padding=2, dilation=2),
    "groups": Window(24, 16, (6, 6), (3, 3), padding=1, groups=4),
    "odd channels": Window(13, 7, (5, 6), (3, 3), padding=1),
    "stem": Window(3, 16, (17, 17), (7, 7), stride=2, padding=3),
    "wide kernel": Window(5, 6, (6, 9), (2, 5), padding=1),
    "depthwise 3x3": Window(20, 20, (8, 8), (3, 3), padding=1, groups=20),
    "depthwise 5x5 stride 2": Window(24, 24, (9, 9), (5, 5), stride=2, padding=2, groups=24),
    "depthwise multiplier": Window(6, 12, (8, 8), (3, 3), padding=1, groups=6),
    "one channel": Window(1, 8, (8, 8), (3, 3), padding=1),
    "one pixel": Window(32, 8, (1, 1), (1, 1)),
    "long sums": Window(512, 8, (4, 4), (3, 3), padding=1, batch=1),
    "empty batch": Window(8, 8, (4, 4), (3, 3), padding=1, batch=0),
    "1d": Window(16, 24, (20,), (3,), padding=1),
    "1d stride, dilation, groups": Window(
        16, 24, (21,), (5,), stride=2, padding=4, dilation=2, groups=2
    ),
    "3d": Window(8, 12, (5, 6, 4), (3, 3, 3), padding=1),
    "3d stride 2": Window(8, 12, (5, 6, 5), (2, 3, 3), stride=2, padding=1),
}


EPILOGUES = {
    "float": Epilogue(),
    "float relu": Epilogue("relu"),
    "float relu6": Epilogue("hardtanh", (0.0, 6.0)),
    "int8": Epilogue(out_scale=0.9),
    "int8 relu": Epilogue("relu", (), 0.9),
    "int8 hardtanh": Epilogue("hardtanh", (-3.0, 6.0), 0.11),
    "int4": Epilogue("relu", (), 6.0, -8, 7),
}


def after(then: Epilogue) -> dict[str, object]:
    return {
        "activation": then.activation,
        "activation_args": list(then.args),
        "out_scale": then.out_scale,
        "out_qmin": then.qmin,
        "out_qmax": then.qmax,
    }


def residual_of(kind: str, shape: tuple[int, ...]) -> Tensor | None:
    if kind == "none":
        return None
    return random_codes(*shape, seed=5) if kind == "int8" else random_reals(*shape, seed=5) * 20


def assert_untouched(residual: Tensor | None, before: Tensor | None) -> None:
    if residual is not None and before is not None:
        assert torch.equal(residual, before), "the residual was written to"
