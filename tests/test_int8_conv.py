"""Convolutions over codes against an int64 oracle, on this CPU's backend and on the exact one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from int8_oracle import (
    EPILOGUES,
    RESIDUAL_SCALE,
    WINDOWS,
    X_SCALE,
    Window,
    after,
    assert_agrees,
    assert_untouched,
    expected_conv,
    random_codes,
    residual_of,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from qviz.int8 import ops, reference, selftest
from qviz.int8.epilogue import Epilogue

assert ops.LIBRARY  # the import registers the ops
Q = torch.ops.qviz


@pytest.fixture(params=["auto", "exact"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test of this file runs on both."""
    monkeypatch.setenv(selftest.VARIABLE, request.param)
    selftest.forget()
    yield request.param
    selftest.forget()


def run_conv(case: Window, then: Epilogue, residual: str, layout: str = "contiguous") -> Tensor:
    """Run one case and hold it against the oracle; returns the output."""
    x, weight, scale, bias = case.operands()
    then = then._replace(residual_scale=RESIDUAL_SCALE)
    plain = expected_conv(x, X_SCALE, weight, scale, bias, case.lists, None, Epilogue())
    other = residual_of(residual, plain.shape)
    expected = expected_conv(x, X_SCALE, weight, scale, bias, case.lists, other, then)
    if layout == "channels last":
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=form)
        other = other if other is None else other.contiguous(memory_format=form)
    before = None if other is None else other.clone()
    out: Tensor = Q.conv(
        x, X_SCALE, weight, scale, bias, *case.lists, other, RESIDUAL_SCALE, **after(then)
    )
    assert_agrees(out, expected, then)
    assert_untouched(other, before)
    return out


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("then", ["float", "int8", "int8 relu"])
def test_conv_equals_the_oracle(case: Window, then: str, residual: str) -> None:
    run_conv(case, EPILOGUES[then], residual)


@pytest.mark.parametrize("case", ["3x3", "depthwise 3x3", "1d", "3d"])
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("then", EPILOGUES.values(), ids=EPILOGUES)
def test_every_activation_grid_and_residual_of_conv(
    case: str, then: Epilogue, residual: str
) -> None:
    run_conv(WINDOWS[case], then, residual)


@pytest.mark.parametrize("case", ["1x1", "3x3 stride 2", "depthwise 3x3", "3d"])
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_conv_answers_in_the_layout_of_its_input(case: str, residual: str, layout: str) -> None:
    out = run_conv(WINDOWS[case], EPILOGUES["int8 relu"], residual, layout)
    last = torch.channels_last if out.dim() == 4 else torch.channels_last_3d
    wanted = torch.contiguous_format if layout == "contiguous" else last
    assert out.is_contiguous(memory_format=wanted)


def test_a_strided_input_and_residual_give_the_same_codes() -> None:
    case = WINDOWS["3x3"]
    x, weight, scale, bias = case.operands()
    wide = torch.zeros(2, 32, 9, 14, dtype=torch.int8)
    wide[:, ::2, :, ::2] = x
    residual = random_codes(2, 9, 7, 24).permute(0, 3, 1, 2)
    arguments = (weight, scale, bias, *case.lists)
    after_it: tuple[object, ...] = (RESIDUAL_SCALE, "relu", [], 0.9)
    strided = Q.conv(wide[:, ::2, :, ::2], X_SCALE, *arguments, residual, *after_it)
    plain = Q.conv(x, X_SCALE, *arguments, residual.contiguous(), *after_it)
    assert torch.equal(strided, plain)


def test_one_number_holds_for_every_dimension() -> None:
    case = WINDOWS["3x3 stride 2"]
    x, weight, scale, bias = case.operands()
    assert torch.equal(
        Q.conv(x, X_SCALE, weight, scale, bias, [2], [1], [1], 1),
        Q.conv(x, X_SCALE, weight, scale, bias, *case.lists),
    )


TRANSPOSED = {
    "2x2 stride 2": (Window(12, 8, (5, 6), (2, 2), stride=2), 0),
    "3x3 stride 2, output padding": (Window(12, 8, (5, 6), (3, 3), stride=2, padding=1), 1),
    "4x4 stride 2": (Window(12, 8, (5, 6), (4, 4), stride=2, padding=1), 0),
    "groups and dilation": (
        Window(12, 8, (5, 6), (3, 3), stride=2, padding=1, dilation=2, groups=4),
        1,
    ),
    "1d": (Window(12, 8, (9,), (4,), stride=2, padding=1), 0),
    "3d": (Window(6, 4, (3, 4, 3), (3, 3, 3), stride=2, padding=1), 1),
}


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED)
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("then", ["float relu", "int8"])
def test_transposed_conv_equals_the_oracle(
    case: tuple[Window, int], then: str, residual: str
) -> None:
    window, extra = case
    stride, padding, dilation, groups = window.lists
    output_padding = [extra] * len(stride)
    x, _, scale, bias = window.operands()
    weight = random_codes(window.channels, window.width // groups, *window.kernel, low=-127)
    arguments = (stride, padding, output_padding, dilation, groups)
    sums = reference.conv_transpose_sums(reference.codes(x), reference.codes(weight), *arguments)
    y = reference.scaled(sums, X_SCALE, scale, bias, 1)
    other = residual_of(residual, y.shape)
    epilogue = EPILOGUES[then]._replace(residual_scale=RESIDUAL_SCALE)
    out = Q.conv_transpose(
        x, X_SCALE, weight, scale, bias, *arguments, other, RESIDUAL_SCALE, **after(epilogue)
    )
    assert_agrees(out, reference.finished(y, other, epilogue), epilogue)


@pytest.mark.parametrize("case", ["3x3", "3x3 stride 2", "one channel", "1d", "3d"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_shape_rules_foretell_shape_dtype_and_strides(case: str, layout: str) -> None:
    x, weight, scale, bias = WINDOWS[case].operands()
    if layout == "channels last" and x.dim() > 3:
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=form)
    real = Q.conv(x, X_SCALE, weight, scale, bias, *WINDOWS[case].lists, out_scale=0.9)
    with FakeTensorMode() as mode:
        tensors = [mode.from_tensor(each) for each in (x, weight, scale, bias)]
        fake = Q.conv(tensors[0], X_SCALE, *tensors[1:], *WINDOWS[case].lists, out_scale=0.9)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
