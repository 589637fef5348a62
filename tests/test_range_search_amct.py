"""IFMR and HFMG: against loops over the raw values as AMCT's public code describes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qviz.affine import Grid
from qviz.calibrators import clip_range
from qviz.errors import RangeError
from qviz.histogram import collect, merge
from qviz.range_search_amct import level_errors, rebinned, shrinking, symmetric_amax, tail

GRIDS = {
    "int8": Grid(8),
    "uint8": Grid(8, symmetric=False),
    "int4": Grid(4),
    "uint4": Grid(4, symmetric=False),
}


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


DATA: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: normal(20_000),
    "relu": lambda: normal(20_000).relu(),
    "gelu": lambda: torch.nn.functional.gelu(3 * normal(20_000)),
    "heavy tails": lambda: normal(20_000) / normal(20_000, 1).abs().clamp(min=0.2),
    "negative": lambda: -normal(20_000).abs() - 0.25,
}


# ---- IFMR ----


def naive_ifmr(x: Tensor, grid: Grid, share: float) -> tuple[float, NDArray[np.float64]]:
    """AMCT's loop on raw values: scale of the best candidate, and the loss of each."""
    count = x.numel() - int(share * x.numel())
    top = max(0.0, float(x.topk(count).values[-1]))
    bottom = min(0.0, float(x.topk(count, largest=False).values[-1]))
    lows, highs = grid.quant_min, grid.quant_max
    if grid.symmetric:
        limit = -lows if -bottom > top else highs
        ends = torch.arange(0.7, 1.3, 0.01) * max(top, -bottom)
        scales = ends / limit
        zeros = [0] * len(ends)
    else:
        ends = torch.arange(0.7, 1.3, 0.01) * top
        scales = (ends - bottom) / highs
        zeros = [round(-bottom / float(s)) for s in scales]
    losses = []
    for scale, zero in zip(scales.tolist(), zeros, strict=True):
        made = torch.fake_quantize_per_tensor_affine(x, scale, zero, lows, highs)
        losses.append(float((made - x).double().square().mean()))
    return float(scales[int(np.argmin(losses))]), np.array(losses)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("data", DATA)
def test_ifmr_chooses_what_the_loop_over_the_values_chooses(data: str, grid: str) -> None:
    x, g = DATA[data](), GRIDS[grid]
    scale, losses = naive_ifmr(x, g, 0.999999)
    found = clip_range(collect(x), "ifmr", g)
    own = found.hi / g.quant_max if g.symmetric else (found.hi - found.lo) / g.quant_max
    low, high = sorted(losses)[0], sorted(losses)[1]
    # a neighbour may be taken only where the loop itself finds both equally good
    if high / low > 1.002:
        assert own == pytest.approx(scale, rel=1e-5)
    else:
        assert own == pytest.approx(scale, rel=0.06)


def test_ifmr_by_hand() -> None:
    """Codes -1, 0, 1 at two bits narrow the choice to the end nearest to the two values."""
    x = torch.tensor([0.0, 0.0, 1.0, -1.0])
    assert clip_range(collect(x), "ifmr", Grid(2)).hi == pytest.approx(1.0, abs=1e-3)


def test_ifmr_searches_only_the_upper_end_of_an_affine_grid() -> None:
    x = torch.cat([normal(20_000), torch.tensor([-9.0])])
    assert clip_range(collect(x), "ifmr:99.9999:100", GRIDS["uint4"]).lo == -9.0


def test_ifmr_takes_the_percentiles_asked_for() -> None:
    x = torch.arange(1, 10_001) / 1000
    one_factor = "ifmr:99:100:1:1.001"
    found = clip_range(collect(x), one_factor, GRIDS["uint8"])
    assert found.hi == pytest.approx(9.9, abs=0.005)  # the 100th value from the top is 9.901


