"""Calls of every operator over a grid of shapes: the same for the interpreter and for a GPU.

A case is a name and the positional arguments of an operator. Epilogues and residuals take turns, so
that all of them are met without every combination.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from int8_oracle import (
    EPILOGUES,
    RESIDUAL_SCALE,
    WINDOWS,
    X_SCALE,
    random_codes,
    random_reals,
    residual_of,
)
from torch import Tensor

from qviz.int8.epilogue import Epilogue

Case = tuple[str, str, tuple[Any, ...]]
RESIDUALS = ("none", "int8", "float")
LAST = torch.channels_last
LINEAR = ((1, 64), (5, 37), (2, 7, 40), (2, 3, 5, 24), (33,), (0, 16), (3, 1100), (70, 128))
MATMUL = (
    ((5, 9), (9, 4)),
    ((2, 3, 17, 64), (2, 3, 64, 17)),
    ((2, 1, 20, 64), (1, 3, 64, 24)),
    ((4, 20, 64), (64, 30)),
    ((30, 64), (4, 64, 20)),
    ((0, 80, 64), (0, 64, 80)),
    ((1, 4, 1100), (1, 1100, 3)),
    ((2, 2, 2, 3, 8), (2, 2, 2, 8, 5)),
    ((16,), (16, 5)),
)


def tail(then: Epilogue, residual: Tensor | None = None) -> tuple[Any, ...]:
    """The arguments after the bias or the window."""
    head = (residual, RESIDUAL_SCALE, then.activation, list(then.args))
    return (*head, then.out_scale, then.qmin, then.qmax)


def weighted(width: int) -> tuple[Tensor, Tensor]:
    """Scale and bias of a weight."""
    return random_reals(width).abs() * 0.01 + 1e-3, random_reals(width, seed=1)


def convolutions() -> Iterator[Case]:
    turns = zip(cycle(EPILOGUES.items()), cycle(RESIDUALS), strict=False)
    for name, window in WINDOWS.items():
        # Another layout is a copy before the kernel and one after it: one shape shows it.
        layouts = ("last",) if len(window.size) == 2 else ("plain",)
        for layout in ("plain", "last") if name == "1x1" else layouts:
            (end, then), kind = next(turns)
            x, weight, scale, bias = window.operands()
            x = x.contiguous(memory_format=LAST) if layout == "last" else x
            head = (x, X_SCALE, weight, scale, bias, *window.lists)
            shape = tuple(torch.ops.qviz.conv(*head).shape)
            yield (
                f"{name}, {layout}, {end}, residual {kind}",
                "conv",
                (*head, *tail(then, residual_of(kind, shape))),
            )


def transposed() -> Iterator[Case]:
    for dims, stride, padding, extra, dilation, groups in (
        (1, 2, 1, 1, 1, 1), (2, 1, 3, 0, 1, 2), (2, 2, 0, 0, 2, 1), (2, 3, 1, 2, 1, 4),
        (3, 2, 0, 1, 1, 1),
    ):  # fmt: skip
        x, weight = random_codes(1, 4, *(4,) * dims), random_codes(4, 8 // groups, *(3,) * dims)
        window = ([stride] * dims, [padding] * dims, [extra] * dims, [dilation] * dims, groups)
        for layout in ("plain", "last") if groups == 2 else ("plain",):
            x = x.contiguous(memory_format=LAST) if layout == "last" else x
            head = (x, X_SCALE, weight, *weighted(8), *window)
            shape = tuple(torch.ops.qviz.conv_transpose(*head).shape)
            then = EPILOGUES["int8 relu"]
            yield (
                f"{dims}d {window} {layout}",
                "conv_transpose",
                (*head, *tail(then, residual_of("int8", shape))),
            )


def linears() -> Iterator[Case]:
    turns = zip(cycle(EPILOGUES.items()), cycle(RESIDUALS), strict=False)
    for shape in (*LINEAR, *LINEAR[:3]):
        (end, then), kind = next(turns)
        weight = random_codes(21, shape[-1], low=-127)
        other = residual_of(kind, (*shape[:-1], 21))
        args = (random_codes(*shape), X_SCALE, weight, *weighted(21), *tail(then, other))
        yield f"{shape} {end}, residual {kind}", "linear", args
    one = random_codes(21)
    args = (random_codes(3, 5, 16), X_SCALE, random_codes(21, 16), *weighted(21))
    yield "broadcast residual", "linear", (*args, *tail(EPILOGUES["int8"], one))
    half = random_reals(4, 21).half()
    args = (random_codes(4, 16), X_SCALE, random_codes(21, 16), *weighted(21))
    ending = (*tail(EPILOGUES["float relu"], half), -128, torch.float16)
    yield "half residual, half out", "linear", (*args, *ending)


def matmuls() -> Iterator[Case]:
    for left, right in MATMUL:
        for out_scale in (None, 2.0):
            a, b = random_codes(*left), random_codes(*right, seed=3)
            yield f"{left} by {right} {out_scale}", "matmul", (a, X_SCALE, b, 0.02, out_scale)
    q, k = (random_codes(2, 20, 3, 64, seed=s).transpose(1, 2) for s in (0, 1))
    args = (q, X_SCALE, k.transpose(-1, -2), 0.02, None, -128, 127, torch.float16)
    yield "heads where the projection left them", "matmul", args


def sums() -> Iterator[Case]:
    for shape in ((2, 16, 5, 8), (3, 5, 7), ()):
        for (end, then), kinds in zip(
            EPILOGUES.items(), cycle((("int8", "int8"), ("int8", "float"), ("float", "int8")))
        ):
            a, b = (residual_of(kind, shape) for kind in kinds)
            args = (a, 0.3017, b, 0.0713, *tail(then)[2:])
            yield f"{shape} {kinds} {end}", "add", args
    image, other = random_codes(2, 16, 6, 6), random_codes(2, 16, 6, 6, seed=1)
    args = (image.contiguous(memory_format=LAST), 0.3, other, 0.07)
    yield "two layouts", "add", (*args, "relu", [], 0.4)
    yield "broadcast", "add", (random_codes(2, 5, 16), 0.3, random_codes(5, 16), 0.07)


def conversions() -> Iterator[Case]:
    odd = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, float("inf"), float("-inf")])
    inputs = {
        "image": (random_reals(2, 8, 6, 5) * 5).contiguous(memory_format=LAST),
        "with gaps": (random_reals(2, 8, 6, 5) * 5)[:, ::2],
        "turned": random_reals(6, 5).t(),
        "expanded": random_reals(1, 5).expand(4, 5),
        "half": random_reals(700).half(),
        "bfloat16": random_reals(7).bfloat16(),
        "double": random_reals(7).double(),
        "ties and infinities": odd,
        "nothing": random_reals(0, 5),
    }
    for name, x in inputs.items():
        yield name, "quantize", (x, 0.043)
        yield f"{name}, 4 bits, scale 1", "quantize", (x, 1.0, -8, 7)
    yield "codes", "dequantize", (random_codes(3, 700), 0.043)
    yield "codes to half", "dequantize", (random_codes(3, 7).t(), 0.043, torch.float16)


def pools() -> Iterator[Case]:
    for dims, kernel, stride, padding, dilation, ceil in (
        (1, 3, 2, 1, 1, False), (1, 2, 2, 0, 1, True), (2, 3, 2, 1, 1, False),
        (2, 3, 2, 0, 1, True), (2, 2, 1, 1, 2, False), (2, 3, 3, 1, 2, True),
        (3, 2, 2, 0, 1, False),
    ):  # fmt: skip
        x = random_codes(2, 4, *(9, 8, 7)[:dims])
        window = ([kernel] * dims, [stride] * dims, [padding] * dims, [dilation] * dims, ceil)
        yield f"{dims}d {window}", "max_pool", (x, *window)
        if dims == 2:
            image = x.contiguous(memory_format=LAST)
            yield f"channels last {window}", "max_pool", (image, *window)


GROUPS = {
    "conv": convolutions,
    "conv_transpose": transposed,
    "linear": linears,
    "matmul": matmuls,
    "add": sums,
    "quantize and dequantize": conversions,
    "max_pool": pools,
}
