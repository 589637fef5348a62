"""Histogram: everything qviz remembers of the values one tensor took, and how two become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qviz import histogram_sums as sums
from qviz.errors import DataError, ShapeError

BINS = 4096
"""Bins a side."""

# Below this top every value is noise, and bin edges would leave the range of normal float32.
MIN_TOP = 2.0**-100


@dataclass(frozen=True, eq=False)
class Histogram:
    """Statistics of every value one tensor took.

    Args:
        top: power of two; every finite value is inside (-top, top).
        counts: int64 [2 * BINS]; bin i covers [(i - BINS) * width, (i - BINS + 1) * width).
        size: values seen, finite or not.
        zeros: values equal to 0; they are in bin ``BINS`` as well.
        nans: values that were NaN; in no bin.
        infs: values that were infinite; in no bin.
        min: smallest finite value, inf where there was none.
        max: largest finite value, -inf where there was none.
        exact_total: sum of the finite values as an integer (histogram_sums).
        exact_squares: sum of their squares likewise.
        channel_min: float32 [C], or None where channels were not told apart.
        channel_max: float32 [C], or None.
    """

    top: float
    counts: Tensor
    size: int
    zeros: int
    nans: int
    infs: int
    min: float
    max: float
    exact_total: int
    exact_squares: int
    channel_min: Tensor | None = None
    channel_max: Tensor | None = None

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.top / BINS

    @property
    def finite(self) -> int:
        """Values that are in a bin."""
        return self.size - self.nans - self.infs

    @property
    def amax(self) -> float:
        """Largest magnitude; 0 where nothing finite was seen."""
        return max(self.max, -self.min, 0.0)

    @cached_property
    def total(self) -> float:
        """Sum of the finite values, rounded once."""
        return sums.rounded(self.exact_total)

    @cached_property
    def total_squares(self) -> float:
        """Sum of the squares of the finite values, rounded once."""
        return sums.rounded(self.exact_squares)

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return self.total / self.finite if self.finite else 0.0

    @property
    def rms(self) -> float:
        """Root of the mean square of the finite values."""
        return math.sqrt(self.total_squares / self.finite) if self.finite else 0.0

    @cached_property
    def std(self) -> float:
        """Standard deviation of the finite values (divided by n, not n - 1)."""
        return math.sqrt(sums.variance(self.exact_total, self.exact_squares, self.finite))

    @property
    def zero_fraction(self) -> float:
        """Share of the finite values that are exactly 0."""
        return self.zeros / self.finite if self.finite else 0.0

    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, [2 * BINS + 1]."""
        return np.linspace(-self.top, self.top, 2 * BINS + 1)

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |x|, [BINS]: bin i covers i * width to (i + 1) * width."""
        counts = self.counts.numpy()
        folded: NDArray[np.int64] = counts[BINS:] + counts[BINS - 1 :: -1]
        return folded

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that ``numpy.savez`` stores without pickle; ``from_arrays`` is the way back."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                arrays[field.name] = value.numpy().copy()
            elif field.name.startswith("exact"):
                arrays[field.name] = np.array(hex(value))  # more bits than any dtype has
            elif value is not None:
                arrays[field.name] = np.array(value)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Histogram:
        """The histogram whose ``to_arrays`` this is.

        Raises:
            DataError: an array is missing or has the wrong size.
        """
        try:
            low_channels, high_channels = (
                torch.from_numpy(np.array(arrays[key], np.float32)) if key in arrays else None
                for key in ("channel_min", "channel_max")
            )
            counts = torch.from_numpy(np.array(arrays["counts"], np.int64))
            if counts.shape != (2 * BINS,):
                raise ValueError(f"{tuple(counts.shape)} counts")
            top, low, high = (float(arrays[k].item()) for k in ("top", "min", "max"))
            size, zeros, nans, infs = (
                int(arrays[k].item()) for k in ("size", "zeros", "nans", "infs")
            )
            total, squares = (int(str(arrays[k]), 16) for k in ("exact_total", "exact_squares"))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                "stored histogram", f"cannot be read ({error})", "Calibrate again"
            ) from error
        limits = (low, high, total, squares, low_channels, high_channels)
        return cls(top, counts, size, zeros, nans, infs, *limits)


def empty() -> Histogram:
    """The histogram of no values: neutral in ``merge``."""
    counts = torch.zeros(2 * BINS, dtype=torch.int64)
    return Histogram(MIN_TOP, counts, 0, 0, 0, 0, math.inf, -math.inf, 0, 0)


def folded(counts: Tensor, doublings: int) -> Tensor:
    """Counts under a top that is 2^doublings times as high: bins 2i and 2i + 1 become bin i."""
    if doublings == 0:
        return counts
    cells = (torch.arange(2 * BINS) - BINS) >> min(doublings, 62)  # arithmetic shift is floor
    return torch.zeros_like(counts).index_add_(0, cells + BINS, counts)


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of the values of both: exact, commutative and associative.

    Raises:
        ShapeError: both tell channels apart, and not the same number of them.
    """
    top = max(a.top, b.top)
    counts = [folded(h.counts, round(math.log2(top / h.top))) for h in (a, b)]
    return Histogram(
        top=top,
        counts=counts[0] + counts[1],
        size=a.size + b.size,
        zeros=a.zeros + b.zeros,
        nans=a.nans + b.nans,
        infs=a.infs + b.infs,
        min=min(a.min, b.min),
        max=max(a.max, b.max),
        exact_total=a.exact_total + b.exact_total,
        exact_squares=a.exact_squares + b.exact_squares,
        channel_min=_joined(a.channel_min, b.channel_min, torch.minimum),
        channel_max=_joined(a.channel_max, b.channel_max, torch.maximum),
    )


def _joined(
    a: Tensor | None, b: Tensor | None, extreme: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    """Channel limits of both, of one where the other has none."""
    if a is None or b is None:
        return b if a is None else a
    if a.shape != b.shape:
        raise ShapeError(
            "histograms",
            f"of {a.numel()} and of {b.numel()} channels cannot be merged",
            "Merge histograms of the same tensor",
        )
    return extreme(a, b)