@pytest.mark.parametrize("share", [1.0, 0.999999, 0.999, 0.9, 0.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_percentile_is_the_kth_value_within_a_bin(share: float, sign: int) -> None:
    x = normal(5_000)
    h = collect(x)
    k = x.numel() - int(share * x.numel())
    value = float((sign * x).topk(max(k, 1)).values[-1]) * sign
    assert tail(h, share, sign) == pytest.approx(value, abs=1.01 * h.width)
    if k <= 1:
        assert tail(h, share, sign) == value


def test_the_larger_negative_side_has_one_code_more() -> None:
    grid = Grid(8)
    assert symmetric_amax(-2.0, 1.0, grid) / grid.quant_max == 2.0 / 128
    assert symmetric_amax(-1.0, 2.0, grid) / grid.quant_max == 2.0 / 127


# ---- HFMG ----


def naive_shrinking(counts: list[int]) -> list[tuple[int, int]]:
    left, right = 0, len(counts) - 1
    least = max(math.ceil(sum(counts) / 100_000), 1)
    found = []
    while right - left > math.ceil(len(counts) / 4):
        to_left, to_right, lost_left, lost_right = left, right, 0, 0
        while to_left < to_right and lost_left < least:
            lost_left += counts[to_left]
            to_left += 1
        while to_left < to_right and lost_right < least:
            lost_right += counts[to_right]
            to_right -= 1
        if right - to_right >= to_left - left:
            right = to_right
        else:
            left = to_left
        found.append((left, right))
    return found


def naive_error(counts: list[int], left: int, right: int, levels: int) -> float:
    """Integral of (x - level)^2 over values that are even in bins of width 1, piece by piece."""
    part = (right - left + 1) / levels
    total = 0.0
    for bin_, count in enumerate(counts):
        ends = [left + part * i for i in range(1, levels)]
        cuts = [float(bin_), *(e for e in ends if bin_ < e < bin_ + 1), bin_ + 1.0]
        for a, b in itertools.pairwise(cuts):
            level = min(max(math.floor(((a + b) / 2 - left) / part), 0), levels - 1)
            centre = left + part * (level + 0.5)
            total += count * ((b - centre) ** 3 - (a - centre) ** 3) / 3
    return total


@pytest.mark.parametrize("seed", range(6))
def test_hfmg_shrinks_as_the_loop_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, 10 ** rng.uniform(0, 5), 300)).tolist()
    assert shrinking(np.array(counts, np.float64)) == naive_shrinking(counts)


def test_hfmg_of_equal_counts_takes_from_the_right_first() -> None:
    assert shrinking(np.ones(8)) == [(0, 6), (0, 5), (0, 4), (0, 3), (0, 2)]


@pytest.mark.parametrize("levels", [4, 16])
def test_the_error_of_a_range_is_the_integral(levels: int) -> None:
    counts = np.random.default_rng(1).integers(0, 50, 24)
    ranges = [(0, 23), (0, 20), (3, 20), (5, 9)]
    naive = [naive_error(counts.tolist(), a, b, levels) for a, b in ranges]
    assert level_errors(counts.astype(np.float64), ranges, levels) == pytest.approx(naive, 1e-9)


def test_the_error_by_hand() -> None:
    """One value even in [0, 1), two levels of half a unit each: 2 * integral of x^2 to 1/4."""
    assert level_errors(np.array([1.0]), [(0, 0)], 2) == pytest.approx([4 * (1 / 4) ** 3 / 3])


@pytest.mark.parametrize("data", DATA)
def test_rebinning_keeps_the_counts(data: str) -> None:
    x = DATA[data]()
    mine = rebinned(collect(x), 512)
    theirs = torch.histc(x, 512, float(x.min()), float(x.max())).numpy()
    assert mine.sum() == pytest.approx(x.numel())
    assert np.abs(np.cumsum(mine) - np.cumsum(theirs)).max() < 0.01 * x.numel()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("data", DATA)
def test_hfmg_chooses_the_least_error_on_its_way(data: str, grid: str) -> None:
    h, g = collect(DATA[data]()), GRIDS[grid]
    counts = rebinned(h, 1024)
    ranges = shrinking(counts)
    errors = level_errors(counts, ranges, 2**g.bits)
    left, right = ranges[int(np.argmin(errors))]
    width = (h.max - h.min) / 1024
    lo, hi = h.min + left * width, h.min + (right + 1) * width
    found = clip_range(h, "hfmg:1024", g)
    if g.symmetric:
        assert found.hi == pytest.approx(symmetric_amax(lo, hi, g))
        assert found.lo == -found.hi
    else:
        assert (found.lo, found.hi) == pytest.approx((min(lo, 0.0), max(hi, 0.0)))


# ---- both ----


@pytest.mark.parametrize("spec", ["ifmr", "hfmg"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_tensor_of_one_value_has_a_range(spec: str, grid: str) -> None:
    assert clip_range(collect(torch.zeros(5)), spec, GRIDS[grid]).amax == 0.0
    assert 1.0 <= clip_range(collect(torch.full((5,), 2.0)), spec, GRIDS[grid]).hi <= 2.6


@pytest.mark.parametrize("spec", ["ifmr", "hfmg"])
def test_the_range_does_not_depend_on_batches(spec: str) -> None:
    x = normal(4_000)
    parts = [collect(part) for part in x.reshape(4, -1)]
    joined = merge(merge(parts[3], parts[1]), merge(parts[0], parts[2]))
    assert clip_range(joined, spec, Grid(8)) == clip_range(collect(x), spec, Grid(8))


def test_a_wrong_parameter_is_explained() -> None:
    with pytest.raises(RangeError) as caught:
        clip_range(collect(normal(10)), "hfmg:10", Grid(8))
    assert str(caught.value) == (
        "calibrator 'hfmg': bins = 10 is not in 256 to 16384. Pass a value in that range."
    )
