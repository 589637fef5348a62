"""The code that Triton makes of the CUDA kernels for GPUs that are not there.

Compiled for compute capabilities 8.0 (Ampere and what follows it, but one) and 9.0 (Hopper): int8
tensor-core instructions, no spilled registers, 16-byte loads and stores, no fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton")

from cuda_compile_kit import Code, caught, codes, compiled, reals
from torch import Tensor

from qviz.int8.cuda import operators, tiles
from qviz.int8.cuda.tuning import Tile

MMA = r"mma\.sync\.aligned\.m16n8k32\.row\.col(\.satfinite)?\.s32\.s8\.s8\.s32"
WGMMA = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8"
WIDE_COPY = r"cp\.async\.cg\.shared\.global \[[^;]*, (0x10|16),"
WIDE_LOAD = r"ld\.global[.\w:]*\.v4\.b32"
WIDE_STORE = r"st\.global[.\w:]*\.v4\.b32"


def image(*shape: int) -> Tensor:
    return codes(*shape).contiguous(memory_format=torch.channels_last)


def linear() -> Tensor:
    half = reals(6304, 768, dtype=torch.float16)
    args = (codes(6304, 3072), 0.1, codes(768, 3072), reals(768), reals(768), half)
    return operators.linear(*args, out_dtype=torch.float16)


def linear_to_codes() -> Tensor:
    args = (codes(4096, 1024), 0.1, codes(1024, 1024), reals(1024), reals(1024))
    return operators.linear(*args, out_scale=0.9)


def conv(
    x: Tensor, weight: Tensor, stride: int, padding: int, groups: int = 1
) -> Callable[[], Tensor]:
    window = ([stride] * 2, [padding] * 2, [1, 1], groups)
    size = (x.shape[-1] + 2 * padding - weight.shape[-1]) // stride + 1
    residual = image(x.shape[0], weight.shape[0], size, size)
    width = weight.shape[0]
    head = (x, 0.1, weight, reals(width), reals(width))
    return lambda: operators.conv(*head, *window, residual, 0.3, "relu", [], 0.9)


def heads() -> Tensor:
    q, k = codes(32, 197, 12, 64).transpose(1, 2), codes(32, 197, 12, 64).permute(0, 2, 3, 1)
    return operators.matmul(q, 0.1, k, 0.1, out_dtype=torch.float16)


CALLS: dict[str, Callable[[], Tensor]] = {
    "linear": linear,
    "3x3": conv(image(32, 64, 56, 56), codes(64, 64, 3, 3), 1, 1),
    "heads": heads,
    "stem": conv(image(32, 3, 224, 224), codes(64, 3, 7, 7), 2, 3),
}


def code_of(call: Callable[[], Tensor], capability: int, patch: pytest.MonkeyPatch) -> Code:
    ((launch, tile),) = caught(call, patch)
    return compiled(launch, tile, capability)


@pytest.mark.parametrize(
    ("name", "capability"),
    [("linear", 80), ("linear", 90), ("3x3", 80), ("3x3", 90), ("heads", 80), ("stem", 90)],
)
def test_a_product_runs_on_int8_tensor_cores(
    name: str, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(CALLS[name], capability, monkeypatch)
    assert code.count(WGMMA if capability == 90 else MMA) > 0
    assert code.spilled == 0
    assert code.count(r"fma\.rn\.f32") == 0  # it would round once where the contract rounds twice
    if name != "stem":  # 3 channels: nothing wide to read
        assert code.count(WIDE_COPY) > 0
        assert code.count(r"ld\.global[.\w:]*\.b8 ") == 0
    assert code.count(WIDE_STORE) > 0 or name == "heads"  # rows of 197 begin anywhere


def test_24_channels_are_read_8_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    call = conv(image(32, 24, 28, 28), codes(96, 24, 3, 3), 1, 1)
    code = code_of(call, 80, monkeypatch)
    assert code.count(r"cp\.async\.ca\.shared\.global \[[^;]*, (0x8|8),") > 0
    assert code.count(r"ld\.global[.\w:]*\.b8 ") == 0


def test_the_widest_tile_of_hopper_spills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ((launch, _),) = caught(linear_to_codes, monkeypatch)
    *sizes, warps, stages = tiles.WIDEST
    code = compiled(launch, Tile(tiles.NAMES, tuple(sizes), warps, stages), 90)
    assert code.count(WGMMA) > 0
    assert code.spilled == 0


@pytest.mark.parametrize("capability", [80, 90])
def test_a_depthwise_convolution_reads_16_channels_at_a_time(
    capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = conv(image(32, 96, 112, 112), codes(96, 1, 3, 3), 1, 1, 96)
    code = code_of(call, capability, monkeypatch)
    assert code.spilled == 0
    assert code.count(WIDE_LOAD) > 0
    assert code.count(r"ld\.global[.\w:]*\.b8 ") == 0


PASSES: dict[str, Callable[[], Tensor]] = {
    "quantize": lambda: operators.quantize(reals(32, 64, 56, 56), 0.1),
    "dequantize": lambda: operators.dequantize(codes(32, 64, 56, 56), 0.1, torch.bfloat16),
    "add": lambda: operators.add(
        codes(32, 64, 56, 56), 0.1, codes(32, 64, 56, 56), 0.1, "relu", [], 0.2
    ),
    "max_pool": lambda: operators.max_pool(
        image(32, 64, 112, 112), [3, 3], [2, 2], [1, 1], [1, 1], False
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_over_memory_reads_and_writes_words(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(PASSES[name], 80, monkeypatch)
    assert code.spilled == 0
    assert code.count(r"(ld|st)\.global[.\w:]*\.v[24]\.b32") >= 2
    assert code.count(r"(ld|st)\.global[.\w:]*\.b8 ") == 0
    if name == "dequantize":  # rounded, not cut off
        assert code.count(r"cvt\.rn\.bf16(x2)?\.f32") > 0
