"""Every operator on the GPU against the CPU's exact arithmetic (README.md of this folder)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_kit  # before the helpers: it says where they lie
import pytest
import torch
from cuda_cases import GROUPS
from int8_oracle import random_codes, random_reals

from qviz.int8 import pool, selftest
from qviz.int8.cuda import registry, tuning
from qviz.int8.cuda.tuning import Tile

assert pool.max_pool is not None  # the import registers the operators
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Q = torch.ops.qviz
assert_agrees, there = gpu_kit.assert_agrees, gpu_kit.there


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The CPU computes the contract's arithmetic; no tile is measured, none is remembered."""
    monkeypatch.setenv(selftest.VARIABLE, "exact")
    monkeypatch.setenv(tuning.VARIABLE, "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    selftest.forget()
    tuning.forget()
    yield
    selftest.forget()
    tuning.forget()


@pytest.mark.parametrize("backend", ["triton", "int_mm", "exact"])
@pytest.mark.parametrize("group", GROUPS)
def test_an_operator_agrees_with_the_cpu(
    group: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(registry.VARIABLE, backend)
    for name, op, args in GROUPS[group]():
        function = getattr(Q, op)
        assert_agrees(function(*map(there, args)), function(*args), name)


def _linear(rows: int, depth: int, width: int) -> tuple[str, tuple[Any, ...]]:
    x, weight = random_codes(rows, depth), random_codes(width, depth, low=-127)
    scale, bias = random_reals(width).abs() * 1e-3 + 1e-4, random_reals(width, seed=1)
    return "linear", (x, 0.01, weight, scale, bias, None, 1.0, "relu", [], 0.05)


def _conv(
    batch: int, channels: int, size: int, width: int, kernel: int, stride: int, groups: int = 1
) -> tuple[str, tuple[Any, ...]]:
    x = random_codes(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
    weight = random_codes(width, channels // groups, kernel, kernel, low=-127)
    scale, bias = random_reals(width).abs() * 1e-3 + 1e-4, random_reals(width, seed=1)
    window = ([stride] * 2, [kernel // 2] * 2, [1, 1], groups)
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    residual = random_codes(batch, width, out, out, seed=3)
    return "conv", (x, 0.01, weight, scale, bias, *window, residual, 0.02, "relu", [], 0.05)


LARGE: dict[str, Callable[[], tuple[str, tuple[Any, ...]]]] = {
    "linear": lambda: _linear(1000, 768, 520),
    "linear, long sums": lambda: _linear(300, 4096, 256),
    "one row": lambda: _linear(1, 2048, 1000),
    "3x3": lambda: _conv(4, 64, 28, 128, 3, 1),
    "3x3 stride 2, 192 channels": lambda: _conv(3, 192, 15, 96, 3, 2),
    "1x1 stride 2": lambda: _conv(3, 256, 14, 512, 1, 2),
    "stem": lambda: _conv(2, 3, 65, 64, 7, 2),
    "groups": lambda: _conv(2, 128, 14, 128, 3, 1, 4),
    "depthwise": lambda: _conv(2, 96, 28, 96, 3, 2, 96),
    "matmul": lambda: (
        "matmul", (random_codes(3, 4, 197, 64), 0.1, random_codes(3, 4, 64, 197), 0.1, 40.0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_every_candidate_tile_gives_the_same_codes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, args = LARGE[name]()
    wanted = getattr(Q, op)(*args)
    moved = [there(a) for a in args]
    seen: dict[Tile, None] = {}
    turn = iter(range(1000))

    def best(kernel: str, key: str, tiles: tuple[Tile, ...], run: Callable[[Tile], None]) -> Tile:
        seen.update(dict.fromkeys(tiles))
        return tiles[next(turn) % len(tiles)]

    monkeypatch.setattr(tuning, "best", best)
    for _ in range(12):  # more than there are candidates of one shape
        assert_agrees(getattr(Q, op)(*moved), wanted, name)
    assert seen


def test_float_outputs_of_large_products_agree() -> None:
    for make in (LARGE["linear"], LARGE["3x3"]):
        op, args = make()
        plain = args[:-1]
        assert_agrees(getattr(Q, op)(*map(there, plain)), getattr(Q, op)(*plain), op)
        half = {"out_dtype": torch.float16}
        found = getattr(Q, op)(*map(there, plain), **half)
        assert_agrees(found, getattr(Q, op)(*plain, **half), op)


def test_tiles_are_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tuning.VARIABLE)
    op, args = LARGE["linear"]()
    moved = [there(a) for a in args]
    wanted = getattr(Q, op)(*args)
    assert_agrees(getattr(Q, op)(*moved), wanted, op)
    written = tuning.cache_file().stat().st_mtime_ns
    tuning.forget()
    assert_agrees(getattr(Q, op)(*moved), wanted, op)
    assert tuning.cache_file().stat().st_mtime_ns == written


def test_a_weight_changed_in_place_is_packed_again() -> None:
    x, weight = random_codes(4, 40), random_codes(8, 40, low=-127)
    one = torch.ones(8)
    on_gpu = there(weight)
    for _ in range(2):
        args = (there(x), 1.0, on_gpu, there(one), None)
        assert_agrees(Q.linear(*args), Q.linear(x, 1.0, weight, one, None), "linear")
        on_gpu.neg_()
        weight.neg_()


def test_two_streams_of_work_need_no_synchronization() -> None:
    op, args = LARGE["3x3"]()
    wanted, moved = getattr(Q, op)(*args), [there(a) for a in args]
    getattr(Q, op)(*moved)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = getattr(Q, op)(*moved)
        here = found.cpu()
    assert torch.equal(here, wanted)
