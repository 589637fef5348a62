"""The two searches behind calibrators: least squared error, and least KL divergence.

Both look at every candidate through prefix sums: a few milliseconds per tensor, where the loops
they replace take most of a second (entropy) or tens of milliseconds (error).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from qviz.affine import Grid, QuantParams, range_params
from qviz.histogram_density import Density, clipped, squared_error

Doubles = NDArray[np.float64]

KL_BINS = 2048
"""Bins the KL search works on, at most: what TensorRT and pytorch-quantization use."""

# A range below 2^-OCTAVES of the data's would clip nearly all of it.
_OCTAVES = 10
_PER_OCTAVE = 16
_FINE = (33, 9)  # candidates of the two refinements
_SWEEPS = 2
_SWEPT = 1  # octaves around the range found by shrinking both ends
_ROWS = 256  # candidates of the KL search evaluated at a time: keeps them in the cache
_TINY = np.finfo(np.float64).tiny


def least_error(
    d: Density, lo: float, hi: float, grid: Grid, clip_weight: float
) -> tuple[float, float]:
    """The range with the least rounding error + ``clip_weight`` * clipping error.

    A symmetric grid, and data on one side of zero, have one end to search. Otherwise both ends
    shrink together first, then each in turn until neither moves (coordinate descent).

    Args:
        d: density of the values.
        lo: smallest value.
        hi: largest value.
        grid: what the range is for.
        clip_weight: 1 is the mean squared error.

    Returns:
        The two ends, inside [lo, hi] on an affine grid.
    """
    search = _Search(d, grid, clip_weight)
    if grid.symmetric:
        amax = max(-lo, hi)
        best = amax * search.factor((-amax, True), (amax, True))
        return -best, best
    low, high = min(lo, 0.0), max(hi, 0.0)
    both = search.factor((low, True), (high, True))
    ends = (low * both, high * both)
    for _ in range(_SWEEPS if low < 0 < high else 0):
        before = ends
        ends = (ends[0], high * search.factor((ends[0], False), (high, True), ends[1] / high))
        ends = (low * search.factor((low, True), (ends[1], False), ends[0] / low), ends[1])
        if ends == before:
            break
    return ends


@dataclass(frozen=True)
class _Search:
    """Least rounding error + ``clip_weight`` * clipping error along one line of ranges."""

    density: Density
    grid: Grid
    clip_weight: float

    def factor(
        self, low: tuple[float, bool], high: tuple[float, bool], near: float | None = None
    ) -> float:
        """The factor in (0, 1] of least cost for the ends that move with it; the largest of equals.

        Factors a sixteenth of an octave apart first, then twice finer around the best. Where many
        values are alike (GELU near its minimum) the error has ripples as codes pass over them, so
        the first refinement looks to both sides of the neighbouring factors.

        Args:
            low: the lower end, and whether it moves.
            high: the upper end likewise.
            near: look only around this factor.
        """
        if near is None:
            tried = 2.0 ** (-np.arange(_OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE)
        else:
            around = np.arange(_SWEPT * _PER_OCTAVE, -_SWEPT * _PER_OCTAVE - 1, -1) / _PER_OCTAVE
            tried = near * 2.0**around
        factor, least = 1.0, math.inf
        for fine, span in ((_FINE[0], 2 / _PER_OCTAVE), (_FINE[1], 1 / 128), (1, 0.0)):
            tried = np.unique(np.minimum(tried, 1.0))[::-1]
            moved = [
                end * tried if moves else np.full_like(tried, end) for end, moves in (low, high)
            ]
            costs = self.cost(*moved)
            best = int(np.argmin(costs))
            if costs[best] < least:
                factor, least = float(tried[best]), float(costs[best])
            tried = factor * 2.0 ** np.linspace(span, -span, fine)
        return factor

    def cost(self, low: Doubles, high: Doubles) -> Doubles:
        """Cost of every range [low, high]."""
        params, error = _errors(self.density, self.grid, low.tobytes(), high.tobytes())
        if self.clip_weight == 1:
            return error
        return error + (self.clip_weight - 1) * clipped(self.density, params)[1]


@lru_cache(maxsize=16)  # searches of another weight begin with the same ranges
def _errors(d: Density, grid: Grid, low: bytes, high: bytes) -> tuple[QuantParams, Doubles]:
    """Every range [low, high] on the grid, and its squared error; ends as the bytes of float64."""
    ends = torch.from_numpy(np.stack([np.frombuffer(low), np.frombuffer(high)]))
    params = range_params(ends[0], ends[1], grid, axis=0)
    return params, squared_error(d, params)


def least_divergence(counts: NDArray[np.int64], levels: int) -> int:
    """The number of bins to keep so that the quantized histogram is nearest to the real one.

    For every number of bins i from ``levels`` up: P is the first i bins, everything beyond added to
    the last of them; Q merges the same bins, without what is beyond, into ``levels`` groups and
    spreads each group evenly over its non-empty bins. The i of least KL(P, Q) wins, the last of
    equals. Bin 0 first takes the count of bin 1, so that zeros do not decide.

    Args:
        counts: of |x|, the last one not empty, [n].
        levels: codes on one side of zero.

    Returns:
        i, in levels .. n; n where there are no more than ``levels`` bins.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017, as in pytorch-quantization.
    """
    size = counts.size
    if size <= levels:
        return size
    h = counts.astype(np.float64)
    h[0] = h[1]
    kept = np.arange(levels, size + 1)
    divergence = _divergences(h, kept, levels)
    least = float(divergence.min())
    if not math.isfinite(least):
        return size
    # Equal candidates differ by rounding only; the sums are of order 1.
    return int(kept[np.flatnonzero(divergence <= least + 1e-12)[-1]])


def _divergences(h: Doubles, kept: NDArray[np.int64], levels: int) -> Doubles:
    """KL(P, Q) for every number of bins kept; inf where P has values and Q has none."""
    cumulative = np.concatenate([[0.0], np.cumsum(h)])
    filled = np.concatenate([[0.0], np.cumsum(h > 0)])
    entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(h))])
    total = cumulative[-1]
    inside = cumulative[kept]
    outside = total - inside
    last = h[kept - 1]
    p_log_q = np.empty(kept.size)
    for start in range(0, kept.size, _ROWS):
        rows = slice(start, start + _ROWS)
        group, log_mean = _groups(cumulative, filled, kept[rows], levels)
        p_log_q[rows] = np.einsum("ij,ij->i", group, log_mean) + outside[rows] * log_mean[:, -1]
    p_log_p = entropy[kept] - _x_log_x(last) + _x_log_x(last + outside)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = (p_log_p - p_log_q) / total + np.log(inside / total)
    lost = (last == 0) & (outside > 0)
    return np.where(lost | (inside == 0), np.inf, divergence)


def _groups(
    cumulative: Doubles, filled: Doubles, kept: NDArray[np.int64], levels: int
) -> tuple[Doubles, Doubles]:
    """Sum of every group, and log of its mean over non-empty bins: (candidates, levels)."""
    # Group g of i bins is those with g <= bin * levels / i < g + 1.
    # levels is a power of two: the shift divides by it and rounds up
    starts = (np.arange(levels + 1) * kept[:, None] + levels - 1) >> (levels.bit_length() - 1)
    sums, bins_below = cumulative.take(starts), filled.take(starts)
    group, bins = sums[:, 1:] - sums[:, :-1], bins_below[:, 1:] - bins_below[:, :-1]
    mean = np.divide(group, np.maximum(bins, 1, out=bins), out=bins)
    return group, np.log(np.maximum(mean, _TINY, out=mean), out=mean)  # an empty one has no say


def _x_log_x(x: Doubles) -> Doubles:
    """X log x, 0 at 0."""
    result: Doubles = x * np.log(np.maximum(x, _TINY))
    return result
