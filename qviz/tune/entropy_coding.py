"""Huffman coding of integer codes: what a weight costs to ship, as bytes that can be decoded.

The third stage of Deep Compression (Han et al. 2016, arXiv 1510.00149, section 4). Codes that occur
often take few bits: on average at least their entropy, and less than one bit more (Huffman 1952).
The code is canonical: from the lengths alone both sides derive the same bits, so that the lengths
are all that has to be stored beside the data:

    4 bytes   number of codes
    2 bytes   lowest code
    1 byte    number of different values from the lowest to the highest, less one
    1 byte    w, bits per length; 0 if all codes are equal, and then nothing follows
    lengths   w bits for each of those values, 0 for one that does not occur
    data      the bits of every code, in order

Lengths and data end on whole bytes.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qviz.errors import DataError, RangeError

Codes = NDArray[np.integer]
_HEAD = struct.Struct("<IhBB")
#: Different values that a table can hold: the span is one byte.
MOST_VALUES = 256
#: Bit positions that are decoded together.
_CHUNK = 1 << 20
_WORD = 64


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Shannon's bound in bits for all symbols together, of how often each occurs."""
    used = counts[counts > 0].astype(np.float64)
    total = used.sum()
    return float((used * np.log2(total / used)).sum()) if total else 0.0


def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of each symbol in a Huffman code; 0 for one that does not occur, or is alone.

    Args:
        counts: how often each symbol occurs.
    """
    lengths = np.zeros(len(counts), dtype=np.int64)
    heap: list[tuple[int, int, tuple[int, ...]]]
    heap = [(int(n), i, (i,)) for i, n in enumerate(counts) if n]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        lengths[list(members)] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), members))
    return lengths


@dataclass(frozen=True, eq=False)
class Table:
    """A canonical Huffman code.

    Attributes:
        lowest: the symbol that ``lengths`` begins with.
        lengths: bits of each symbol, 0 for one that does not occur.
    """

    lowest: int
    lengths: NDArray[np.int64]

    @property
    def width(self) -> int:
        """Bits that each length takes in the stored table."""
        return int(self.lengths.max()).bit_length()

    @property
    def bytes(self) -> int:
        """Size of head and table as they are stored."""
        return _HEAD.size + -(-self.width * len(self.lengths) // 8)

    def words(self) -> NDArray[np.uint64]:
        """The bits of each symbol as a number: shorter codes first, then lower symbols."""
        found = np.zeros(len(self.lengths), dtype=np.uint64)
        word, before = 0, 0
        for symbol in self._order():
            length = int(self.lengths[symbol])
            word <<= length - before
            found[symbol] = word
            word, before = word + 1, length
        return found

    def _order(self) -> list[int]:
        used = np.flatnonzero(self.lengths)
        return [int(i) for i in used[np.lexsort((used, self.lengths[used]))]]


def _counted(codes: Codes) -> tuple[int, NDArray[np.int64]]:
    """The lowest code, and how often each from there to the highest occurs."""
    lowest = int(codes.min())
    if int(codes.max()) - lowest >= MOST_VALUES:
        raise RangeError(
            f"codes from {lowest} to {int(codes.max())}",
            f"a table holds at most {MOST_VALUES} different values",
            "Code integers of at most 8 bits",
        )
    return lowest, np.bincount(codes.ravel().astype(np.int64) - lowest)


def encoded_bytes(codes: Codes) -> int:
    """``len(encode(codes))``, without writing the bits."""
    if not codes.size:
        return _HEAD.size
    lowest, counts = _counted(codes)
    table = Table(lowest, code_lengths(counts))
    return table.bytes + -(-int((counts * table.lengths).sum()) // 8)


def entropy_bytes(codes: Codes) -> int:
    """The least number of whole bytes that codes of these frequencies need, without any table."""
    return -int(-entropy_bits(_counted(codes)[1]) // 8) if codes.size else 0


def encode(codes: Codes) -> bytes:
    """Huffman-code integers.

    Args:
        codes: any shape; the highest is less than 256 above the lowest.

    Returns:
        Head, table and data, which ``decode`` reads.

    Raises:
        RangeError: the codes spread too wide.
    """
    if not codes.size:
        return _HEAD.pack(0, 0, 0, 0)
    lowest, counts = _counted(codes)
    table = Table(lowest, code_lengths(counts))
    head = _HEAD.pack(codes.size, lowest, len(counts) - 1, table.width)
    lengths = _packed(_bits(table.lengths.astype(np.uint64), table.width).ravel())
    symbols = codes.ravel().astype(np.int64) - lowest
    return head + lengths + _packed(_data(symbols, table))


def _data(symbols: NDArray[np.int64], table: Table) -> NDArray[np.uint8]:
    """The bits of every symbol, one after the other."""
    lengths, words = table.lengths[symbols], table.words()[symbols]
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]), dtype=np.uint8)
    for back in range(int(table.lengths.max())):  # the last bit of all symbols, the one before ...
        has = lengths > back
        bits[ends[has] - 1 - back] = (words[has] >> np.uint64(back)) & np.uint64(1)
    return bits


def _bits(values: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """``[n, width]``: the bits of each value, highest first."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint64)
    return ((values[:, None] >> shifts) & np.uint64(1)).astype(np.uint8)


