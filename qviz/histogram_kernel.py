"""The one pass over the data that ``Collector`` makes on a CPU, compiled by numba.

A tensor is walked in the order of its memory, sample by sample, in blocks that stay in the L1
cache. Each block is read four times from there, because each of the four loops alone compiles to
what the machine is good at and a fused one does not:

    _cells      largest |x|, zeros, bin numbers                        (wide vectors, 32 bits)
    _moments    sum, sum of squares                                    (wide vectors, 64 bits)
    _rows       smallest and largest value of every channel            (wide vectors, 32 bits)
    _count      one increment per value, into four copies of the       (scalar, no dependency
                histogram                                              between neighbours)

``_count`` leaves the memory idle, so it also asks for the next block.

The largest |x| is known before anything is counted: a block above the top first folds the counts,
a block with NaN or Inf is copied without them. So no value is ever miscounted and nothing has to
be undone.

This module imports numba; import it only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

BINS = 4096  # a side; histogram.BINS, repeated because numba wants a constant here
SLOTS = 2 * BINS
COPIES = 4
BLOCK = 4096
LONGEST_BLOCK = 2 * BLOCK
# From one copy to the next. A multiple of 4096 bytes would put the same bin of all copies at the
# same place of a page, which a CPU takes for the same address until it has looked closer.
SPAN = SLOTS + 48
FLUSH_AT = 2**30  # int32 copies are emptied long before one of their counters can overflow

# Places in the vector of integers that a collector hands in and gets back.
EXPONENT, ZEROS, NANS, INFS, PENDING = range(5)
STATE_SIZE = 5

# Places in the vector that describes how channels lie in memory.
SAMPLE, INNER, STEP = range(3)

_MAGNITUDE = np.int32(0x7FFFFFFF)
_INF_BITS = np.int32(0x7F800000)
_BIN = np.uint64(0xFFFF)
_SECOND, _THIRD, _FOURTH = np.uint64(SPAN), np.uint64(2 * SPAN), np.uint64(3 * SPAN)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
Words = NDArray[np.uint64]
Bins = NDArray[np.uint16]
Number = Any  # numpy scalars of a fixed width, which pass for int and float
Compiler = Any  # objects of numba and llvmlite, which have no types
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F, fastmath: set[str] | bool = False) -> F:
    """``njit`` with a cache on disk where one can be written, without one elsewhere.

    numba looks for a folder (NUMBA_CACHE_DIR, the package, the user's cache) when it decorates and
    raises where it finds none: a read-only installation costs a compilation, not the program.
    """
    try:
        made = njit(function, nogil=True, boundscheck=False, fastmath=fastmath, cache=True)
    except RuntimeError:
        made = njit(function, nogil=True, boundscheck=False, fastmath=fastmath)
    return cast(F, made)


def _cells_python(
    x: Floats, bits: Ints, bins: Bins, width: Number, inverse: Number
) -> tuple[Number, Number]:
    """Largest bits of |x|, zeros; ``bins`` is filled with bin numbers.

    Bin numbers are floor(x / width) + BINS. The conversion truncates, so a negative value that is
    not on an edge is one bin lower; comparing with the edge, not with the quotient, keeps this
    right where the quotient underflows. A value above the top gives nonsense, which the caller
    discards. numba computes with 64 bits unless told otherwise, and a vector holds half as many.
    """
    largest, zeros = np.int32(0), np.int32(0)
    for j in range(x.size):
        value = x[j]
        magnitude = np.int32(bits[j] & _MAGNITUDE)
        largest = magnitude if magnitude > largest else largest
        zeros = np.int32(zeros + np.int32(magnitude == np.int32(0)))
        cell = np.int32(value * inverse)
        cell = np.int32(cell - np.int32(value < np.float32(cell) * width))
        bins[j] = np.uint16(cell + np.int32(BINS))
    return largest, zeros


_cells = _compiled(_cells_python)


def _moments_python(x: Floats) -> tuple[float, float]:
    """Sum and sum of squares."""
    total, squares = 0.0, 0.0
    for j in range(x.size):
        wide = np.float64(x[j])
        total += wide
        squares += wide * wide
    return total, squares


# Sums may be reassociated into vector lanes: the order stays fixed for a given machine and length.
_moments = _compiled(_moments_python, {"reassoc", "nsz", "contract"})


def _prefetch_typed(context: Compiler, x: Compiler, place: Compiler) -> Compiler:
    """Ask for the cache line of ``x[place]``; harmless where ``x`` has no such place."""

    def generate(
        target: Compiler, builder: Compiler, signature: Compiler, arguments: Compiler
    ) -> Compiler:
        array = target.make_array(signature.args[0])(target, builder, arguments[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        )
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
        # to be read; into the L2 cache, as the L1 holds the block at work; data, not code
        builder.call(function, [address, word(0), word(2), word(1)])
        return target.get_dummy_value()

    return types.void(x, types.intp), generate


# numba cannot say this in Python: a load instead would make the count wait for the memory.
_prefetch = cast(Callable[[Floats, int], None], intrinsic(_prefetch_typed))


def _count_python(bins: Bins, words: Words, copies: Ints, x: Floats, next_block: int) -> None:
    """Increment; four bin numbers are loaded at once, each goes to a copy of its own."""
    size = bins.size
    for line in range(size >> 4):
        _prefetch(x, next_block + (line << 4))
        for j in range(line << 2, (line << 2) + 4):
            four = words[j]
            copies[four & _BIN] += np.int32(1)
            copies[((four >> np.uint64(16)) & _BIN) + _SECOND] += np.int32(1)
            copies[((four >> np.uint64(32)) & _BIN) + _THIRD] += np.int32(1)
            copies[(four >> np.uint64(48)) + _FOURTH] += np.int32(1)
    for j in range((size >> 4) << 4, size):
        copies[np.uint64(bins[j])] += np.int32(1)


_count = _compiled(_count_python)


def _row_python(x: Floats, low: Floats, high: Floats) -> None:
    """One row: value j belongs to entry j."""
    for j in range(x.size):
        value, below, above = x[j], low[j], high[j]
        low[j] = value if value < below else below
        high[j] = value if value > above else above


_row = _compiled(_row_python)


def _four_rows_python(x: Floats, low: Floats, high: Floats) -> None:
    """Four rows at once: one load and store of the limits instead of four."""
    length = low.size
    first, second = x[:length], x[length : 2 * length]
    third, fourth = x[2 * length : 3 * length], x[3 * length : 4 * length]
    for j in range(length):
        a, b, c, d = first[j], second[j], third[j], fourth[j]
        low_ab, low_cd = (a if a < b else b), (c if c < d else d)
        high_ab, high_cd = (a if a > b else b), (c if c > d else d)
        smallest = low_ab if low_ab < low_cd else low_cd
        largest = high_ab if high_ab > high_cd else high_cd
        below, above = low[j], high[j]
        low[j] = smallest if smallest < below else below
        high[j] = largest if largest > above else above


_four_rows = _compiled(_four_rows_python)


def _rows_python(x: Floats, start: int, low: Floats, high: Floats) -> None:
    """Channels innermost: entry (start + j) % length for value j."""
    length, size = low.size, x.size
    place = start % length
    at = 0
    if place:
        at = min(length - place, size)
        _row(x[:at], low[place : place + at], high[place : place + at])
    while at + 4 * length <= size:
        _four_rows(x[at : at + 4 * length], low, high)
        at += 4 * length
    while at < size:
        step = min(length, size - at)
        _row(x[at : at + step], low[:step], high[:step])
        at += step


_rows = _compiled(_rows_python)


def _ordered_python(bits: Number) -> Number:
    """Integer that sorts as the float with these bits does; its own inverse."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & _MAGNITUDE))


_ordered = _compiled(_ordered_python)


def _extremes_python(bits: Ints) -> tuple[Number, Number]:
    """Smallest and largest key; ``_ordered`` keys compare like the floats they came from.

    Integer minima become vector instructions, float minima would not without lying about NaN.
    """
    below, above = _MAGNITUDE, np.int32(~_MAGNITUDE)
    for j in range(bits.size):
        key = _ordered(bits[j])
        below = key if key < below else below
        above = key if key > above else above
    return below, above


_extremes = _compiled(_extremes_python)


def _runs_python(bits: Ints, start: int, inner: int, low: Floats, high: Floats) -> None:
    """Channels outside: runs of ``inner`` values belong to one entry."""
    key = np.empty(2, np.int32)
    limit = key.view(np.float32)
    at = 0
    while at < bits.size:
        place = start + at
        step = min(inner - place % inner, bits.size - at)
        channel = (place // inner) % low.size
        below, above = _extremes(bits[at : at + step])
        key[0], key[1] = _ordered(below), _ordered(above)  # the key of a key is the number
        low[channel] = min(low[channel], limit[0])
        high[channel] = max(high[channel], limit[1])
        at += step


_runs = _compiled(_runs_python)


def _flush_python(copies: Ints, counts: Counts, state: Counts) -> None:
    """Empty the four copies into the counts."""
    for copy in range(COPIES):
        for slot in range(SLOTS):
            counts[slot] += copies[SPAN * copy + slot]
            copies[SPAN * copy + slot] = 0
    state[PENDING] = 0


flush = _compiled(_flush_python)


def _grow_python(exponent: Number, copies: Ints, counts: Counts, state: Counts) -> None:
    """Raise the top to 2^exponent: every doubling folds bins 2i and 2i + 1 into bin i."""
    flush(copies, counts, state)
    doublings = min(exponent - state[EXPONENT], 62)
    folded = np.zeros(SLOTS, np.int64)
    for slot in range(SLOTS):
        folded[((slot - BINS) >> doublings) + BINS] += counts[slot]
    counts[:] = folded
    state[EXPONENT] = exponent


_grow = _compiled(_grow_python)


def _scales_python(exponent: Number) -> tuple[Number, Number, Number]:
    """Bits of the top, width of a bin and its inverse; 2^128 has the bits of infinity."""
    width = np.float32(2.0 ** (exponent - 12))
    inverse = np.float32(2.0 ** (12 - exponent))
    return np.int32((exponent + 127) << 23), width, inverse


_scales = _compiled(_scales_python)


def _compact_python(
    x: Floats, start: int, layout: Counts, low: Floats, high: Floats, kept: Floats, state: Counts
) -> int:
    """Copy the finite values of a block to ``kept``, note their limits; return how many."""
    inner = layout[INNER]
    count = 0
    for j in range(x.size):
        value = x[j]
        if np.isnan(value):
            state[NANS] += 1
        elif np.isinf(value):
            state[INFS] += 1
        else:
            channel = ((start + j) // inner) % low.size
            low[channel] = min(low[channel], value)
            high[channel] = max(high[channel], value)
            kept[count] = value
            count += 1
    return count


_compact = _compiled(_compact_python)


def _scan_python(
    x: Floats,
    bits: Ints,
    layout: Counts,
    limits: tuple[Floats, Floats],
    counters: tuple[Ints, Counts, Counts],
    sums: tuple[Doubles, Doubles],
) -> None:
    """Add one tensor to a collector's arrays.

    Args:
        x: the values in the order of memory, sample after sample.
        bits: the same memory as integers.
        layout: SAMPLE (values per sample), INNER (values of one channel in a row) and STEP (values
            per block).
        limits: smallest and largest value; entry (i // INNER) % len for value i of a sample.
        counters: the copies, the counts and the state.
        sums: one sum and one sum of squares per sample, written.
    """
    low, high = limits
    copies, counts, state = counters
    size, inner, step = layout[SAMPLE], layout[INNER], layout[STEP]
    words = np.empty(LONGEST_BLOCK // 4, np.uint64)
    bins = words.view(np.uint16)
    kept = np.empty(LONGEST_BLOCK, np.float32)
    kept_bits = kept.view(np.int32)
    for sample in range(sums[0].size):
        begin = sample * size
        total, squares = 0.0, 0.0
        for start in range(0, size, step):
            length = min(step, size - start)
            block = x[begin + start : begin + start + length]
            magnitudes = bits[begin + start : begin + start + length]
            top, width, inverse = _scales(state[EXPONENT])
            largest, zeros = _cells(block, magnitudes, bins[:length], width, inverse)
            finite = largest < _INF_BITS
            if not finite:
                length = _compact(block, start, layout, low, high, kept, state)
                block, magnitudes = kept[:length], kept_bits[:length]
                largest, zeros = _cells(block, magnitudes, bins[:length], width, inverse)
            if largest >= top:
                _grow((largest >> 23) - 126, copies, counts, state)
                top, width, inverse = _scales(state[EXPONENT])
                largest, zeros = _cells(block, magnitudes, bins[:length], width, inverse)
            moments = _moments(block)
            if finite and inner == 1:
                _rows(block, start, low, high)
            elif finite:
                _runs(magnitudes, start, inner, low, high)
            _count(bins[:length], words, copies, x, begin + min(start + step, size))
            total += moments[0]
            squares += moments[1]
            state[ZEROS] += zeros
            state[PENDING] += length
            if state[PENDING] > FLUSH_AT:
                flush(copies, counts, state)
        sums[0][sample] = total
        sums[1][sample] = squares


scan = _compiled(_scan_python)
