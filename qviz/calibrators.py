"""Calibrators: from a histogram to the range that is quantized.

Every one is a pure function ``(h, grid, *, parameter=default) -> ClipRange`` in ``CALIBRATORS``. It
never changes the histogram, so all of them are tried on one pass over the data. They are named by a
spec, ``name`` or ``name:value[:value]``: "entropy", "percentile:99.9", "fixed:-1.5:2".

A range always holds 0. A symmetric grid gets [-amax, amax]; an affine grid gets both ends, and
[0, hi] where no value is negative. NaN and Inf are in no bin, so they move no range; the histogram
says how many there were.

To add one: write the function, give its parameters ``Annotated[float, Bounds(low, high)]``, and
decorate it with ``@calibrator``. It then appears in the app, the command line and the recipes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache, wraps
from typing import Annotated, Protocol, TypeVar, cast, get_type_hints

import numpy as np
from numpy.typing import NDArray

from qviz.affine import Grid
from qviz.errors import RangeError
from qviz.histogram import BINS, Histogram
from qviz.histogram_cost import ClipRange, Quality, check_data, costs, describe
from qviz.histogram_density import density
from qviz.range_search import KL_BINS, least_divergence, least_error
from qviz.range_search_amct import hfmg_ends, ifmr_ends

__all__ = [
    "CALIBRATORS",
    "DEFAULT_CANDIDATES",
    "Bounds",
    "Calibrator",
    "Candidate",
    "ClipRange",
    "Parameter",
    "Quality",
    "calibrator",
    "candidates",
    "clip_range",
    "describe",
    "parameters",
    "parse",
]


@dataclass(frozen=True)
class Bounds:
    """What a parameter may be: low <= value <= high."""

    low: float
    high: float


@dataclass(frozen=True)
class Parameter:
    """One parameter of a calibrator, as its signature declares it.

    Args:
        name: keyword.
        default: None where a value must be given.
        bounds: smallest and largest value.
    """

    name: str
    default: float | None
    bounds: Bounds


@dataclass(frozen=True)
class Candidate:
    """A calibrator's range with what it costs; the last five are those of ``Quality``.

    Args:
        calibrator: the spec that made it.
        range: its range.
        scale: size of one step on the grid asked for.
        clipped_fraction: share of the values whose code is clamped.
        mse: expected squared error per value.
        sqnr_db: signal over error.
        clipping_mse: the part of ``mse`` from clamped values.
        rounding_mse: the rest.
    """

    calibrator: str
    range: ClipRange
    scale: float
    clipped_fraction: float
    mse: float
    sqnr_db: float
    clipping_mse: float
    rounding_mse: float


class Calibrator(Protocol):
    """From a histogram and a grid to a range; parameters are keywords."""

    __name__: str

    def __call__(self, h: Histogram, grid: Grid, **parameters: float) -> ClipRange:
        """The range for ``h`` on ``grid``."""


CALIBRATORS: dict[str, Calibrator] = {}

DEFAULT_CANDIDATES = (
    "max",
    "entropy",
    "percentile:99.9",
    "percentile:99.99",
    "percentile:99.999",
    "percentile:99.9999",
    "mse",
    "sqnr",
)

C = TypeVar("C", bound=Callable[..., ClipRange])
Percent = Annotated[float, Bounds(50.0, 100.0)]
Weight = Annotated[float, Bounds(0.0, 1000.0)]
Real = Annotated[float, Bounds(-3.4e38, 3.4e38)]
Factor = Annotated[float, Bounds(0.01, 10.0)]
BinCount = Annotated[float, Bounds(256, 16384)]


def calibrator(name: str) -> Callable[[C], C]:
    """Register a calibrator under the name used in specs.

    What is registered also checks: that the histogram holds values, and the parameters' bounds.
    """

    def register(function: C) -> C:
        @wraps(function)
        def checked(h: Histogram, grid: Grid, **values: float) -> ClipRange:
            check_data(h)
            _check_values(name, parameters(name), values)
            return function(h, grid, **values)

        CALIBRATORS[name] = checked
        return cast(C, checked)

    return register


def _check_values(name: str, known: tuple[Parameter, ...], values: Mapping[str, float]) -> None:
    for parameter in known:
        value = values.get(parameter.name, parameter.default)
        if value is None:
            wanted = ":".join([name, *(p.name for p in known)])
            raise RangeError(
                f"calibrator {name!r}", f"needs a value for {parameter.name}", f"Write {wanted!r}"
            )
        low, high = parameter.bounds.low, parameter.bounds.high
        if not low <= value <= high:  # NaN is not
            raise RangeError(
                f"calibrator {name!r}",
                f"{parameter.name} = {value:g} is not in {low:g} to {high:g}",
                "Pass a value in that range",
            )


def _range(lo: float, hi: float, grid: Grid) -> ClipRange:
    """[lo, hi] widened to hold 0, and to its mirror image on a symmetric grid."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    if not grid.symmetric:
        return ClipRange(lo, hi)
    amax = max(-lo, hi)
    return ClipRange(-amax, amax)


