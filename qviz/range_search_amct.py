"""The two activation range searches of Huawei's AMCT, on a histogram instead of the raw values.

IFMR starts from a percentile and tries upper ends around it; HFMG shrinks the range greedily and
takes the point of least squared error. Both are written after AMCT's public PyTorch code
(``amct_pytorch``: ``ifmr.py`` and ``hfmg.py`` of its custom ops), including what differs from its
documentation: IFMR searches the upper end only.

Where the negative side is the larger one, AMCT's symmetric scale is |min| / 128, so that -128 is
used; on a grid whose scale is amax / 127 that is an amax of 127/128 |min|.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from qviz.affine import Grid, range_params
from qviz.histogram_density import Density, squared_error
from qviz.histogram_value import BINS, Histogram

Doubles = NDArray[np.float64]

_STEP_DIVISOR = 100_000  # HFMG takes off at least this part of the values at a time
_LEAST_BINS = 4  # and stops at this part of the bins
_ROWS = 256  # candidates evaluated at a time


def symmetric_amax(lo: float, hi: float, grid: Grid) -> float:
    """Amax of AMCT's symmetric scale for [lo, hi]: the larger end, -2^(b-1) used if it is below 0.

    Args:
        lo: lower end.
        hi: upper end.
        grid: a symmetric grid.
    """
    if abs(hi) >= abs(lo) or grid.unsigned:
        return abs(hi)
    return abs(lo) * grid.quant_max / -grid.quant_min


def tail(h: Histogram, share: float, sign: int) -> float:
    """The value that ``n - int(share n)`` of the n values reach or pass, on one side.

    Args:
        h: of at least one finite value.
        share: in (0.5, 1]; 1 is the extreme itself.
        sign: 1 from the top, -1 from the bottom.

    Returns:
        Exact where it is the extreme, else inside its bin.
    """
    extreme = h.max if sign > 0 else h.min
    beyond = h.finite - int(share * h.finite) - 1  # values outside the one that is returned
    if beyond <= 0:
        return extreme
    counts = h.counts.numpy()
    counts = counts[::-1] if sign > 0 else counts
    passed = np.cumsum(counts)
    cell = int(np.searchsorted(passed, beyond, side="right"))
    into = (beyond - (passed[cell] - counts[cell])) / counts[cell]
    edge = float(BINS - cell - into) * h.width * sign
    return min(edge, extreme) if sign > 0 else max(edge, extreme)


def ifmr_ends(
    h: Histogram,
    d: Density,
    grid: Grid,
    *,
    top: float,
    bottom: float,
    search: tuple[float, float, float],
) -> tuple[float, float]:
    """IFMR: of upper ends around a percentile the one of least squared error, first of equals.

    Candidates are ``end * (start, start + step, ... below stop)``. On a symmetric grid ``end`` is
    the larger of both percentiles; on an affine grid it is the upper one and the lower stays.

    Args:
        h: histogram.
        d: its density.
        grid: what the range is for.
        top: share of the values below the upper percentile.
        bottom: share of the values above the lower one.
        search: start, stop and step of the factors.
    """
    hi, lo = max(tail(h, top, 1), 0.0), min(tail(h, bottom, -1), 0.0)
    start, stop, step = search
    factors = start + step * np.arange(max(1, math.ceil((stop - start) / step - 1e-9)))
    if grid.symmetric:
        highs = symmetric_amax(lo, hi, grid) * factors
        lows = -highs
    else:
        highs = hi * factors
        lows = np.full_like(highs, lo)
    error = squared_error(d, range_params(torch.tensor(lows), torch.tensor(highs), grid, axis=0))
    best = int(np.argmin(error))
    return float(lows[best]), float(highs[best])


def hfmg_ends(h: Histogram, grid: Grid, bins: int) -> tuple[float, float]:
    """HFMG: the least squared error along a greedy shrinking of the range, first of equals.

    Each step takes at least a 1 / 100000 of the values off the side where that removes more bins,
    down to a quarter of the bins. The error of a range is that of 2^b levels in the middle of 2^b
    equal parts of it, values spread evenly inside their bin, in closed form.

    Args:
        h: of at least two different finite values.
        grid: what the range is for.
        bins: bins between minimum and maximum; AMCT has 1024, 2048, 4096 and 8192.
    """
    counts = rebinned(h, bins)
    ranges = shrinking(counts)
    width = (h.max - h.min) / bins
    left, right = ranges[int(np.argmin(level_errors(counts, ranges, 2**grid.bits)))]
    lo, hi = h.min + left * width, h.min + (right + 1) * width
    if grid.symmetric:
        amax = symmetric_amax(lo, hi, grid)
        return -amax, amax
    return lo, hi


def rebinned(h: Histogram, bins: int) -> Doubles:
    """Counts of ``bins`` equal bins from minimum to maximum, values even inside their old bin."""
    counts = h.counts.numpy().astype(np.float64)
    counts[BINS] -= h.zeros
    edges = np.clip(h.edges(), h.min, h.max)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    used = np.concatenate([[True], edges[1:] > edges[:-1]])
    wanted = np.linspace(h.min, h.max, bins + 1)
    made: Doubles = np.diff(np.interp(wanted, edges[used], below[used]))
    made[-1] += h.finite - h.zeros - made.sum()  # what is exactly the maximum, at a bin's edge
    if h.zeros:
        made[min(int((0.0 - h.min) / (h.max - h.min) * bins), bins - 1)] += h.zeros
    return made


def shrinking(counts: Doubles) -> list[tuple[int, int]]:
    """First and last bin of every range that HFMG tries, widest first."""
    below = [0.0, *accumulate(counts.tolist())]
    least = max(math.ceil(round(below[-1]) / _STEP_DIVISOR), 1)
    fewest = math.ceil(counts.size / _LEAST_BINS)
    left, right = 0, counts.size - 1
    found = []
    while right - left > fewest:
        # where the range begins when `least` values are taken off the left
        new_left = min(bisect_left(below, below[left] + least, left + 1, right + 1), right)
        # and where it ends when they are taken off the right, never before that
        new_right = max(bisect_right(below, below[right + 1] - least, 0, right + 1) - 2, new_left)
        if right - new_right >= new_left - left:
            right = new_right
        else:
            left = new_left
        found.append((left, right))
    return found


def level_errors(counts: Doubles, ranges: list[tuple[int, int]], levels: int) -> Doubles:
    """Squared error of ``levels`` even levels over each range, in units of (bin width)^2.

    With M(t) the sum of (t - x) over the values x below t, and t_k the ends between the levels'
    parts of width w: sum (x - last level)^2 - 2 w sum_k M(t_k) (see ``histogram_density``).
    """
    below = np.concatenate([[0.0], np.cumsum(counts)])  # values left of each edge
    moment = np.concatenate([[0.0], np.cumsum(below[:-1] + counts / 2)])  # M at each edge
    density = np.append(counts, 0.0)
    centre = np.arange(counts.size) + 0.5
    number, total = counts.sum(), float((counts * centre).sum())
    squares = float((counts * (centre**2 + 1 / 12)).sum())
    ends = np.array(ranges, np.float64)
    origin, part = ends[:, 0], (ends[:, 1] - ends[:, 0] + 1) / levels
    last = ends[:, 1] + 1 - part / 2
    errors: Doubles = squares - 2 * last * total + last**2 * number
    for start in range(0, len(ranges), _ROWS):
        rows = slice(start, start + _ROWS)
        t = origin[rows, None] + part[rows, None] * np.arange(1, levels)
        cell = np.minimum(t.astype(np.intp), counts.size)
        into = t - cell
        moments = moment[cell] + (below[cell] + density[cell] * into / 2) * into
        errors[rows] -= 2 * part[rows] * moments.sum(1)
    return errors
