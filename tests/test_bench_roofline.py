"""The roofline of a datasheet, by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from int8_models import Case, make
from torch import nn

from qviz.bench import Bench
from qviz.data import Batch
from qviz.errors import InputError
from qviz.int8.gpus import GPUS, Gpu, gpu
from qviz.int8.roofline import Cost, Work, cost, estimate
from qviz.int8.timing_subject import Subject

#: 1 byte per nanosecond; 1000 int8 and 500 float operations per nanosecond: memory bounds all.
SLOW_MEMORY = Gpu("toy", 1.0, 0.5, 1.0, "a test")
#: 1000 int8 and 500 float operations per microsecond: products are bound by them.
SLOW_CORES = Gpu("toy", 1e-3, 5e-4, 1.0, "a test")


class Line(nn.Module):
    """One linear layer with a ReLU, 64 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x).relu()
        return out


class Convs(nn.Module):
    """3 x 3, then depthwise 3 x 3, on 8 x 8; no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x))
        return out


CASES = {
    "line": Case(Line, lambda n: Batch((torch.randn(n, 64),), {}, None, n), 2),
    "convs": Case(Convs, lambda n: Batch((torch.randn(n, 4, 8, 8),), {}, None, n), 2),
}


@cache
def bench(name: str, device: Gpu, batch: int = 4) -> Bench:
    subject = Subject.of_lowered(make(CASES.get(name, name)).lowered)
    return estimate(subject, device, (batch,))


def test_a_kernel_takes_the_longer_of_computing_and_moving() -> None:
    device = Gpu("toy", 4.0, 2.0, 100.0, "")
    assert cost(Work(10_000_000, 1_000, int8=True), device) == Cost(5.0, "compute")
    assert cost(Work(10_000_000, 1_000, int8=False), device) == Cost(10.0, "compute")
    assert cost(Work(1_000, 200_000, int8=True), device) == Cost(2.0, "memory")
    assert cost(Work(0, 0, int8=False), device) == Cost(0.0, "memory")


def test_the_bytes_of_a_linear_layer_are_counted_by_hand() -> None:
    """Batch 4, 64 to 32; fp16 is 2 bytes, codes are 1; scale and bias have 32 entries."""
    rows = {row.op: row for row in bench("line", SLOW_MEMORY).rows}
    quantize = (4 * 64) * (2 + 1)
    int8 = 4 * 64 + 64 * 32 + 2 * 32 + 2 * 32 + 2 * 4 * 32
    real = 2 * 4 * 64 + 2 * 64 * 32 + 2 * 32 + 2 * 4 * 32
    assert rows["x"].int8_us == pytest.approx(quantize / 1000)
    assert rows["fc"].int8_us == pytest.approx(int8 / 1000)
    assert rows["fc"].float_us == pytest.approx(real / 1000)
    assert rows["fc"].border_us == pytest.approx(quantize / 1000)
    assert rows["fc"].bound == "memory / memory"


def test_a_bound_by_computing_is_the_number_of_operations_over_the_rate() -> None:
    rows = {row.op: row for row in bench("line", SLOW_CORES).rows}
    operations = 2 * 4 * 64 * 32
    assert rows["fc"].int8_us == pytest.approx(operations / 1000)
    assert rows["fc"].float_us == pytest.approx(operations / 500)
    assert rows["fc"].bound == "compute / compute"


def test_operations_of_convolutions_are_counted_per_group() -> None:
    rows = {row.op: row for row in bench("convs", SLOW_CORES).rows}
    outputs = 4 * 16 * 8 * 8
    assert rows["a"].int8_us == pytest.approx(2 * outputs * 4 * 9 / 1000)
    assert rows["b"].int8_us == pytest.approx(2 * outputs * 1 * 9 / 1000)


def test_between_two_integer_kernels_codes_are_written_and_read() -> None:
    rows = {row.op: row for row in bench("convs", SLOW_MEMORY).rows}
    codes, first, second = 4 * 16 * 8 * 8, 16 * 4 * 9 + 2 * 16, 16 * 9 + 2 * 16
    assert rows["a"].int8_us == pytest.approx((4 * 4 * 8 * 8 + first + codes) / 1000)
    assert rows["b"].int8_us == pytest.approx((codes + second + 2 * codes) / 1000)
    assert rows["a"].requantize_us == pytest.approx(3 * codes / 1000)


def test_a_fused_residual_is_read_once_and_nothing_between_is_written() -> None:
    found = {row.op: row for row in bench("residual CNN", SLOW_MEMORY, 1).rows}
    point = found["point"]  # 16 channels of 8 x 8: 1 x 1 product, residual add, ReLU
    size, weight = 16 * 8 * 8, 16 * 16
    assert point.float_us == pytest.approx(2 * (size + weight + 16 + size + size) / 1000)
    assert point.int8_us == pytest.approx((size + weight + 2 * 32 + size + size) / 1000)
    assert [us for _, us in point.parts[1:]] == [0.0, 0.0]


def test_views_move_nothing() -> None:
    rows = {row.op: row for row in bench("transformer block", SLOW_MEMORY).rows}
    assert rows["permute"].int8_us == rows["permute"].float_us == 0.0


def test_a_table_is_read_only_where_it_is_looked_up() -> None:
    (row,) = [r for r in bench("keywords and trees", SLOW_MEMORY, 1).rows if r.op == "words"][:1]
    rows_read, ids = 2 * 5 * 8, 8 * 5
    assert row.float_us == pytest.approx((rows_read + ids + rows_read) / 1000)


@pytest.mark.parametrize("case", ["residual CNN", "transformer block", "products", "1d", "3d"])
def test_the_whole_is_the_sum_of_its_rows(case: str) -> None:
    found = bench(case, SLOW_MEMORY)
    assert found.time(4, "int8").us == pytest.approx(sum(r.int8_us for r in found.rows))
    assert found.time(4, "float fp16").us == pytest.approx(sum(r.float_us for r in found.rows))


def test_an_estimate_says_that_it_is_one() -> None:
    found = bench("line", GPUS["L4"])
    assert found.estimated
    assert found.label == "roofline estimate for L4"
    assert found.notes == (
        "NVIDIA L4 datasheet: half of the sparse figures; the larger of operations over peak rate "
        "and bytes over bandwidth; no launch cost, no cache; not measured",
    )
    assert Bench.from_json(found.to_json()) == found


def test_a_small_layer_whose_input_has_to_be_quantized_is_slower_in_int8() -> None:
    """32 outputs per input: quantizing 64 values costs more than 1 byte per weight saves."""
    assert [row.op for row in bench("line", SLOW_MEMORY, 256).slower] == ["fc"]


@pytest.mark.parametrize("name", ["A100-80GB", "a100 80gb", "A100_80GB"])
def test_a_gpu_is_found_however_it_is_written(name: str) -> None:
    assert gpu(name) is GPUS["A100-80GB"]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("h100", "Did you mean H100-SXM or H100-PCIe"),
        ("RTX 4080", "Did you mean RTX-4090 or RTX-3090"),
        ("abacus", f"Choose among {', '.join(GPUS)}"),
    ],
)
def test_an_unknown_gpu_is_refused_with_near_names(name: str, cure: str) -> None:
    with pytest.raises(InputError) as refusal:
        gpu(name)
    assert str(refusal.value) == f"--gpu {name}: there is no datasheet row of that name. {cure}."


@pytest.mark.parametrize("one", GPUS.values(), ids=GPUS)
def test_int8_is_at_least_twice_fp16_on_every_datasheet(one: Gpu) -> None:
    assert one.int8_tops >= 2 * one.fp16_tflops
    assert one.source