@calibrator("max")
def maximum(h: Histogram, grid: Grid) -> ClipRange:
    """Everything the tensor was seen to be: nothing is clipped, one outlier sets the step."""
    return _range(h.min, h.max, grid)


@calibrator("entropy")
def entropy(h: Histogram, grid: Grid) -> ClipRange:
    """The range whose quantized distribution has the least KL divergence from the real one.

    TensorRT's search, on magnitudes in at most ``KL_BINS`` bins with one level per code of a sign.
    It is defined for amax; on an affine grid the amax found cuts the data on both sides, and data
    on one side of zero has all codes there (256 at 8 bits).
    """
    counts = h.magnitudes()
    width = h.width
    while (used := int(np.flatnonzero(counts)[-1]) + 1) > KL_BINS:
        counts, width = counts[0::2] + counts[1::2], 2 * width
    one_sided = not grid.signed and (h.min >= 0 or h.max <= 0)
    levels = 2 ** (grid.bits - (0 if one_sided else 1))
    amax = min(least_divergence(counts[:used], levels) * width, h.amax)
    return _range(max(h.min, -amax), min(h.max, amax), grid)


@calibrator("percentile")
def percentile(h: Histogram, grid: Grid, *, percent: Percent = 99.99) -> ClipRange:
    """The range that holds ``percent`` of the values.

    Of magnitudes on a symmetric grid, and where the data is on one side of zero; on an affine grid
    both tails are cut by half of the rest each. Where so many values are exactly 0 that the
    percentile is 0 as well, it is taken of the others: a range of [0, 0] would lose the tensor.
    """
    share = percent / 100
    if not grid.symmetric and h.min < 0 < h.max:
        tail = (1 - share) / 2
        negative = h.counts.numpy()[BINS - 1 :: -1]
        lo = -_quantile(negative, h.width, h.finite, 1 - tail)
        hi = _quantile(h.counts.numpy()[BINS:], h.width, h.finite, 1 - tail)
        return _range(max(lo, h.min), min(hi, h.max), grid)
    counts, size = h.magnitudes(), h.finite
    if h.zeros >= share * size and h.zeros < size:
        counts[0] -= h.zeros
        size -= h.zeros
    amax = min(_quantile(counts, h.width, size, share), h.amax)
    return _range(max(h.min, -amax), min(h.max, amax), grid)


def _quantile(counts: NDArray[np.int64], width: float, size: int, share: float) -> float:
    """The point with at most ``(1 - share) * size`` values above, even inside a bin.

    ``counts`` start at 0 and may be one side of a distribution of ``size`` values.
    """
    above = np.append(np.cumsum(counts[::-1])[::-1], 0)  # values in bin i and beyond
    allowed = (1 - share) * size
    # The first bin that leaves no more than allowed beyond it.
    cell = int(np.argmax(above[1:] <= allowed))
    if counts[cell] == 0:
        return cell * width
    return (cell + min(1.0, float((above[cell] - allowed) / counts[cell]))) * width


@calibrator("mse")
def mean_squared_error(h: Histogram, grid: Grid) -> ClipRange:
    """The range of least expected squared error of quantize and dequantize."""
    return _searched(h, grid, 1.0)


@calibrator("sqnr")
def signal_to_noise(h: Histogram, grid: Grid, *, gamma: Weight = 3.0) -> ClipRange:
    """The range of best signal to noise ratio where clipping noise counts ``gamma`` times.

    AIMET's rule: a clipped value is off by more than any rounded one, and networks feel it more.
    gamma = 1 is ``mse``; larger values clip less.
    """
    return _searched(h, grid, gamma)


def _searched(h: Histogram, grid: Grid, clip_weight: float) -> ClipRange:
    values = density(h)
    if values is None:
        return _range(0.0, 0.0, grid)
    return _range(*least_error(values, h.min, h.max, grid, clip_weight), grid)


