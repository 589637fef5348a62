"""What the ops must compute, said as plainly as NumPy allows: the oracle of tests and self-test.

int64 sums over explicit kernel positions, then float64 with the two roundings that the contract has
(``x_scale * weight_scale`` and ``1 / out_scale`` are float32). No convolution and no matrix product
of PyTorch takes part, so this agrees with a backend only if both are right. Slow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qviz.int8.epilogue import QMAX, QMIN, Epilogue

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


def codes(x: Tensor) -> Integers:
    """The codes of a tensor as int64."""
    return np.asarray(x.numpy(), dtype=np.int64)


def _inner(array: Integers, *index: Any) -> Integers:
    """The view of ``array`` at an index of its last dimensions."""
    view: Integers = array[(..., *index)]
    return view


def _positions(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in kernel))


def conv_sums(
    x: Integers,
    weight: Integers,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Integers:
    """Integer sums of a convolution.

    Args:
        x: [N, C, *in].
        weight: [K, C / groups, *kernel].
        stride: per dimension, as ``padding`` and ``dilation``.
        padding: zeros on both sides.
        dilation: distance of kernel positions.
        groups: independent parts of the channels.

    Returns:
        [N, K, *out].
    """
    kernel = weight.shape[2:]
    n, c = x.shape[:2]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    out = [
        (x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(len(kernel))
    ]
    parts = x.reshape(n, groups, c // groups, *x.shape[2:])
    filters = weight.reshape(groups, -1, c // groups, *kernel)
    sums = np.zeros((n, groups, filters.shape[1], *out), dtype=np.int64)
    for at in _positions(kernel):
        window = tuple(
            slice(p * d, p * d + (size - 1) * s + 1, s)
            for p, d, size, s in zip(at, dilation, out, stride, strict=True)
        )
        sums += np.einsum("ngc...,gkc->ngk...", _inner(parts, *window), _inner(filters, *at))
    return sums.reshape(n, weight.shape[0], *out)


def conv_transpose_sums(
    x: Integers,
    weight: Integers,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Integers:
    """Integer sums of a transposed convolution; weight [C, K / groups, *kernel]."""
    kernel = weight.shape[2:]
    n, c = x.shape[:2]
    size = x.shape[2:]
    dims = range(len(kernel))
    whole = [
        (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 + output_padding[i]
        for i in dims
    ]
    parts = x.reshape(n, groups, c // groups, *size)
    filters = weight.reshape(groups, c // groups, -1, *kernel)
    sums = np.zeros((n, groups, filters.shape[2], *whole), dtype=np.int64)
    for at in _positions(kernel):
        window = tuple(
            slice(
                at[i] * dilation[i],
                at[i] * dilation[i] + (size[i] - 1) * stride[i] + 1,
                stride[i],
            )
            for i in dims
        )
        part = _inner(sums, *window)
        part += np.einsum("ngc...,gck->ngk...", parts, _inner(filters, *at))
    inner = tuple(slice(padding[i], whole[i] - padding[i]) for i in dims)
    return _inner(sums.reshape(n, weight.shape[1] * groups, *whole), *inner)


def scaled(
    sums: Integers, x_scale: float, weight_scale: Tensor, bias: Tensor | None, axis: int
) -> Reals:
    """Sums times their scale plus bias, per channel along ``axis``."""
    shape = [1] * sums.ndim
    shape[axis] = -1
    scale = (weight_scale.numpy() * np.float32(x_scale)).astype(np.float64)
    y = sums * scale.reshape(shape)
    return y if bias is None else y + bias.numpy().astype(np.float64).reshape(shape)


def finished(y: Reals, residual: Tensor | None, then: Epilogue) -> Reals:
    """Everything after the bias; with an ``out_scale`` the codes before rounding and clamping."""
    if residual is not None:
        real = residual.numpy().astype(np.float64)
        y = y + (real if residual.is_floating_point() else real * np.float32(then.residual_scale))
    if then.activation == "relu":
        y = np.maximum(y, 0)
    elif then.activation == "hardtanh":
        y = np.clip(y, then.args[0], then.args[1])
    if then.out_scale is None:
        return y
    return y * np.float64(np.float32(1) / np.float32(then.out_scale))


def rounded(y: Reals, qmin: int = QMIN, qmax: int = QMAX) -> Integers:
    """Half to even, then clamped."""
    return np.clip(np.rint(y), qmin, qmax).astype(np.int64)
