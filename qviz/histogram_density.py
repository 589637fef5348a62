r"""A histogram read as a density, and the exact squared error of a grid under it.

Values are taken as spread evenly inside their bin; the outermost bins end at the exact minimum and
maximum; exact zeros are left out, because every grid returns 0 for 0. The two bins beside zero may
hold most values (attention probabilities, tensors with outliers) and then far from evenly: there
the density ends early, so that the exact sums of the histogram come out.

The error needs one integral only. With M(t) = \int_{-inf}^t (t - x) dH(x) and the rounding
thresholds t_k = (k - 1/2) s between the codes,

    sum (x - Q(x))^2  =  sum (x - s k_max)^2  -  2 s sum_k M(t_k)

because the steps of Q add up by parts. M is quadratic within a bin and read off two prefix sums, so
a candidate range costs one look-up per code, whatever the number of values or bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qviz.affine import QuantParams
from qviz.histogram_value import BINS, Histogram

Doubles = NDArray[np.float64]

_LEAST: Final = 1e-3  # of a bin; the exact sums may ask for less by rounding
_ROWS: Final = 64  # candidates evaluated at a time: keeps the look-ups in the cache


@dataclass(frozen=True, eq=False)
class Density:
    """The non-zero values of a histogram as pieces of constant density.

    Piece 0 and the last piece are empty and stand for everything below and above.

    Args:
        first: number of the bin that piece 1 lies in, counted from 0 at real 0.
        bins: number of bins from there to the last used one.
        width: width of a bin.
        splits: where the density of the bins beside zero ends, negative side first; each splits its
            bin into two pieces; inf where that bin is not used.
        left: left end of every piece, [P]; piece 0 starts anywhere.
        slope: values per unit in every piece, [P].
        below: values left of every piece, [P].
        moment: M at the left end of every piece, [P].
        above: number, sum and sum of squares of the values in a piece and right of it, [3, P + 1].
        pieces: number, sum and sum of squares of the values of every piece, [3, P].
    """

    first: int
    bins: int
    width: float
    splits: tuple[float, float]
    left: Doubles
    slope: Doubles
    below: Doubles
    moment: Doubles
    above: Doubles
    pieces: Doubles


@lru_cache(maxsize=4)  # several calibrators and every drag of a line ask for the same one
def density(h: Histogram) -> Density | None:
    """The density of the non-zero values, None where there are none."""
    counts = h.counts.numpy().astype(np.float64)
    counts[BINS] -= h.zeros
    used = np.flatnonzero(counts)
    if used.size == 0:
        return None
    first, last = int(used[0]) - BINS, int(used[-1]) - BINS
    ends: Doubles = np.linspace(first, last + 1, last - first + 2) * h.width
    ends[0], ends[-1] = max(ends[0], h.min), min(ends[-1], h.max)
    n = counts[first + BINS : last + BINS + 1]
    splits = _splits(h, ends, n, -first)
    ends, n = _split(ends, n, -first, splits)
    a, b = ends[:-1], ends[1:]
    spans = b - a
    slope = np.divide(n, spans, out=np.zeros_like(n), where=spans > 0)
    pieces = np.stack([n, n * (a + b) / 2, n * (a * a + a * b + b * b) / 3])  # (3, bins)
    below = np.concatenate([[0.0, 0.0], np.cumsum(n)])
    # Over a piece M grows by (values to the left) * span + its own half.
    growth = below[1:-1] * spans + n * spans / 2
    return Density(
        first=first,
        bins=last - first + 1,
        width=h.width,
        splits=splits,
        left=np.concatenate([[ends[0]], ends]),
        slope=np.concatenate([[0.0], slope, [0.0]]),
        below=below,
        moment=np.concatenate([[0.0, 0.0], np.cumsum(growth)]),
        above=_suffix(pieces),
        pieces=np.pad(pieces, ((0, 0), (1, 1))),
    )


def _splits(h: Histogram, ends: Doubles, n: Doubles, zero: int) -> tuple[float, float]:
    """Where the density of the bins beside zero ends, for the exact sums to come out.

    The sum of values decides where all have one sign, the sum of squares elsewhere.

    Args:
        h: histogram.
        ends: ends of the used bins, [B + 1].
        n: values in them, [B].
        zero: number among them of the bin that starts at 0; it and the one before may be missing.
    """
    beside = [i for i in (zero - 1, zero) if 0 <= i < n.size]
    a, b = ends[:-1], ends[1:]
    there = float(n[beside].sum())
    if there == 0:
        return math.inf, math.inf
    others = n.copy()
    others[beside] = 0
    if len(beside) == 1:
        mean = (h.total - float((others * (a + b)).sum()) / 2) / there
        low, high = float(a[beside[0]]), float(b[beside[0]])
        if beside[0] == zero:
            return math.inf, min(max(2 * mean - low, low + _LEAST * (high - low)), high)
        return max(min(2 * mean - high, high - _LEAST * (high - low)), low), math.inf
    squares = h.total_squares - float((others * (a * a + a * b + b * b)).sum()) / 3
    even = float(n[zero - 1] * a[zero - 1] ** 2 + n[zero] * b[zero] ** 2) / 3
    factor = math.sqrt(min(max(squares / even, _LEAST**2), 1.0)) if even > 0 else 1.0
    return float(a[zero - 1]) * factor, float(b[zero]) * factor


def _split(
    ends: Doubles, n: Doubles, zero: int, splits: tuple[float, float]
) -> tuple[Doubles, Doubles]:
    """Ends and values with the bins beside zero cut in two, the outer part empty."""
    negative, positive = splits
    if positive < math.inf:
        ends, n = np.insert(ends, zero + 1, positive), np.insert(n, zero + 1, 0.0)
    if negative < math.inf:
        ends, n = np.insert(ends, zero, negative), np.insert(n, zero - 1, 0.0)
    return ends, n


def _suffix(pieces: Doubles) -> Doubles:
    """Sums from every piece to the end, with the empty pieces at both sides; exactly 0 there."""
    sums = np.cumsum(pieces[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([sums[:, :1], sums, np.zeros((3, 2))], axis=1)


def _place(d: Density, x: Doubles) -> tuple[NDArray[np.intp], Doubles]:
    """Piece that every ``x`` lies in, and how far right of its left end."""
    last = d.left.size - 1
    cell = np.floor(x / d.width)
    cell -= d.first - 1
    piece = np.minimum(np.maximum(cell, 0.0, out=cell), d.bins, out=cell).astype(np.intp)
    for split in d.splits:
        if split < math.inf:
            piece += x >= split
    piece[x >= d.left[last]] = last
    return piece, np.maximum(x - d.left[piece], 0.0)


def squared_error(d: Density, params: QuantParams) -> Doubles:
    """Expected sum of squared errors of all values, for every candidate.

    Args:
        d: density.
        params: scale and zero point of n candidates, as channels: [n].

    Returns:
        [n], never negative.
    """
    scale, lowest, highest = _codes(params)
    steps = params.quant_max - params.quant_min
    halves = np.arange(steps) + 0.5
    sums = np.empty(scale.size)
    for start in range(0, scale.size, _ROWS):
        rows = slice(start, start + _ROWS)
        thresholds = (lowest[rows, None] + halves) * scale[rows, None]  # (n, codes - 1)
        piece, right = _place(d, thresholds)
        inside = (d.slope[piece] * (right / 2) + d.below[piece]) * right
        sums[rows] = (d.moment[piece] + inside).sum(1)
    number, total, squares = d.above[:, 0]
    top = highest * scale
    error = squares - 2 * top * total + top * top * number - 2 * scale * sums
    clamped: Doubles = np.maximum(error, 0.0)
    return clamped


def clipped(d: Density, params: QuantParams) -> tuple[Doubles, Doubles]:
    """Number of values whose code is clamped, and the sum of their squared errors: [n], [n].

    A value up to half a step outside the grid rounds to its last code and is not clamped.
    """
    scale, lowest, highest = _codes(params)
    number, error = np.zeros(scale.size), np.zeros(scale.size)
    for sign, code in ((1.0, highest), (-1.0, lowest)):
        end = code * scale
        n, total, squares = _beyond(d, end + sign * scale / 2, sign)
        number += n
        error += squares - 2 * end * total + end * end * n
    return number, np.maximum(error, 0.0)


def _beyond(d: Density, threshold: Doubles, sign: float) -> Doubles:
    """Number, sum and sum of squares of the values beyond a threshold, [3, n]."""
    piece, right = _place(d, threshold)
    x = d.left[piece] + right
    # The part of the piece right of the threshold, from its density.
    end = np.append(d.left[1:], d.left[-1])[piece]
    slope = d.slope[piece]
    rest = slope * np.stack([end - x, (end**2 - x**2) / 2, (end**3 - x**3) / 3])
    rest = np.where(right > 0, rest, d.pieces[:, piece])
    above = d.above[:, piece + 1] + rest
    if sign > 0:
        return above
    below: Doubles = d.above[:, :1] - above
    below[:, threshold <= d.left[0]] = 0.0  # a difference of sums is not exactly 0
    return below


def _codes(params: QuantParams) -> tuple[Doubles, Doubles, Doubles]:
    """Scale, lowest and highest code minus zero point, float64 [n]."""
    scale = params.scale.numpy().astype(np.float64)
    zero_point = params.zero_point.numpy().astype(np.float64)
    return scale, params.quant_min - zero_point, params.quant_max - zero_point
