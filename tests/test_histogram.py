"""Histograms: exact, order-free, foldable; the compiled pass and plain torch count the same."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qviz import histogram as module
from qviz.errors import DataError, ShapeError
from qviz.histogram import BINS, MIN_TOP, Collector, Histogram, collect, empty, merge
from qviz.histogram_sums import exact_sum, rounded
from qviz.histogram_torch import torch_histogram

few = settings(max_examples=30, deadline=None)
NAN, INF = float("nan"), float("inf")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def same(a: Histogram, b: Histogram) -> bool:
    """Equal in every field, bit for bit."""
    x, y = a.to_arrays(), b.to_arrays()
    return x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)


def same_but_sums(a: Histogram, b: Histogram) -> bool:
    """Equal in all that does not depend on the order within a sample."""
    x, y = a.to_arrays(), b.to_arrays()
    sums = {"exact_total", "exact_squares"}
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x.keys() - sums)


#: Values of every size a float32 has, a good share of them special.
values = st.lists(
    st.one_of(
        st.floats(width=32),
        st.floats(-4, 4, width=32),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 3.4028234e38, NAN, INF]),
    ),
    min_size=1,
    max_size=60,
)


# --- what is counted -------------------------------------------------------------------------


def test_every_value_is_in_its_bin() -> None:
    h = collect(torch.tensor([[0.0, 0.4, 1.0, 3.9, -0.1, -3.9, -1.0]]))
    assert (h.top, h.width) == (4.0, 4 / BINS)
    expected = [math.floor(x / h.width) + BINS for x in (0.0, 0.4, 1.0, 3.9, -0.1, -3.9, -1.0)]
    assert torch.nonzero(h.counts).flatten().tolist() == sorted(expected)
    assert h.edges()[expected[1]] <= 0.4 < h.edges()[expected[1] + 1]


@given(values)
@few
def test_counts_are_those_of_a_plain_loop(data: list[float]) -> None:
    h = collect(torch.tensor([data]))
    finite = [x for x in np.array(data, np.float32).tolist() if math.isfinite(x)]
    counts = [0] * (2 * BINS)
    for x in finite:
        counts[math.floor(Fraction(x) / Fraction(h.width)) + BINS] += 1
    assert h.counts.tolist() == counts
    assert (h.size, h.finite) == (len(data), len(finite))
    assert h.zeros == finite.count(0.0)
    assert h.nans == sum(math.isnan(x) for x in data)
    assert (h.min, h.max) == (min(finite, default=INF), max(finite, default=-INF))


@given(values)
@few
def test_the_top_is_the_smallest_power_of_two_above_everything(data: list[float]) -> None:
    h = collect(torch.tensor([data]))
    assert h.amax < h.top
    assert h.top == MIN_TOP or h.top / 2 <= h.amax


def test_nan_and_inf_are_counted_and_in_no_bin() -> None:
    h = collect(torch.tensor([[1.0, NAN, -2.0, INF, -INF, NAN]]), channel_dim=1)
    assert (h.size, h.finite, h.nans, h.infs) == (6, 2, 2, 2)
    assert int(h.counts.sum()) == 2
    assert (h.min, h.max, h.total, h.total_squares) == (-2.0, 1.0, -1.0, 5.0)
    assert h.channel_max is not None
    assert h.channel_max.tolist() == [1.0, -INF, -2.0, -INF, -INF, -INF]


def test_zeros_of_both_signs_are_counted_and_leave_no_negative_zero() -> None:
    h = collect(torch.tensor([[0.0, -0.0]]), channel_dim=1)
    assert (h.zeros, int(h.counts[BINS])) == (2, 2)
    assert math.copysign(1, h.min) == 1
    assert h.zero_fraction == 1.0


def test_moments_are_those_of_the_data() -> None:
    x = normal(8, 500, scale=3) + 1
    h = collect(x)
    exact = x.double()
    assert h.mean == pytest.approx(exact.mean().item(), rel=1e-12)
    assert h.rms == pytest.approx(exact.square().mean().sqrt().item(), rel=1e-12)
    assert h.std == pytest.approx(exact.std(correction=0).item(), rel=1e-12)


def test_a_spread_far_below_the_mean_is_not_lost() -> None:
    x = torch.tensor([[2.0**20, 2.0**20 + 0.125] * 50])
    assert collect(x).std == 0.0625


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((4, 3, 9, 5), 1), ((4, 70, 2, 3), 1), ((2, 5, 40), -1), ((6, 7), 1), ((3, 1, 50), 1)],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_have_their_own_limits(
    shape: tuple[int, ...], channel_dim: int, channels_last: bool
) -> None:
    x = normal(*shape)
    if channels_last and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    h = collect(x, channel_dim)
    others = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    assert h.channel_min is not None
    assert h.channel_max is not None
    assert torch.equal(h.channel_min, x.amin(others))
    assert torch.equal(h.channel_max, x.amax(others))


def test_the_data_is_only_read() -> None:
    x = normal(3, 4, 5)
    x[0, 0, 0] = NAN
    before = x.clone()
    collect(x, 1)
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))


# --- independence of order -----------------------------------------------------------------------


def test_histogram_does_not_depend_on_batch_order() -> None:
    batches = [normal(2, 6, 10, seed=i, scale=10.0 ** (i - 2)) for i in range(5)]
    batches[1][0, 0, 0] = NAN
    first: Histogram | None = None
    for order in itertools.permutations(batches):
        collector = Collector(channel_dim=1)
        for batch in order:
            collector.update(batch)
        first = first or collector.histogram()
        assert same(collector.histogram(), first)


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
@few
def test_histogram_does_not_depend_on_batch_size(sizes: list[int], seed: int) -> None:
    x = normal(sum(sizes), 5, 333, seed=seed, scale=5)
    collector = Collector(channel_dim=1)
    for part in x.split(sizes):
        collector.update(part)
    assert same(collector.histogram(), collect(x, 1))


def test_histogram_does_not_depend_on_the_number_of_workers() -> None:
    x = normal(24, 4, 1000)
    parts = [collect(part, 1) for part in x.chunk(6)]
    merged = empty()
    for part in reversed(parts):
        merged = merge(merged, part)
    assert same(merged, collect(x, 1))


def test_a_collector_may_run_in_a_thread() -> None:
    x = normal(16, 8, 500)
    collectors = [Collector(1) for _ in range(4)]
    threads = [
        threading.Thread(target=collector.update, args=(part,))
        for collector, part in zip(collectors, x.chunk(4), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    merged = empty()
    for collector in collectors:
        merged = merge(merged, collector.histogram())
    assert same(merged, collect(x, 1))


def test_memory_format_changes_no_count() -> None:
    x = normal(4, 6, 9, 9)
    assert same_but_sums(collect(x, 1), collect(x.to(memory_format=torch.channels_last), 1))


@pytest.mark.parametrize("way", ["sliced", "expanded", "transposed"])
def test_memory_with_gaps_is_counted_like_a_copy(way: str) -> None:
    x = normal(6, 8, 10)
    odd = {
        "sliced": x[:, ::2, 1:7],
        "expanded": x[:, :, :1].expand(6, 8, 5),
        "transposed": x.transpose(0, 1),
    }[way]
    assert same_but_sums(collect(odd, 1), collect(odd.contiguous(), 1))


def test_a_histogram_taken_early_does_not_change_later() -> None:
    collector = Collector(channel_dim=1)
    collector.update(normal(2, 3, 4))
    early = collector.histogram()
    before = {key: array.copy() for key, array in early.to_arrays().items()}
    collector.update(normal(2, 3, 4, scale=100))
    assert all(np.array_equal(before[key], array) for key, array in early.to_arrays().items())
    assert not same(collector.histogram(), early)


# --- merging and folding -----------------------------------------------------------------------


@given(values, values, values)
@few
def test_merge_is_commutative_and_associative(
    a: list[float], b: list[float], c: list[float]
) -> None:
    x, y, z = (collect(torch.tensor([data])) for data in (a, b, c))
    assert same(merge(x, y), merge(y, x))
    assert same(merge(merge(x, y), z), merge(x, merge(y, z)))
    assert same(merge(x, empty()), x)


@given(values, values)
@few
def test_merge_is_the_histogram_of_both(a: list[float], b: list[float]) -> None:
    merged = merge(collect(torch.tensor([a])), collect(torch.tensor([b])))
    collector = Collector()
    for data in (a, b):
        collector.update(torch.tensor([data]))
    assert same(merged, collector.histogram())


def test_folding_keeps_negative_values_on_their_side_of_the_edges() -> None:
    small = torch.tensor([[-0.5, -1e-3, 1e-3, 0.5, -(2.0**-149)]])
    collector = Collector()
    for scale in (1.0, 1.5, 20.0, 300.0, 1e20):
        collector.update(small * scale)
    together = collect(torch.cat([small * s for s in (1.0, 1.5, 20.0, 300.0, 1e20)]))
    assert same_but_sums(collector.histogram(), together)
    assert int(together.counts[:BINS].sum()) == 15


def test_histograms_of_different_channels_do_not_merge() -> None:
    with pytest.raises(ShapeError) as caught:
        merge(collect(normal(2, 3), 1), collect(normal(2, 4), 1))
    assert str(caught.value) == (
        "histograms: of 3 and of 4 channels cannot be merged. Merge histograms of the same tensor."
    )


# --- exact sums ----------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40))
@few
def test_exact_sum_is_the_fraction_and_is_rounded_once(data: list[float]) -> None:
    total = sum((Fraction(x) for x in data), Fraction(0))
    got = exact_sum(np.array(data, np.float64))
    assert Fraction(got, 2**1126) == total
    if abs(total) < Fraction(sys.float_info.max):
        assert rounded(got) == float(total)


def test_a_sum_above_every_float_is_infinite() -> None:
    assert rounded(-2 * exact_sum(np.array([sys.float_info.max]))) == -INF


# --- the two ways to count --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "relu", "special", "growing", "tiny"])
@pytest.mark.parametrize(
    ("shape", "channel_dim", "batch_dim"),
    [
        ((3, 17, 40, 33), 1, 0),
        ((2, 130, 3, 3), 1, 0),
        ((2, 30, 257), -1, 0),
        ((2, 30, 257), None, 0),
        ((30, 2, 70), 2, 1),
        ((5, 10000), 1, 0),
        ((9,), None, 0),
        ((9, 4), 1, None),
        ((), None, None),
        ((0, 4), 1, 0),
    ],
)
def test_compiled_pass_and_plain_torch_count_the_same(
    shape: tuple[int, ...], channel_dim: int | None, batch_dim: int | None, kind: str
) -> None:
    x = normal(*shape)
    flat = x.view(-1)
    if kind == "relu":
        x = x.relu()
    elif kind == "special":
        flat[::7], flat[3::11], flat[5::13] = NAN, INF, -INF
    elif kind == "growing":
        flat *= torch.logspace(-8, 30, flat.numel())
    elif kind == "tiny":
        x = x * 1e-40
    compiled, plain = collect(x, channel_dim, batch_dim), torch_histogram(x, channel_dim, batch_dim)
    assert same_but_sums(compiled, plain)
    assert compiled.total == pytest.approx(plain.total, rel=1e-9, abs=1e-9 * plain.rms)
    assert compiled.total_squares == pytest.approx(plain.total_squares, rel=1e-9)


def test_collector_works_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel", lambda: None)
    x = normal(6, 3, 50)
    collector = Collector(1)
    for part in x.split(2):
        collector.update(part)
    assert same(collector.histogram(), torch_histogram(x, 1, 0))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_the_same() -> None:
    x = normal(6, 3, 500)
    x[0, 0, 0] = NAN
    assert same_but_sums(collect(x.cuda(), 1), collect(x, 1))


def test_importing_histogram_does_not_import_numba() -> None:
    code = "import sys, qviz.histogram; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_read_only_installation_compiles_without_a_cache(tmp_path: Path) -> None:
    # No folder can be written: numba finds no place for its cache and raises while decorating.
    code = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import torch\n"
        "from qviz.histogram_kernel import _compiled, _scales_python\n"
        "assert int(_compiled(_scales_python)(0)[0]) == 127 << 23\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_other_number_types_are_counted_as_float32(dtype: torch.dtype) -> None:
    x = (normal(3, 40) * 4).to(dtype)
    assert same(collect(x), collect(x.to(torch.float32)))


# --- storage, shapes ----------------------------------------------------------------------------


def test_arrays_survive_a_file_without_pickle(tmp_path: Path) -> None:
    for channel_dim in (None, 1):
        h = collect(normal(3, 4, 5), channel_dim)
        np.savez(tmp_path / "h.npz", **h.to_arrays())  # type: ignore[arg-type]
        with np.load(tmp_path / "h.npz", allow_pickle=False) as stored:
            assert same(Histogram.from_arrays(stored), h)


def test_damaged_arrays_are_named() -> None:
    arrays = collect(normal(3, 4)).to_arrays()
    arrays["counts"] = arrays["counts"][:10]
    with pytest.raises(DataError) as caught:
        Histogram.from_arrays(arrays)
    assert str(caught.value) == (
        "stored histogram: cannot be read ((10,) counts). Calibrate again."
    )


def test_nothing_seen_is_the_empty_histogram() -> None:
    assert same(Collector().histogram(), empty())
    h = empty()
    assert (h.size, h.amax, h.mean, h.rms, h.std, h.zero_fraction) == (0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_another_number_of_channels_is_refused() -> None:
    collector = Collector(channel_dim=1)
    collector.update(normal(2, 3))
    with pytest.raises(ShapeError) as caught:
        collector.update(normal(2, 4))
    assert str(caught.value) == (
        "batch: has 4 channels where earlier ones had 3. "
        "Collect tensors of different kinds separately."
    )


def test_axes_a_tensor_does_not_have_are_named() -> None:
    with pytest.raises(ShapeError) as missing:
        collect(normal(2, 3), channel_dim=2)
    with pytest.raises(ShapeError) as both:
        collect(normal(4), channel_dim=-1)
    assert str(missing.value) == (
        "tensor of shape [2, 3]: has no axis 2 for its channel. "
        "Pass channel_dim=None or an axis it has."
    )
    assert str(both.value) == (
        "tensor of shape [4]: axis 0 cannot hold both samples and channels. "
        "Pass channel_dim=None or batch_dim=None."
    )


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        collect(torch.zeros(2, 3, dtype=torch.complex64))
    assert str(caught.value) == ("complex tensor: has no order to bin. Observe its real part.")
