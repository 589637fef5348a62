"""What a clip range costs, computed from the histogram: clipped values, expected error, SQNR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qviz.affine import Grid, range_params
from qviz.errors import RangeError
from qviz.histogram import Histogram
from qviz.histogram_density import clipped, density, squared_error


@dataclass(frozen=True)
class ClipRange:
    """A range of reals: values outside are clipped to its ends.

    Raises:
        RangeError: an end is not finite, or lo > hi.
    """

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi)) or self.lo > self.hi:
            raise RangeError(
                f"range {self.lo:g} to {self.hi:g}",
                "is not a range",
                "Pass two finite numbers, the smaller first",
            )

    @property
    def amax(self) -> float:
        """Largest magnitude."""
        return max(-self.lo, self.hi)


@dataclass(frozen=True)
class Quality:
    """What a range costs, computed from the histogram.

    Args:
        clipped_fraction: share of the values whose code is clamped.
        mse: expected squared error per value, in squared units of the tensor.
        sqnr_db: 10 log10(sum x^2 / sum error^2); inf where nothing is lost.
        clipping_mse: the part of ``mse`` from values whose code is clamped.
        rounding_mse: the rest.
    """

    clipped_fraction: float
    mse: float
    sqnr_db: float
    clipping_mse: float
    rounding_mse: float


def check_data(h: Histogram) -> None:
    """RangeError where there is nothing to choose a range from."""
    if h.finite == 0:
        seen = f"saw {h.size} values, all NaN or infinite" if h.size else "saw no data"
        raise RangeError(
            "histogram", seen, "Calibrate on samples that reach this tensor with finite values"
        )


def describe(h: Histogram, clip: ClipRange, grid: Grid) -> Quality:
    """What one range costs, for any range: this is what a dragged line on the histogram shows.

    Raises:
        RangeError: the histogram saw no finite value.
    """
    return costs(h, [clip], grid)[0][0]


def costs(
    h: Histogram, ranges: Sequence[ClipRange], grid: Grid
) -> tuple[list[Quality], list[float]]:
    """Cost of every range, and the size of its step."""
    check_data(h)
    if not ranges:
        return [], []
    ends = torch.tensor([[clip.lo, clip.hi] for clip in ranges], dtype=torch.float64)
    params = range_params(ends[:, 0], ends[:, 1], grid, axis=0)
    values = density(h)
    none = np.zeros(len(ranges))
    error = none if values is None else squared_error(values, params)
    count, clipping = (none, none) if values is None else clipped(values, params)
    qualities = []
    for total, lost, number in zip(error, clipping, count, strict=True):
        mse, clipping_mse = float(total) / h.finite, float(min(lost, total)) / h.finite
        sqnr_db = 10 * math.log10(h.total_squares / h.finite / mse) if mse > 0 else math.inf
        share = float(number) / h.finite
        qualities.append(Quality(share, mse, sqnr_db, clipping_mse, mse - clipping_mse))
    return qualities, params.scale.tolist()
