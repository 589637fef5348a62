"""The integer operators against an int64 oracle, on this CPU's backend and on the exact one."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from int8_oracle import (
    EPILOGUES,
    RESIDUAL_SCALE,
    WINDOWS,
    X_SCALE,
    after,
    assert_agrees,
    assert_untouched,
    random_codes,
    random_reals,
    residual_of,
)
from torch import Tensor, nn

from qviz.affine import QuantParams
from qviz.affine import quantize as grid
from qviz.errors import InputError
from qviz.int8 import cpu, onednn, ops, packing, reference, selftest
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


@pytest.mark.parametrize("kind", ["int8", "float"])
@pytest.mark.parametrize("out_scale", [None, 0.9])
@pytest.mark.parametrize("case", ["3x3", "1d", "3d"])
def test_a_residual_broadcasts(case: str, kind: str, out_scale: float | None) -> None:
    x, weight, scale, bias = WINDOWS[case].operands()
    small = residual_of(kind, (1, 24 if case != "3d" else 12, *(1,) * (x.dim() - 2)))
    assert small is not None
    head = (x, X_SCALE, weight, scale, bias, *WINDOWS[case].lists)
    plain = Q.conv(*head)
    tail: tuple[object, ...] = (RESIDUAL_SCALE, "relu", [], out_scale)
    expected = Q.conv(*head, small.expand_as(plain).contiguous(), *tail)
    for _ in range(2):  # the second call takes the shortcut, if there is one
        assert torch.equal(Q.conv(*head, small, *tail), expected)
    rows = (x.flatten(2).transpose(1, 2), X_SCALE, weight.flatten(2)[..., 0].contiguous())
    one = small.flatten()
    whole = one.expand(*rows[0].shape[:2], -1).contiguous()
    expected = Q.linear(*rows, scale, bias, whole, *tail)
    for _ in range(2):
        assert torch.equal(Q.linear(*rows, scale, bias, one, *tail), expected)


@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("then", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("op", ["conv", "linear"])
def test_the_second_call_gives_what_the_first_gave(op: str, then: Epilogue, residual: str) -> None:
    x, weight, scale, bias = WINDOWS["3x3"].operands()
    head: tuple[object, ...] = (x, X_SCALE, weight, scale, bias, *WINDOWS["3x3"].lists)
    shape: tuple[int, ...] = (2, 24, 9, 7)
    if op == "linear":
        rows = x.permute(0, 2, 3, 1).contiguous()
        head, shape = (rows, X_SCALE, weight[..., 0, 0].contiguous(), scale, bias), (2, 9, 7, 24)
    function, arguments = getattr(Q, op), after(then)
    first = None
    for seed in (5, 6, 5):
        other = None if residual == "none" else random_codes(*shape, seed=seed)
        other = other * 0.3 if residual == "float" and other is not None else other
        before = None if other is None else other.clone()
        out = function(*head, other, RESIDUAL_SCALE, **arguments)
        assert_untouched(other, before)
        first = out if first is None else first
    assert first is not None
    assert torch.equal(out, first)


@pytest.mark.parametrize("op", ["conv", "linear"])
def test_a_promise_of_no_negative_code_changes_nothing(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "WORTH_A_PROMISE", 0)
    case = WINDOWS["3x3"]
    x, weight, scale, bias = case.operands()
    x = x.clamp(min=0)
    head: tuple[object, ...]
    if op == "conv":
        head = (x, X_SCALE, weight, scale, bias, *case.lists)
    else:
        head = (x.transpose(1, 3), X_SCALE, weight[..., 0, 0].contiguous(), scale, bias)
    function = getattr(Q, op)
    assert torch.equal(function(*head, out_scale=0.9), function(*head, out_scale=0.9, x_qmin=0))


@pytest.mark.parametrize(
    "shape", [(1, 64), (5, 37), (2, 7, 40), (2, 3, 5, 24), (33,), (0, 16), (3, 1100)], ids=str
)
@pytest.mark.parametrize("residual", ["none", "int8", "float"])
@pytest.mark.parametrize("then", EPILOGUES.values(), ids=EPILOGUES)
def test_linear_equals_the_oracle(shape: tuple[int, ...], then: Epilogue, residual: str) -> None:
    width = 21
    x, weight = random_codes(*shape), random_codes(width, shape[-1], low=-127)
    scale, bias = random_reals(width).abs() * 0.01 + 1e-3, random_reals(width, seed=1)
    then = then._replace(residual_scale=RESIDUAL_SCALE)
    sums = reference.codes(x) @ reference.codes(weight).T
    y = reference.scaled(sums, X_SCALE, scale, bias, sums.ndim - 1)
    other = residual_of(residual, y.shape)
    before = None if other is None else other.clone()
    out = Q.linear(x, X_SCALE, weight, scale, bias, other, RESIDUAL_SCALE, **after(then))
    assert_agrees(out, reference.finished(y, other, then), then)
    assert_untouched(other, before)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((5, 9), (9, 4)),
        ((2, 3, 17, 64), (2, 3, 64, 17)),
        ((2, 1, 80, 64), (1, 3, 64, 80)),
        ((4, 80, 64), (64, 70)),
        ((70, 64), (4, 64, 80)),
        ((0, 80, 64), (0, 64, 80)),
        ((1, 4, 1100), (1, 1100, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("then", ["float", "int8"])
def test_matmul_equals_the_oracle_and_broadcasts(
    left: tuple[int, ...], right: tuple[int, ...], then: str
) -> None:
    a, b = random_codes(*left), random_codes(*right, seed=3)
    epilogue = Epilogue(out_scale=2.0) if then == "int8" else Epilogue()
    y = reference.codes(a) @ reference.codes(b) * np.float64(X_SCALE * 0.02)
    out = Q.matmul(a, X_SCALE, b, 0.02, epilogue.out_scale)
    assert_agrees(out, reference.finished(y, None, epilogue), epilogue)


def test_matmul_takes_heads_as_attention_leaves_them() -> None:
    q, k = (random_codes(2, 80, 3, 64, seed=s).transpose(1, 2) for s in (0, 1))
    out = Q.matmul(q, X_SCALE, k.transpose(-1, -2), 0.02)
    plain = Q.matmul(q.contiguous(), X_SCALE, k.transpose(-1, -2).contiguous(), 0.02)
    assert torch.equal(out, plain)


@pytest.mark.parametrize("shape", [(2, 16, 5, 8), (3, 5, 7), (4, 64), ()], ids=str)
@pytest.mark.parametrize("sides", ["int8 int8", "int8 float", "float int8"])
@pytest.mark.parametrize("then", EPILOGUES.values(), ids=EPILOGUES)
def test_add_equals_the_oracle(shape: tuple[int, ...], sides: str, then: Epilogue) -> None:
    a, b = (
        random_codes(*shape, seed=i) if kind == "int8" else random_reals(*shape, seed=i)
        for i, kind in enumerate(sides.split())
    )
    y = np.zeros(shape)
    for part, scale in ((a, 0.3017), (b, 0.0713)):
        real = part.numpy().astype(np.float64)
        y = y + (real if part.is_floating_point() else real * np.float32(scale))
    then = then._replace(out_scale=0.41) if then.out_scale == 0.9 else then
    out = Q.add(a, 0.3017, b, 0.0713, **after(then))
    assert_agrees(out, reference.finished(y, None, then), then)


def test_add_of_two_layouts_is_the_add_of_either() -> None:
    a, b = random_codes(2, 16, 6, 6), random_codes(2, 16, 6, 6, seed=1)
    last = a.contiguous(memory_format=torch.channels_last)
    out = Q.add(last, 0.3, b, 0.07, "relu", [], 0.4)
    assert torch.equal(out, Q.add(a, 0.3, b, 0.07, "relu", [], 0.4))
    assert out.stride() == last.stride()


def test_add_broadcasts() -> None:
    a, b = random_codes(2, 5, 16), random_codes(5, 16, seed=1)
    out = Q.add(a, 0.3, b, 0.07, out_scale=0.4)
    assert torch.equal(out, Q.add(a, 0.3, b.expand(2, 5, 16).contiguous(), 0.07, out_scale=0.4))


@pytest.mark.parametrize("size", [(3, 5, 7), (2, 8, 6, 5), (1, 16, 300, 300)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_quantize_is_the_grid_of_affine(size: tuple[int, ...], layout: torch.memory_format) -> None:
    x = random_reals(*size) * 5
    x = x if x.dim() != 4 else x.contiguous(memory_format=layout)
    zero = torch.tensor(0, dtype=torch.int32)
    scale = torch.tensor(0.043)
    out = Q.quantize(x, float(scale))
    assert torch.equal(out, grid(x, QuantParams(scale, zero, -128, 127, None)))
    assert out.stride() == x.stride()


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, float("inf"), float("-inf")])
    assert Q.quantize(x, 1.0).tolist() == [0, 2, 2, 0, -2, 127, -128, 127, -128]
    assert Q.quantize(x, 1.0, -8, 7).tolist() == [0, 2, 2, 0, -2, 7, -8, 7, -8]


def test_codes_survive_a_round_trip() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8)
    for scale in (1e-6, 0.043, 3.0):
        assert torch.equal(Q.quantize(Q.dequantize(codes, scale), scale), codes)


@pytest.mark.parametrize("length", [3, 64, 576, 1032, 2304, 4608])
@pytest.mark.parametrize(("x_code", "weight_code"), [(127, 127), (-128, 127), (-128, -127)])
def test_the_longest_sums_of_the_largest_codes_do_not_saturate(
    length: int, x_code: int, weight_code: int
) -> None:
    total = x_code * weight_code * length
    x = torch.full((4, length), x_code, dtype=torch.int8)
    weight = torch.full((16, length), weight_code, dtype=torch.int8)
    one = torch.ones(16)
    expected = torch.full((4, 16), float(total))
    assert torch.equal(Q.linear(x, 1.0, weight, one, None), expected)
    assert torch.equal(Q.matmul(x, 1.0, weight.T, 1.0), expected)
    image, kernel = x[..., None, None], weight[..., None, None]
    out = Q.conv(image, 1.0, kernel, one, None, [1, 1], [0, 0], [1, 1], 1)
    assert torch.equal(out.flatten(1), expected)


def test_a_weight_changed_in_place_is_packed_again() -> None:
    x, weight = random_codes(4, 32), random_codes(8, 32, low=-127)
    one = torch.ones(8)
    Q.linear(x, 1.0, weight, one, None)
    weight.neg_()
    expected = torch.from_numpy(reference.codes(x) @ reference.codes(weight).T)
    assert torch.equal(Q.linear(x, 1.0, weight, one, None).long(), expected)
    weight.data = weight.data.neg()
    assert torch.equal(Q.linear(x, 1.0, weight, one, None).long(), -expected)


def test_packed_forms_die_with_their_weight() -> None:
    weight = random_codes(8, 32, low=-127)
    Q.linear(random_codes(4, 32), 1.0, weight, torch.ones(8), None)
    entry = packing.packed_weight(weight)
    forms = [weakref.ref(form) for form in (*entry._forms.values(), entry.carried(torch.float32))]
    del entry
    assert all(form() is not None for form in forms)
    del weight
    assert all(form() is None for form in forms)


def test_ops_run_under_inference_mode_and_autocast() -> None:
    x, weight, scale, bias = WINDOWS["3x3"].operands()
    arguments = (x, X_SCALE, weight, scale, bias, *WINDOWS["3x3"].lists)
    plain = Q.conv(*arguments)
    with torch.inference_mode():
        assert torch.equal(Q.conv(*arguments), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Q.conv(*arguments), plain)
        rows = Q.linear(x.transpose(1, 3), X_SCALE, weight[..., 0, 0].contiguous(), scale, bias)
    assert rows.dtype is torch.float32


def test_nothing_was_declined_by_a_kernel() -> None:
    assert cpu.refusals() == {}


def test_float_input_message() -> None:
    with pytest.raises(InputError) as error:
        Q.linear(torch.ones(2, 4), 1.0, random_codes(3, 4), torch.ones(3), None)
    assert str(error.value) == (
        "qviz::linear: got torch.float32, not int8 codes. Put qviz::quantize before it."
    )


def test_unknown_activation_message() -> None:
    with pytest.raises(InputError) as error:
        Q.linear(random_codes(2, 4), 1.0, random_codes(3, 4), torch.ones(3), None, None, 1.0, "elu")
    assert str(error.value) == ("activation 'elu': not one of none, relu, hardtanh. Keep it float.")


class Net(nn.Module):
    """Every op once, as a lowered program has them."""

    weight: Tensor
    up: Tensor
    scale: Tensor
    bias: Tensor
    head: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", random_codes(16, 16, 3, 3, low=-127))
        self.register_buffer("up", random_codes(16, 16, 2, 2, low=-127))
        self.register_buffer("scale", random_reals(16).abs() * 0.01 + 1e-3)
        self.register_buffer("bias", random_reals(16))
        self.register_buffer("head", random_codes(16, 16, low=-127))

    def forward(self, x: Tensor) -> Tensor:
        q = Q.quantize(x, 0.03)
        window = ([1, 1], [1, 1], [1, 1], 1)
        y = Q.conv(q, 0.03, self.weight, self.scale, self.bias, *window, q, 0.03, "relu", [], 0.5)
        y = Q.add(y, 0.5, q, 0.03, "relu", [], 0.5)
        y = Q.conv_transpose(
            y, 0.5, self.up, self.scale, self.bias, [2, 2], [0, 0], [0, 0], [1, 1], 1, out_scale=2.0
        )
        rows = y.flatten(2).transpose(1, 2)
        rows = Q.linear(rows, 2.0, self.head, self.scale, self.bias, out_scale=9.0)
        scores: Tensor = Q.matmul(rows, 9.0, rows.transpose(1, 2), 9.0)
        total: Tensor = Q.dequantize(rows, 9.0).sum()
        return scores + total


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_program_of_ops_goes_through_pt2_with_any_batch(
    tmp_path: Path, layout: torch.memory_format
) -> None:
    net = Net()
    x = random_reals(3, 16, 6, 6).contiguous(memory_format=layout)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 5):
        x = random_reals(batch, 16, 6, 6).contiguous(memory_format=layout)
        assert torch.equal(loaded(x), net(x))


def test_op_names() -> None:
    names = [schema.partition("(")[0] for schema in ops.SCHEMAS]
    assert names == [
        "quantize", "dequantize", "linear", "conv", "conv_transpose", "matmul", "add",
    ]  # fmt: skip
