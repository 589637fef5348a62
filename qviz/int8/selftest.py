"""Which backend runs which kind of op on this machine, and why: asked once, at the first use.

oneDNN's int8 kernels are exact only on CPUs with the instructions for them (VNNI, AMX). On others
the same calls *silently saturate* 16-bit partial sums, and ``torch._int_mm`` does so too. So before
a kind of op runs on them, it has to get a few small cases with the largest codes right, each of a
length that reaches another code path. A kind that does not is carried in floating point instead
(exact.py), which is right everywhere, and ``capabilities`` says so by name::

    capabilities()["conv2d"]  ->  Capability(backend="onednn", reason="exact in the self-test")

The environment variable QVIZ_INT8_BACKEND=exact skips the test and carries everything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.errors import InputError
from qviz.int8 import onednn, packing, products, reference
from qviz.int8.epilogue import Epilogue
from qviz.int8.operands import Geometry, Weight
from qviz.int8.packing import packed_weight

VARIABLE = "QVIZ_INT8_BACKEND"
#: Exact but this many times slower than float is a reference kernel, not an int8 one (measured:
#: either below 2 or above 100).
TOO_SLOW = 20.0


class Capability(NamedTuple):
    """The backend of one kind of op, and why it is that one."""

    backend: str
    reason: str


def _stress(shape: tuple[int, ...], low: int) -> Tensor:
    """Codes at both ends of int8, mostly of one sign, so that neighbouring products add up."""
    index = torch.arange(torch.Size(shape).numel())
    codes = torch.where(index % 7 == 3, low, 127)
    return torch.where(index % 11 == 5, index % 256 - 128, codes).to(torch.int8).view(shape)


def _conv_is_exact(
    channels: int, kernel: tuple[int, ...], groups: int = 1, width: int = 16
) -> bool:
    dims = len(kernel)
    x = _stress((1, channels, *(5,) * dims), -128)
    codes = _stress((width, channels // groups, *kernel), -127)
    padding = [size // 2 for size in kernel]
    how = Geometry([1] * dims, padding, [1] * dims, groups)
    sums = reference.conv_sums(reference.codes(x), reference.codes(codes), *how)
    carrier = onednn.carried(x, 1.0)
    weight = Weight(packed_weight(codes), torch.ones(width), None)
    real = onednn.conv(carrier, weight, how, Epilogue())
    scale = float(np.abs(sums).max()) / 100
    coarse = onednn.conv(carrier, weight, how, Epilogue(out_scale=scale))
    right = np.array_equal(real.numpy(), sums) and _close(coarse, sums / scale)
    if dims == 2:
        residual = _stress(tuple(sums.shape), -128)
        then = Epilogue("relu", (), scale, residual_scale=scale / 2)
        fused = onednn.conv(carrier, weight, how, then, residual)
        right &= _close(fused, np.maximum(sums / scale + reference.codes(residual) / 2, 0))
    return right


def _close(codes: Tensor, expected: reference.Reals) -> bool:
    """Whether codes are the rounded ``expected``; either neighbour where that is a near tie."""
    away = np.abs(codes.numpy() - np.clip(expected, -128, 127))
    return bool((away <= 0.5 + 1e-4).all())


def _conv1d_is_exact() -> bool:
    # The 2d kernel runs it (cpu.py); what differs is the window.
    return _conv_is_exact(64, (1, 3)) and _conv_is_exact(24, (1, 5))


def _conv2d_is_exact() -> bool:
    return (
        _conv_is_exact(64, (3, 3))
        and _conv_is_exact(256, (1, 1), width=64)
        and _conv_is_exact(3, (3, 3))
        and _conv_is_exact(32, (3, 3), groups=2)
    )


def _linear_is_exact() -> bool:
    for rows, length, width in ((1, 64, 16), (5, 37, 19), (17, 512, 64)):
        x, codes = _stress((rows, length), -128), _stress((width, length), -127)
        sums = reference.codes(x) @ reference.codes(codes).T
        weight = Weight(packed_weight(codes), torch.ones(width), None)
        carrier = onednn.carried(x, 1.0)
        scale = float(np.abs(sums).max()) / 100
        residual = _stress((rows, width), -128)
        then = Epilogue("relu", (), scale, residual_scale=scale / 2)
        added = np.maximum(sums / scale + reference.codes(residual) / 2, 0)
        real = residual.to(torch.float32).mul_(scale / 2)
        if not (
            np.array_equal(onednn.linear(carrier, weight, Epilogue()).numpy(), sums)
            and _close(onednn.linear(carrier, weight, then, residual), added)
            and _close(onednn.linear(carrier, weight, then, real), added)
        ):
            return False
    return True


def _matmul_is_exact() -> bool:
    for rows, length, width in ((33, 64, 33), (5, 37, 19), (16, 512, 16)):
        a, b = _stress((2, rows, length), -128), _stress((2, width, length), -127)
        sums = reference.codes(a) @ reference.codes(b).transpose(0, 2, 1)
        if not np.array_equal(products.matmul(a, b.transpose(1, 2), 1.0, Epilogue()).numpy(), sums):
            return False
    return True


def _add_is_exact() -> bool:
    a, b = _stress((16, 16), -128), _stress((16, 16), -127).t().contiguous()
    out = products.add(a, 0.5, b, Epilogue("none", (), 1.0, residual_scale=0.25))
    return out is not None and _close(out, reference.codes(a) / 2 + reference.codes(b) / 4)


EXACT: dict[str, Callable[[], bool]] = {
    "conv1d": _conv1d_is_exact,
    "conv2d": _conv2d_is_exact,
    "conv3d": lambda: _conv_is_exact(16, (3, 3, 3)),
    "depthwise": lambda: _conv_is_exact(32, (3, 3), groups=32, width=32),
    "linear": _linear_is_exact,
    "matmul": _matmul_is_exact,
    "add": _add_is_exact,
}
#: Kinds for which oneDNN has no int8 kernel in PyTorch.
CARRIED = {
    "conv_transpose": "oneDNN's transposed convolution is not offered for int8 by PyTorch",
}


def _fastest(function: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _slowdown() -> float:
    """How much longer a linear layer takes in int8 than in float."""
    x, codes = _stress((32, 256), -128), _stress((256, 256), -127)
    weight = Weight(packed_weight(codes), torch.ones(256), None)
    carrier = onednn.carried(x, 1.0)
    real, other = x.float(), codes.float()
    fast = _fastest(lambda: onednn.linear(carrier, weight, Epilogue()))
    return fast / max(_fastest(lambda: F.linear(real, other)), 1e-6)


def _chosen(kind: str) -> Capability:
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "exact"):
        raise InputError(f"{VARIABLE}={wanted}", "no such backend", "Use auto or exact")
    if wanted == "exact":
        return Capability("exact", f"{VARIABLE}=exact")
    if kind in CARRIED:
        return Capability("exact", CARRIED[kind])
    if not onednn.available():
        return Capability("exact", "this build of PyTorch has no oneDNN int8 kernels")
    try:
        right = EXACT[kind]()
        slow = _slowdown() if right and kind == "linear" else 0.0
    except RuntimeError as error:
        return Capability("exact", f"oneDNN: {str(error).strip().splitlines()[0]}")
    if not right:
        return Capability("exact", "oneDNN's kernel is inexact on this CPU (no VNNI or AMX)")
    if slow > TOO_SLOW:
        return Capability("exact", f"oneDNN's kernel is {slow:.0f} times slower than float here")
    return Capability("onednn", "exact in the self-test")


_CHOICES: dict[str, Capability] = {}
_BACKENDS: dict[str, str] = {}


def capability(kind: str) -> Capability:
    """The backend of one kind of op; tests it when it is asked for the first time.

    Raises:
        InputError: QVIZ_INT8_BACKEND names no backend.
    """
    found = _CHOICES.get(kind)
    if found is None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found = _CHOICES[kind] = _chosen(kind)
        _BACKENDS[kind] = found.backend
    return found


def backend(kind: str) -> str:
    """Name of the backend of one kind of op: "onednn" or "exact"."""
    return _BACKENDS.get(kind) or capability(kind).backend


def capabilities() -> dict[str, Capability]:
    """The backend of every kind of op on this CPU, with its reason."""
    return {kind: capability(kind) for kind in (*EXACT, *CARRIED)}


def forget() -> None:
    """Test again at the next use (the environment has changed, or the number of threads)."""
    _CHOICES.clear()
    _BACKENDS.clear()
    packing.drop_notes()
