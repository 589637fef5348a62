"""Calibrators: what each chooses, against independent implementations, and what a range costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qviz.affine import Grid, fake_quantize, range_params
from qviz.calibrators import (
    CALIBRATORS,
    DEFAULT_CANDIDATES,
    Bounds,
    Candidate,
    ClipRange,
    Parameter,
    candidates,
    clip_range,
    describe,
    parameters,
    parse,
)
from qviz.errors import RangeError
from qviz.histogram import Histogram, collect, empty, merge
from qviz.range_search import KL_BINS, least_divergence

few = settings(max_examples=25, deadline=None)
INT8 = Grid(8)
UINT8 = Grid(8, symmetric=False)
GRIDS = {"int8": INT8, "uint8": UINT8, "int4": Grid(4), "uint3": Grid(3, symmetric=False)}
EVERY = (*DEFAULT_CANDIDATES, "fixed:-1:2")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heavy(*shape: int) -> Tensor:
    return normal(*shape) / normal(*shape, seed=1).abs().clamp(min=0.05)


DATA: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: normal(64, 1000),
    "relu": lambda: normal(64, 1000).relu(),
    "gelu": lambda: torch.nn.functional.gelu(normal(64, 1000)),
    "heavy tails": lambda: heavy(64, 1000),
    "attention": lambda: torch.softmax(3 * normal(64, 1000), -1),
    "outlier": lambda: torch.cat([normal(64, 1000), torch.full((64, 1), 300.0)], 1),
    "negative": lambda: -normal(64, 1000).abs() - 0.25,
}
DRAWN = {name: make() for name, make in DATA.items()}
SEEN = {name: collect(x) for name, x in DRAWN.items()}


@cache
def found(data: str, grid: str) -> tuple[Candidate, ...]:
    return candidates(SEEN[data], GRIDS[grid])


def error_of(x: Tensor, clip: ClipRange, grid: Grid) -> float:
    back = fake_quantize(x, range_params(clip.lo, clip.hi, grid))
    return (back.double() - x.double()).square().mean().item()


# --- every calibrator --------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("data", DATA)
def test_calibrator_does_not_change_the_histogram(spec: str, data: str) -> None:
    h = SEEN[data]
    before = {key: array.copy() for key, array in h.to_arrays().items()}
    for grid in GRIDS.values():
        clip_range(h, spec, grid)
    assert all(np.array_equal(before[key], array) for key, array in h.to_arrays().items())


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_range_holds_zero_and_no_more_than_was_seen(spec: str, data: str, grid: str) -> None:
    h = SEEN[data]
    clip = clip_range(h, spec, GRIDS[grid])
    assert clip.lo <= 0 <= clip.hi
    assert clip.amax <= h.amax
    if GRIDS[grid].symmetric:
        assert clip.lo == -clip.hi
    else:
        assert clip.lo >= min(h.min, 0)
        assert clip.hi <= max(h.max, 0)


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
def test_calibrators_do_not_depend_on_batches(spec: str) -> None:
    x = DRAWN["heavy tails"]
    parts = [collect(part) for part in x.split([1, 10, 53])]
    merged = merge(merge(parts[2], parts[0]), parts[1])
    assert clip_range(merged, spec, INT8) == clip_range(SEEN["heavy tails"], spec, INT8)


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**15])
def test_a_range_scales_with_the_data(spec: str, factor: float) -> None:
    small = clip_range(SEEN["gaussian"], spec, INT8)
    scaled = clip_range(collect(DRAWN["gaussian"] * factor), spec, INT8)
    assert scaled.hi == pytest.approx(small.hi * factor, rel=1e-6)


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_alone_make_an_empty_range_and_no_error(spec: str, grid: str) -> None:
    (one,) = candidates(collect(torch.zeros(2, 50)), GRIDS[grid], [spec])
    assert one.range == ClipRange(0.0, 0.0)
    assert (one.scale, one.mse, one.sqnr_db, one.clipped_fraction) == (1.0, 0.0, math.inf, 0.0)


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
@pytest.mark.parametrize("value", [3.3, -0.02, 1e-30])
def test_a_single_value_is_kept(spec: str, value: float) -> None:
    h = collect(torch.full((2, 50), value))
    for grid in (INT8, UINT8):
        (one,) = candidates(h, grid, [spec])
        assert one.range.amax == pytest.approx(abs(value), rel=1e-3)
        assert one.clipped_fraction == 0
        assert one.sqnr_db > 60


@pytest.mark.parametrize("spec", DEFAULT_CANDIDATES)
def test_nan_and_inf_move_no_range(spec: str) -> None:
    x = DRAWN["gaussian"].clone()
    bad = torch.cat([x, torch.tensor([[float("nan"), float("inf")] * 500] * 3)])
    h = collect(bad)
    assert (h.nans, h.infs) == (1500, 1500)
    assert clip_range(h, spec, INT8) == clip_range(SEEN["gaussian"], spec, INT8)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_histogram_without_data_is_refused(name: str) -> None:
    nothing = empty()
    no_numbers = collect(torch.full((1, 4), float("nan")))
    values = dict.fromkeys((p.name for p in parameters(name)), 60.0)
    for h, seen in ((nothing, "no data"), (no_numbers, "4 values, all NaN or infinite")):
        with pytest.raises(RangeError) as caught:
            CALIBRATORS[name](h, INT8, **values)
        assert str(caught.value) == (
            f"histogram: saw {seen}. "
            "Calibrate on samples that reach this tensor with finite values."
        )


# --- max, percentile, fixed --------------------------------------------------------------------


def test_max_clips_nothing() -> None:
    for h in SEEN.values():
        for grid in GRIDS.values():
            (one,) = candidates(h, grid, ["max"])
            assert (one.clipped_fraction, one.clipping_mse) == (0.0, 0.0)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_percentile_is_that_of_the_magnitudes(data: str, percent: float) -> None:
    x, h = DRAWN[data], SEEN[data]
    below, above = (
        float(np.quantile(x.abs().numpy(), percent / 100, method=end))
        for end in ("lower", "higher")
    )
    got = clip_range(h, f"percentile:{percent}", INT8)
    assert below - h.width <= got.hi <= above + h.width


def test_percentile_cuts_both_tails_of_an_affine_grid() -> None:
    x = DRAWN["gelu"]
    got = clip_range(SEEN["gelu"], "percentile:99", UINT8)
    lo, hi = np.quantile(x.numpy(), [0.005, 0.995])
    assert (got.lo, got.hi) == pytest.approx((lo, hi), abs=SEEN["gelu"].width)


def test_percentile_of_all_is_max() -> None:
    for h in SEEN.values():
        assert clip_range(h, "percentile:100", INT8) == clip_range(h, "max", INT8)


def test_percentile_of_a_tensor_of_zeros_but_for_a_few_is_taken_of_the_few() -> None:
    x = torch.zeros(10, 10000)
    x[0, :20] = torch.linspace(1, 2, 20)
    assert clip_range(collect(x), "percentile:99.9", INT8).hi == pytest.approx(2, rel=1e-3)


def test_fixed_is_what_was_asked_mirrored_where_the_grid_is_symmetric() -> None:
    h = SEEN["gaussian"]
    assert clip_range(h, "fixed:-1.5:2", UINT8) == ClipRange(-1.5, 2)
    assert clip_range(h, "fixed:-1.5:2", INT8) == ClipRange(-2, 2)
    assert clip_range(h, "fixed:1:2", UINT8) == ClipRange(0, 2)


# --- entropy -----------------------------------------------------------------------------------


def published_entropy(counts: NDArray[np.int64], levels: int) -> tuple[int, list[float]]:
    """pytorch-quantization's entropy calibration, loop by loop, with its own KL divergence."""
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    divergences = []
    for i in range(levels, len(bins) + 1):
        group = np.digitize(np.arange(i), np.linspace(0, i, levels + 1)) - 1
        group[bins[:i] == 0] = -1
        quantized = np.zeros(i)
        for level in range(levels):
            members = group == level
            if members.any():
                quantized[members] = bins[:i][members].sum() / members.sum()
        reference = bins[:i].copy()
        reference[-1] += bins[i:].sum()
        divergences.append(kl(reference, quantized))
    last = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return last + levels, divergences


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence of two unnormalised distributions, term by term."""
    if q.sum() == 0 or p.sum() == 0:
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    if ((p > 0) & (q == 0)).any():
        return math.inf
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def test_kl_of_the_test_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    p, q = (np.random.default_rng(i).random(50) for i in (0, 1))
    p[7] = 0
    assert kl(p, q) == pytest.approx(stats.entropy(p, q), rel=1e-12)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(10, 200),
    levels=st.sampled_from([2, 4, 8, 16, 32]),
    sparsity=st.sampled_from([0.0, 0.3, 0.9]),
    decay=st.floats(0.5, 30),
)
@few
def test_entropy_search_chooses_the_published_bin(
    seed: int, size: int, levels: int, sparsity: float, decay: float
) -> None:
    rng = np.random.default_rng(seed)
    mean = 5000 * np.exp(-decay * np.arange(size) / size)
    counts = rng.poisson(mean) * (rng.random(size) >= sparsity)
    counts[-1] = 1 + counts[-1]
    got = least_divergence(counts, levels)
    if size <= levels:
        assert got == size
        return
    wanted, divergences = published_entropy(counts, levels)
    # Where two candidates differ by less than rounding, either order of additions may choose.
    assert got == wanted or abs(divergences[got - levels] - min(divergences)) < 1e-12
    assert divergences[got - levels] == min(divergences) or got > wanted


@pytest.mark.parametrize("data", ["gaussian", "relu", "heavy tails", "outlier"])
def test_entropy_at_eight_bits_chooses_the_published_bin(data: str) -> None:
    h = SEEN[data]
    counts = h.magnitudes()
    counts = (counts[0::2] + counts[1::2])[:KL_BINS]
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    wanted, _ = published_entropy(counts, 128)
    assert least_divergence(counts, 128) == wanted
    got = clip_range(h, "entropy", INT8)
    assert got.hi == min(wanted * 2 * h.width, h.amax)


def test_entropy_of_equals_takes_the_last() -> None:
    # Four values far below, then nothing, then one: every cut before the end costs the same.
    flat = np.full(64, 100)
    assert least_divergence(flat, 64) == 64
    assert least_divergence(np.repeat(flat, 2), 64) == 128  # merged pairs of equals lose nothing


def test_entropy_ignores_how_many_values_are_next_to_zero() -> None:
    x = DRAWN["relu"]
    more = torch.cat([x, torch.zeros_like(x)])
    assert clip_range(collect(more), "entropy", INT8) == clip_range(collect(x), "entropy", INT8)


def test_entropy_uses_all_codes_of_an_unsigned_grid() -> None:
    h = SEEN["relu"]
    counts = h.magnitudes()
    counts = (counts[0::2] + counts[1::2])[:KL_BINS]
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    got = clip_range(h, "entropy", UINT8)
    assert got.hi == min(least_divergence(counts, 256) * 2 * h.width, h.amax)


# --- mse, sqnr ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("grid", ["int8", "int4"])
def test_mse_search_finds_what_trying_every_range_finds(data: str, grid: str) -> None:
    h = SEEN[data]
    chosen = describe(h, clip_range(h, "mse", GRIDS[grid]), GRIDS[grid]).mse
    every = [
        describe(h, ClipRange(-h.amax * f, h.amax * f), GRIDS[grid]).mse
        for f in np.linspace(0.002, 1, 500)
    ]
    assert chosen <= 1.003 * min(every)


@pytest.mark.parametrize("data", ["gaussian", "gelu", "heavy tails"])
def test_mse_search_of_both_ends_finds_what_a_grid_of_ranges_finds(data: str) -> None:
    h = SEEN[data]
    chosen = describe(h, clip_range(h, "mse", UINT8), UINT8).mse
    every = [
        describe(h, ClipRange(h.min * a, h.max * b), UINT8).mse
        for a in np.geomspace(0.02, 1, 20)
        for b in np.geomspace(0.02, 1, 20)
    ]
    assert chosen <= 1.003 * min(every)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("grid", GRIDS)
def test_no_candidate_has_less_error_than_mse(data: str, grid: str) -> None:
    costs = {one.calibrator: one.mse for one in found(data, grid)}
    assert costs["mse"] <= 1.01 * min(costs.values())


def test_sqnr_with_gamma_one_is_mse() -> None:
    for h in SEEN.values():
        for grid in GRIDS.values():
            assert clip_range(h, "sqnr:1", grid) == clip_range(h, "mse", grid)


def test_a_larger_gamma_clips_less() -> None:
    clipped = [
        describe(SEEN["gaussian"], clip_range(SEEN["gaussian"], f"sqnr:{g}", INT8), INT8)
        for g in (0.5, 1, 3, 30)
    ]
    fractions = [one.clipped_fraction for one in clipped]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[0] > fractions[-1]


# --- what a range costs ------------------------------------------------------------------------


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("grid", GRIDS)
def test_expected_error_is_the_error_measured_on_the_data(data: str, grid: str) -> None:
    x = DRAWN[data]
    for one in found(data, grid):
        measured = error_of(x, one.range, GRIDS[grid])
        assert one.mse == pytest.approx(measured, rel=0.03)
        power = x.double().square().mean().item()
        assert one.sqnr_db == pytest.approx(10 * math.log10(power / measured), abs=0.15)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("grid", GRIDS)
def test_clipped_values_are_those_whose_code_is_clamped(data: str, grid: str) -> None:
    x = DRAWN[data].double()
    for one in found(data, grid):
        params = range_params(one.range.lo, one.range.hi, GRIDS[grid])
        half = params.scale.double() / 2
        outside = (x > params.high.double() + half) | (x < params.low.double() - half)
        assert one.clipped_fraction == pytest.approx(
            outside.double().mean().item(), rel=0.02, abs=2e-5
        )
        ends = x.clamp(params.low.double(), params.high.double())
        lost = torch.where(outside, (x - ends).square(), 0.0).mean().item()
        assert one.clipping_mse == pytest.approx(lost, rel=0.03, abs=1e-3 * one.mse)
        assert one.clipping_mse + one.rounding_mse == pytest.approx(one.mse)


def test_sqnr_of_a_half_step_uniform_error_is_the_closed_form() -> None:
    # Uniform on [-1, 1]: power 1/3, error s^2 / 12 with s = 1/127.
    x = torch.linspace(-1, 1, 2**18).reshape(64, -1)
    cost = describe(collect(x), ClipRange(-1, 1), INT8)
    assert cost.sqnr_db == pytest.approx(10 * math.log10(4 * 127**2), abs=0.01)


def test_values_on_the_grid_next_to_zero_cost_nothing() -> None:
    sparse = torch.zeros(4, 1000)
    sparse[0, :5] = 2.0
    cost = describe(collect(sparse), ClipRange(-2, 2), INT8)
    assert cost.sqnr_db > 100


@given(seed=st.integers(0, 10**6), lo=st.floats(-8, 0), hi=st.floats(0.01, 8))
@few
def test_any_dragged_range_has_its_measured_error(seed: int, lo: float, hi: float) -> None:
    x = normal(8, 4000, seed=seed) + 0.3
    clip = ClipRange(lo, hi)
    for grid in (INT8, UINT8):
        assert describe(collect(x), clip, grid).mse == pytest.approx(
            error_of(x, clip, grid), rel=0.05
        )


def test_a_candidate_says_the_same_as_describe() -> None:
    h: Histogram = SEEN["gelu"]
    for one in candidates(h, UINT8):
        cost = describe(h, one.range, UINT8)
        assert (one.clipped_fraction, one.mse, one.sqnr_db) == (
            cost.clipped_fraction,
            cost.mse,
            cost.sqnr_db,
        )
        params = range_params(one.range.lo, one.range.hi, UINT8)
        assert one.scale == params.scale.item()


# --- specs -------------------------------------------------------------------------------------


def test_specs_are_names_with_values() -> None:
    assert parse("max") == ("max", {})
    assert parse("percentile") == ("percentile", {})
    assert parse("percentile:99.9") == ("percentile", {"percent": 99.9})
    assert parse(" fixed:-1.5:2 ") == ("fixed", {"lo": -1.5, "hi": 2.0})


def test_parameters_can_be_read_by_a_form() -> None:
    assert parameters("max") == ()
    assert parameters("percentile") == (Parameter("percent", 99.99, Bounds(50.0, 100.0)),)
    assert [(p.name, p.default) for p in parameters("fixed")] == [("lo", None), ("hi", None)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "histo",
            "calibrator 'histo': does not exist. "
            "Use one of max, entropy, percentile, mse, sqnr, ifmr, hfmg, fixed.",
        ),
        ("max:3", "calibrator 'max:3': max takes 0 values, not 1. Write 'max'."),
        (
            "percentile:lots",
            "calibrator 'percentile:lots': percent is 'lots'. Write a number.",
        ),
        (
            "percentile:0.999",
            "calibrator 'percentile': percent = 0.999 is not in 50 to 100. "
            "Pass a value in that range.",
        ),
        (
            "sqnr:nan",
            "calibrator 'sqnr': gamma = nan is not in 0 to 1000. Pass a value in that range.",
        ),
        ("fixed:1", "calibrator 'fixed': needs a value for hi. Write 'fixed:lo:hi'."),
        (
            "fixed:2:1",
            "range 2 to 1: is not a range. Pass two finite numbers, the smaller first.",
        ),
    ],
)
def test_a_wrong_spec_is_explained(spec: str, message: str) -> None:
    with pytest.raises(RangeError) as caught:
        clip_range(SEEN["gaussian"], spec, INT8)
    assert str(caught.value) == message
