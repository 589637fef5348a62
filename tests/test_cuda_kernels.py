"""The CUDA operators without a GPU: Triton's kernels interpreted, PyTorch's own on the CPU.

Every output is compared with the CPU's exact backend bit for bit, strides included.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from int8_oracle import random_codes, random_reals
from torch import Tensor

pytest.importorskip("triton")

from cuda_cases import GROUPS
from cuda_kit import OnKernels, interpreted
from int8_models import CASES, make

from qviz.int8 import packing, selftest
from qviz.int8.cuda.registry import VARIABLE

Q = torch.ops.qviz


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is compared with: the arithmetic of the contract, which oneDNN's ties may miss."""
    monkeypatch.setenv(selftest.VARIABLE, "exact")
    selftest.forget()
    yield
    selftest.forget()


@pytest.fixture
def operators() -> Iterator[ModuleType]:
    with interpreted() as found:
        yield found


def assert_same(found: Tensor, wanted: Tensor, name: str) -> None:
    assert found.dtype is wanted.dtype, name
    assert found.shape == wanted.shape, name
    assert found.stride() == wanted.stride(), name
    assert torch.equal(found, wanted), name


@pytest.mark.parametrize("backend", ["triton", "int_mm", "exact"])
@pytest.mark.parametrize("group", GROUPS)
def test_an_operator_is_bit_exact(
    group: str, backend: str, operators: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    for name, op, args in GROUPS[group]():
        inputs = [a.clone() for a in args if isinstance(a, Tensor)]
        assert_same(getattr(operators, op)(*args), getattr(Q, op)(*args), name)
        tensors = [a for a in args if isinstance(a, Tensor)]
        assert all(torch.equal(a, b) for a, b in zip(tensors, inputs, strict=True)), name


@pytest.mark.parametrize("backend", ["triton", "int_mm"])
def test_the_longest_sums_of_the_largest_codes_do_not_saturate(
    backend: str, operators: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    for x_code, weight_code in ((127, 127), (-128, 127), (-128, -127)):
        x = torch.full((4, 4608), x_code, dtype=torch.int8)
        weight = torch.full((16, 4608), weight_code, dtype=torch.int8)
        one = torch.ones(16)
        expected = torch.full((4, 16), float(x_code * weight_code * 4608))
        assert torch.equal(operators.linear(x, 1.0, weight, one, None), expected)
        image, kernel = x.view(4, 512, 3, 3), weight.view(16, 512, 3, 3)
        window = ([1, 1], [0, 0], [1, 1], 1)
        out = operators.conv(image, 1.0, kernel, one, None, *window)
        assert torch.equal(out.flatten(1), expected)


def test_bfloat16_is_within_a_step_of_the_cpus(operators: ModuleType) -> None:
    # The interpreter cuts float32 off where a GPU rounds it.
    codes = random_codes(3, 40)
    found, wanted = (
        op(codes, 0.043, torch.bfloat16) for op in (operators.dequantize, Q.dequantize)
    )
    assert found.dtype is torch.bfloat16
    assert torch.allclose(found.float(), wanted.float(), rtol=2**-7, atol=0)


def test_a_nan_in_a_float_residual_stays_one(operators: ModuleType) -> None:
    residual = random_reals(4, 21)
    residual[1, 2] = float("nan")
    args = (random_codes(4, 16), 0.1, random_codes(21, 16), torch.ones(21), None, residual, 1.0)
    for activation, limits in (("relu", []), ("hardtanh", [-1.0, 1.0])):
        found = operators.linear(*args, activation, limits)
        assert_same(found.nan_to_num(7.0), Q.linear(*args, activation, limits).nan_to_num(7.0), "")


@pytest.mark.parametrize("case", ["residual CNN", "transformer block", "1d", "products"])
def test_a_program_on_the_kernels_is_the_program_on_the_cpu(
    case: str, operators: ModuleType
) -> None:
    made = make(case)
    inputs = CASES[case].inputs(2).args
    with torch.no_grad():
        found = OnKernels(made.lowered.module, operators).run(*inputs)
        wanted = made.lowered.module(*inputs)
    pairs = zip(*map(torch.utils._pytree.tree_leaves, (found, wanted)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_packed_weights_die_with_their_weight(operators: ModuleType) -> None:
    weight, x = random_codes(32, 32, 1, 1), random_codes(2, 32, 3, 3)
    operators.conv(x, 1.0, weight, torch.ones(32), None, [1, 1], [0, 0], [1, 1], 1)
    aligned = random_codes(8, 16)
    operators.linear(random_codes(4, 16), 1.0, aligned, torch.ones(8), None)
    keys = [id(weight), id(aligned)]
    assert all(key in packing._ENTRIES for key in keys)
    del weight, aligned
    assert not any(key in packing._ENTRIES for key in keys)
