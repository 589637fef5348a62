"""Sums of float64 numbers without rounding, so that they do not depend on any order.

A sum is a Python integer in units of 2^-1126, of which every float64 is a multiple. Adding integers
is exact, hence commutative and associative; a number is rounded once, when it is read.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# frexp gives 53-bit integers times 2^(e - 53), and e is never below -1073.
_SHIFT = 1073 + 53
_ONE = 1 << _SHIFT
_CHUNK = 512  # 2^9 integers of 53 bits still fit an int64


def exact_sum(values: NDArray[np.float64]) -> int:
    """Sum of finite float64 numbers, exactly, in units of 2^-1126."""
    total = 0
    for start in range(0, values.size, _CHUNK):
        mantissas, exponents = np.frexp(values[start : start + _CHUNK])
        integers = np.ldexp(mantissas, 53).astype(np.int64)
        for exponent in np.unique(exponents):
            part = int(integers[exponents == exponent].sum())
            total += part << (int(exponent) - 53 + _SHIFT)
    return total


def rounded(total: int) -> float:
    """The float64 nearest to an exact sum (inf where it is above all of them)."""
    try:
        return total / _ONE  # division of integers rounds once
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def variance(total: int, total_squares: int, count: int) -> float:
    """Mean of squares minus square of mean, computed exactly and rounded once."""
    if count == 0:
        return 0.0
    return max(0, count * total_squares * _ONE - total * total) / (count * _ONE) ** 2
