"""Faster kernels for the same arithmetic."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qviz import kernels
from qviz.kernels import LARGE, packed_conv2d, packed_linear, quick_kernels

pytestmark = pytest.mark.skipif(not quick_kernels(), reason="this build of torch has no oneDNN")


def channels_last(*shape: int) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return made.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "padding", "dilation"),
    [
        ((256, 1024), 1, [1], [0], [1]),
        ((256, 128), 3, [2, 2], [1, 1], [1, 1]),
        ((128, 256), 3, [1], [2], [2]),
    ],
)
def test_a_convolution_with_a_large_weight_is_conv2d(
    channels: tuple[int, int],
    size: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> None:
    x, weight = channels_last(2, channels[0], 7, 7), channels_last(*channels[::-1], size, size)
    bias = torch.randn(channels[1])
    assert weight.numel() >= LARGE
    made = packed_conv2d(x, weight, bias, stride, padding, dilation)
    wanted = F.conv2d(x, weight, bias, stride, padding, dilation)
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    assert weight in kernels._packed


@pytest.mark.parametrize("case", ["small weight", "groups", "contiguous input", "one sample"])
def test_any_other_convolution_runs_as_it_is(case: str) -> None:
    x, weight, groups = channels_last(1, 512, 5, 5), channels_last(1024, 512, 1, 1), 1
    if case == "small weight":
        weight = weight[:8].contiguous(memory_format=torch.channels_last)
    elif case == "groups":
        x, groups = channels_last(1, 1024, 5, 5), 2
    elif case == "contiguous input":
        x = x.contiguous()
    else:
        x = x[0]
    made = packed_conv2d(x, weight, None, groups=groups)
    assert torch.equal(made, F.conv2d(x, weight, None, groups=groups))
    assert weight not in kernels._packed


def test_a_weight_that_was_written_to_is_packed_again() -> None:
    x, weight = channels_last(1, 512, 3, 3), channels_last(512, 512, 1, 1)
    rows, matrix = torch.ones(2, 16), torch.ones(4, 16)
    packed_conv2d(x, weight)
    packed_linear(rows, matrix)
    weight.zero_()
    matrix.mul_(2)
    assert not packed_conv2d(x, weight).any()
    assert torch.equal(packed_linear(rows, matrix), torch.full((2, 4), 32.0))


def test_packed_weights_go_with_their_weight() -> None:
    weight = channels_last(512, 512, 1, 1)
    packed_conv2d(channels_last(1, 512, 3, 3), weight)
    packed = weakref.ref(kernels._packed[weight][1])
    assert packed() is not None
    del weight
    assert packed() is None