@calibrator("ifmr")
def ifmr(
    h: Histogram,
    grid: Grid,
    *,
    max_percent: Percent = 99.9999,
    min_percent: Percent = 99.9999,
    start: Factor = 0.7,
    stop: Factor = 1.3,
    step: Factor = 0.01,
) -> ClipRange:
    """AMCT's default: a percentile, then the factor of its upper end with the least squared error.

    The range may reach beyond what was seen; on an affine grid the lower end stays the percentile.
    """
    values = density(h)
    if values is None:
        return _range(0.0, 0.0, grid)
    share = max_percent / 100, min_percent / 100
    search = (start, stop, step)
    ends = ifmr_ends(h, values, grid, top=share[0], bottom=share[1], search=search)
    return _range(*ends, grid)


@calibrator("hfmg")
def hfmg(h: Histogram, grid: Grid, *, bins: BinCount = 4096) -> ClipRange:
    """AMCT's histogram search: the range shrinks greedily, the least squared error on the way wins.

    Its error is that of 2^b even levels over the range, whatever the grid: a zero is a value like
    any other, and a symmetric grid takes the larger end of the range found.
    """
    if h.min == h.max:
        return _range(h.min, h.max, grid)
    return _range(*hfmg_ends(h, grid, int(bins)), grid)


@calibrator("fixed")
def fixed(h: Histogram, grid: Grid, *, lo: Real, hi: Real) -> ClipRange:
    """The range given, whatever the data; mirrored to its larger side on a symmetric grid."""
    return _range(ClipRange(lo, hi).lo, hi, grid)


def parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters of a calibrator in the order a spec gives them, from its signature.

    Raises:
        RangeError: no such calibrator.
    """
    return _declared(cast(Callable[..., ClipRange], _named(name)))


@cache  # reading a signature takes longer than most calibrators
def _declared(function: Callable[..., ClipRange]) -> tuple[Parameter, ...]:
    hints = get_type_hints(function, include_extras=True)
    return tuple(
        Parameter(key, None if p.default is p.empty else p.default, hints[key].__metadata__[0])
        for key, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    )


def _named(name: str) -> Calibrator:
    if name not in CALIBRATORS:
        raise RangeError(
            f"calibrator {name!r}", "does not exist", f"Use one of {', '.join(CALIBRATORS)}"
        )
    return CALIBRATORS[name]


def parse(spec: str) -> tuple[str, dict[str, float]]:
    """A spec as name and parameters: "percentile:99.9" -> ("percentile", {"percent": 99.9}).

    Raises:
        RangeError: no such calibrator, too many values, a value that is not a number, one that is
            out of bounds or one that is missing.
    """
    name, *texts = spec.strip().split(":")
    known = parameters(name)
    if len(texts) > len(known):
        raise RangeError(
            f"calibrator {spec!r}",
            f"{name} takes {len(known)} values, not {len(texts)}",
            f"Write {':'.join([name, *(p.name for p in known)])!r}",
        )
    values = {}
    for parameter, text in zip(known, texts, strict=False):
        try:
            values[parameter.name] = float(text)
        except ValueError:
            raise RangeError(
                f"calibrator {spec!r}",
                f"{parameter.name} is {text!r}",
                "Write a number",
            ) from None
    _check_values(name, known, values)
    return name, values


def clip_range(h: Histogram, spec: str, grid: Grid) -> ClipRange:
    """The range a calibrator chooses.

    Args:
        h: of at least one finite value.
        spec: "name" or "name:value[:value]".
        grid: what the range is for.

    Raises:
        RangeError: the spec is wrong, or the histogram saw no finite value.
    """
    name, values = parse(spec)
    return CALIBRATORS[name](h, grid, **values)


def candidates(
    h: Histogram, grid: Grid, specs: Sequence[str] = DEFAULT_CANDIDATES
) -> tuple[Candidate, ...]:
    """The ranges of several calibrators with what each costs, in the order of ``specs``.

    Raises:
        RangeError: a spec is wrong, or the histogram saw no finite value.
    """
    ranges = [clip_range(h, spec, grid) for spec in specs]
    qualities, scales = costs(h, ranges, grid)
    return tuple(
        Candidate(spec, clip, scale, *astuple(quality))
        for spec, clip, scale, quality in zip(specs, ranges, scales, qualities, strict=True)
    )
