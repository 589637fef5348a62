"""Which kernel is chosen, what is said about it, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from int8_oracle import random_codes

pytest.importorskip("triton")

from cuda_kit import interpreted

from qviz.errors import DeviceError, InputError
from qviz.int8.cuda import registry, tuning
from qviz.int8.cuda.tuning import Tile

TILES = tuple(Tile(("BM",), (size,), 4, 2) for size in (128, 64, 32))


@pytest.fixture
def operators() -> Iterator[ModuleType]:
    with interpreted() as found:
        sys.modules["qviz.int8.cuda.registry"].forget()
        yield found


def chosen() -> list[str]:
    found = sys.modules["qviz.int8.cuda.registry"]
    return [found.described(choice) for choice in found.chosen()]


def test_the_choice_says_why_no_faster_kernel_was_taken(operators: ModuleType) -> None:
    x, weight = random_codes(20, 41), random_codes(16, 41)
    for _ in range(2):
        operators.linear(x, 0.1, weight, torch.ones(16), None)
    assert chosen() == [
        "linear 20x41 by 16x41: triton gemm of a padded copy "
        "(no triton gemm: K = 41 is not a multiple of 4)"
    ]


def test_kernels_for_other_sorts_of_calls_are_not_mentioned(operators: ModuleType) -> None:
    window = ([1, 1], [1, 1], [1, 1], 1)
    args = (0.1, random_codes(8, 16, 3, 3), torch.ones(8), None)
    operators.conv(random_codes(1, 16, 4, 4), *args, *window)
    assert chosen() == [
        "conv 1x16x4x4 by 8x16x3x3 stride [1, 1] padding [1, 1] dilation [1, 1] groups 1: "
        "triton implicit gemm"
    ]


def test_the_environment_chooses_the_backend(
    operators: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(registry.VARIABLE, "int_mm")
    operators.linear(random_codes(3, 40), 0.1, random_codes(16, 40), torch.ones(16), None)
    monkeypatch.setenv(registry.VARIABLE, "exact")
    operators.linear(random_codes(3, 40), 0.1, random_codes(16, 40), torch.ones(16), None)
    assert chosen() == [
        "linear 3x40 by 16x40: cuBLASLt of padded copies (no cuBLASLt: M = 3 is below 17)",
        "linear 3x40 by 16x40: float of padded copies",
    ]


def test_an_unknown_backend_is_refused(
    operators: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(registry.VARIABLE, "cudnn")
    with pytest.raises(InputError) as caught:
        operators.linear(random_codes(3, 40), 0.1, random_codes(16, 40), torch.ones(16), None)
    assert str(caught.value) == (
        "QVIZ_INT8_CUDA=cudnn: no such backend. Use auto, triton, int_mm, exact."
    )


def test_a_missing_triton_is_said_and_never_replaced_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    registry.forget()
    with pytest.raises(DeviceError) as caught:
        registry.uses_triton(torch.device("cpu"))
    assert str(caught.value) == (
        "CUDA: Triton, which compiles the int8 kernels, is not installed. "
        "Set QVIZ_INT8_CUDA=int_mm for PyTorch's own, slower kernels."
    )
    monkeypatch.setenv(registry.VARIABLE, "int_mm")
    assert not registry.uses_triton(torch.device("cpu"))


def test_an_old_gpu_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    registry.forget()
    with pytest.raises(DeviceError) as caught:
        registry.uses_triton(torch.device("cuda", 0))
    registry.forget()
    assert str(caught.value) == (
        "CUDA: Tesla T4 is too old: its compute capability is 7.5, the int8 kernels need 8.0. "
        "Set QVIZ_INT8_CUDA=int_mm for PyTorch's own, slower kernels."
    )


def test_the_cpu_needs_neither_triton_nor_the_cuda_modules() -> None:
    code = (
        "import sys, torch, qviz.int8.pool; q = torch.ops.qviz; "
        "q.dequantize(q.quantize(torch.ones(3), 0.5), 0.5); "
        "print(sorted(n for n in sys.modules if n == 'triton' or n.startswith('qviz.int8.cuda.')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[Tile, float]]:
    """A GPU on which tiles take the times of this dictionary; the cache in a folder of its own."""
    times = {tile: float(i) for i, tile in enumerate(reversed(TILES), 1)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "_machine", lambda index: "GPU")
    monkeypatch.setattr(tuning, "_time", lambda run, tile: times[tile])
    tuning.forget()
    yield times
    tuning.forget()


def best() -> Tile:
    return tuning.best("gemm", "64x64x64", TILES, lambda tile: None)


def test_the_fastest_tile_is_taken_and_remembered_on_disk(gpu: dict[Tile, float]) -> None:
    assert best() == TILES[2]
    content = json.loads(tuning.cache_file().read_text(encoding="utf-8"))
    assert content == {"version": 1, "tiles": {"GPU|gemm|64x64x64": [32, 4, 2]}}
    gpu.update(dict.fromkeys(TILES, 5.0))  # another process does not measure again
    tuning.forget()
    assert best() == TILES[2]


def test_a_tile_that_is_no_candidate_any_more_is_measured_again(gpu: dict[Tile, float]) -> None:
    path = tuning.cache_file()
    path.parent.mkdir()
    path.write_text('{"version": 1, "tiles": {"GPU|gemm|64x64x64": [256, 8, 3]}}', encoding="utf-8")
    assert best() == TILES[2]


def test_a_damaged_cache_is_measured_again(
    gpu: dict[Tile, float], caplog: pytest.LogCaptureFixture
) -> None:
    path = tuning.cache_file()
    path.parent.mkdir()
    path.write_text('{"version": 1', encoding="utf-8")
    assert best() == TILES[2]
    assert "tiles are measured again" in caplog.text


def test_nothing_is_measured_while_a_graph_is_captured_or_when_told_not_to(
    gpu: dict[Tile, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tuning.VARIABLE, "0")
    assert best() == TILES[0]
    monkeypatch.delenv(tuning.VARIABLE)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert best() == TILES[0]
    assert not tuning.cache_file().exists()


def test_a_gpu_that_holds_no_tile_keeps_nothing(gpu: dict[Tile, float]) -> None:
    gpu.update(dict.fromkeys(TILES, float("inf")))
    assert best() == TILES[0]
    assert not tuning.cache_file().exists()