def _packed(bits: NDArray[np.uint8]) -> bytes:
    return np.packbits(bits).tobytes()


def decode(data: bytes) -> NDArray[np.int16]:
    """What was encoded, flat.

    Raises:
        DataError: the bytes are not what ``encode`` wrote, or cut short.
    """
    if len(data) < _HEAD.size:
        raise _damaged("its head is cut off")
    count, lowest, span, width = _HEAD.unpack_from(data)
    if not width:
        return np.full(count, lowest, dtype=np.int16)
    rest = np.frombuffer(data, dtype=np.uint8, offset=_HEAD.size)
    held = -(-width * (span + 1) // 8)
    if len(rest) < held:
        raise _damaged("its table is cut off")
    bits = np.unpackbits(rest[:held])[: width * (span + 1)].reshape(span + 1, width)
    lengths = bits.astype(np.int64) @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))
    table = Table(lowest, lengths)
    kraft = (2.0 ** -lengths[lengths > 0].astype(np.float64)).sum()
    if kraft != 1.0 or lengths.max() > _WORD - 8:
        raise _damaged("its table is no complete code")
    found: NDArray[np.int16] = (_symbols(rest[held:], count, table) + lowest).astype(np.int16)
    return found


def _symbols(data: NDArray[np.uint8], count: int, table: Table) -> NDArray[np.int64]:
    """Decode ``count`` symbols.

    Which symbol would begin at a bit is looked up for all bits of a chunk at once; only the walk
    from each symbol to the next is done one by one.
    """
    order = np.array(table._order())
    lengths = table.lengths[order]
    # Each symbol's first bits, moved to the upper end of a word; these are ascending.
    firsts = table.words()[order] << (_WORD - lengths).astype(np.uint64)
    padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    found: list[NDArray[np.int64]] = []
    at, total, missing = 0, 8 * len(data), count
    while missing and at < total:
        start, size = at, min(_CHUNK, total - at)
        which = np.searchsorted(firsts, _windows(padded, start, size), side="right") - 1
        steps = lengths[which].tolist()
        places: list[int] = []
        here = 0
        while here < size and len(places) < missing:
            places.append(here)
            here += steps[here]
        found.append(which[places])
        at, missing = start + here, missing - len(places)
    if missing or at > total:
        raise _damaged("its data are cut off")
    return order[np.concatenate(found)]


def _windows(data: NDArray[np.uint8], start: int, size: int) -> NDArray[np.uint64]:
    """The 57 bits from each of ``size`` bit positions on, at the upper end of a word."""
    places = np.arange(start, start + size)
    first, inside = places >> 3, (places & 7).astype(np.uint64)
    low = first[0]
    part = data[low : first[-1] + 8].astype(np.uint64)
    words = np.zeros(int(first[-1] - low) + 1, dtype=np.uint64)
    for i in range(8):
        words |= part[i : i + len(words)] << np.uint64(8 * (7 - i))
    windows: NDArray[np.uint64] = words[first - low] << inside
    return windows


def _damaged(reason: str) -> DataError:
    return DataError("Huffman-coded codes", reason, "Encode the codes again")
