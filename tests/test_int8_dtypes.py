"""Float types of what is not int8: ``out_dtype``, and inputs and residuals in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from int8_oracle import WINDOWS, X_SCALE, random_codes, random_reals
from torch import Tensor

from qviz.int8 import ops, twin

assert ops.LIBRARY  # the import registers the ops
Q = torch.ops.qviz
HALVES = (torch.float16, torch.bfloat16)


def calls() -> dict[str, tuple[Any, ...]]:
    x, weight, scale, bias = WINDOWS["3x3"].operands()
    rows = (random_codes(4, 32), X_SCALE, random_codes(24, 32), scale, bias)
    turned = (x, X_SCALE, random_codes(16, 24, 3, 3), scale, bias)
    return {
        "conv": (x, X_SCALE, weight, scale, bias, *WINDOWS["3x3"].lists),
        "linear": rows,
        "conv_transpose": (*turned, [2, 2], [1, 1], [0, 0], [1, 1], 1),
        "matmul": (random_codes(5, 9), X_SCALE, random_codes(9, 4), 0.02),
        "add": (random_codes(3, 5), 0.3, random_reals(3, 5), 1.0),
        "dequantize": (random_codes(3, 5), 0.3),
    }


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("op", calls())
def test_floats_are_written_in_the_type_that_is_asked_for(op: str, dtype: torch.dtype) -> None:
    args, function = calls()[op], getattr(Q, op)
    wanted: Tensor = function(*args)
    assert wanted.dtype is torch.float32
    for _ in range(2):  # the second call takes the shortcut, if there is one
        found = function(*args, out_dtype=dtype)
        assert found.dtype is dtype
        assert torch.equal(found, wanted.to(dtype))


@pytest.mark.parametrize("op", [op for op in calls() if op != "dequantize"])
def test_codes_stay_codes(op: str) -> None:
    found = getattr(Q, op)(*calls()[op], out_scale=0.5, out_dtype=torch.float16)
    assert torch.equal(found, getattr(Q, op)(*calls()[op], out_scale=0.5))


@pytest.mark.parametrize("op", calls())
def test_shape_rules_know_the_type(op: str) -> None:
    function = getattr(Q, op).default
    kwargs = {"out_dtype": torch.bfloat16}
    torch.library.opcheck(
        function, calls()[op], kwargs, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("op", ["conv", "linear"])
def test_a_residual_in_half_precision_is_the_same_one_in_float32(op: str) -> None:
    args, function = calls()[op], getattr(Q, op)
    residual = random_reals(*function(*args).shape, seed=5).half()
    for _ in range(2):
        found = function(*args, residual, out_scale=0.5)
        assert torch.equal(found, function(*args, residual.float(), out_scale=0.5))


def test_the_sum_of_two_halves_is_made_in_float32() -> None:
    a, b = random_reals(50).half() * 300, random_reals(50, seed=1).half() * 300
    assert torch.equal(Q.add(a, 1.0, b, 1.0), a.float() + b.float())


def test_halves_are_quantized_as_the_floats_they_are() -> None:
    x = random_reals(500).half() * 4
    assert torch.equal(Q.quantize(x, 0.031), Q.quantize(x.float(), 0.031))


def test_the_simulation_of_a_call_writes_that_type_too() -> None:
    args = calls()["linear"]
    given = twin.bound(Q.linear.default, args, {"out_dtype": torch.float16})
    weight = twin.dequantized_weight(args[2], args[3])
    assert twin.simulated("linear", given, weight).dtype is torch.float16
