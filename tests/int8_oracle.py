"""Ways to compare an op with the integer oracle, shared by the tests of the int8 ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qviz.int8 import reference
from qviz.int8.epilogue import Epilogue

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
