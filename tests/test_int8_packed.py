"""Packed layers: the operators' results in the kernels' own carrier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from int8_oracle import random_codes, random_reals
from torch import Tensor

from qviz.int8 import ops, selftest
from qviz.int8.epilogue import Epilogue
from qviz.int8.onednn import shifted, unshifted
from qviz.int8.operands import Geometry
from qviz.int8.packed import PackedConv, PackedLinear

assert ops.LIBRARY  # the import registers the ops
Q = torch.ops.qviz
WINDOW = Geometry([1, 1], [1, 1], [1, 1], 1)
SCALE = random_reals(12).abs() * 0.01 + 1e-3
BIAS = random_reals(12, seed=1)


@pytest.fixture(params=["auto", "exact"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(selftest.VARIABLE, request.param)
    selftest.forget()
    yield
    selftest.forget()


def carrier(codes: Tensor, zero_point: int) -> Tensor:
    return shifted(codes) if zero_point else codes.view(torch.uint8)


def codes_of(out: Tensor, zero_point: int) -> Tensor:
    return unshifted(out) if zero_point else out.view(torch.int8)


def residual_of(kind: str, shape: tuple[int, ...], zero_point: int) -> Tensor | None:
    """Codes that fit the carrier, or floats."""
    codes = random_codes(*shape, low=-128 if zero_point else 0, seed=2)
    return {"none": None, "int8": codes, "float": codes * 0.1}[kind]


def test_the_carrier_is_the_code_plus_128() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8)
    assert shifted(codes).tolist() == list(range(256))
    assert torch.equal(unshifted(shifted(codes)), codes)


@pytest.mark.parametrize("x_zero_point", [0, 128])
@pytest.mark.parametrize("out_zero_point", [0, 128])
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("layer", ["conv", "conv3d", "linear"])
def test_a_packed_layer_gives_what_the_op_gives(
    layer: str, residual: str, x_zero_point: int, out_zero_point: int
) -> None:
    dims = {"conv": 2, "conv3d": 3, "linear": 0}[layer]
    then = Epilogue("none" if out_zero_point else "relu", (), 0.9, residual_scale=0.3)
    x = random_codes(4, 10, *(5,) * dims, low=-128 if x_zero_point else 0)
    weight = random_codes(12, 10, *(3,) * dims, low=-127)
    other = residual_of(residual, (4, 12, *(5,) * dims), out_zero_point)
    shipped = carrier(other, out_zero_point) if other is not None and residual == "int8" else other
    points: dict[str, Any] = {"x_zero_point": x_zero_point, "out_zero_point": out_zero_point}
    arguments = (weight, SCALE, BIAS, 0.04, then)
    tail: tuple[Any, ...] = (other, 0.3, then.activation, [], 0.9)
    if dims:
        window = Geometry([1] * dims, [1] * dims, [1] * dims, 1)
        out = PackedConv(*arguments, window, **points)(carrier(x, x_zero_point), shipped)
        expected = Q.conv(x, 0.04, weight, SCALE, BIAS, *window, *tail)
    else:
        out = PackedLinear(*arguments, **points)(carrier(x, x_zero_point), shipped)
        expected = Q.linear(x, 0.04, weight, SCALE, BIAS, *tail)
    assert out.dtype is torch.uint8
    away = (codes_of(out, out_zero_point).int() - expected.int()).abs()
    # The kernel adds the zero point before it rounds, in float32: a near tie may go either way.
    assert away.max() <= (1 if out_zero_point else 0)
    assert away.count_nonzero() <= 1e-3 * away.numel()


def test_without_an_output_scale_the_result_is_float() -> None:
    x, weight = random_codes(4, 10), random_codes(12, 10, low=-127)
    linear = PackedLinear(weight, SCALE, BIAS, 0.04, Epilogue())
    assert torch.equal(linear(shifted(x)), Q.linear(x, 0.04, weight, SCALE, BIAS))


def test_packed_layers_chain_without_leaving_the_carrier() -> None:
    x, weight = random_codes(2, 12, 5, 6), random_codes(12, 12, 3, 3, low=-127)
    relu = Epilogue("relu", (), 0.9)
    first = PackedConv(weight, SCALE, BIAS, 0.04, relu, WINDOW, out_zero_point=0)
    second = PackedConv(weight, SCALE, BIAS, 0.9, Epilogue(), WINDOW, x_zero_point=0)
    y = Q.conv(x, 0.04, weight, SCALE, BIAS, *WINDOW, None, 1.0, "relu", [], 0.9)
    expected = Q.conv(y, 0.9, weight, SCALE, BIAS, *WINDOW)
    assert torch.equal(second(first(shifted(x))), expected)
