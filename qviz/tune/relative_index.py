"""Pruned weights as what is left of them: values and the gaps between them, both Huffman-coded.

Deep Compression stores a sparse weight by relative index (Han et al. 2016, arXiv 1510.00149,
section 2 and figure 2): before every value stands how many zeros come before it, in few bits; a
longer gap gets a filler, a value of zero at its end. A Huffman code of the dense codes spends at
least one bit on every zero; this spends none on most of them, so it is the smaller one once most
weights are zero.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from qviz.errors import DataError
from qviz.tune import entropy_coding
from qviz.tune.entropy_coding import Codes

#: Zeros that one gap can count: 5 bits, as in the paper's fully connected layers.
LONGEST_GAP = 31
_HEAD = struct.Struct("<II")


def sparse(codes: Codes) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Values and the number of zeros before each of them; zeros at the end are left out.

    Args:
        codes: any shape, read in row-major order.
    """
    flat = codes.ravel()
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    fillers = gaps // (LONGEST_GAP + 1)  # each stands for LONGEST_GAP zeros and is one itself
    ends = np.cumsum(fillers + 1) - 1
    values = np.zeros(len(places) + int(fillers.sum()), dtype=np.int16)
    between = np.full(len(values), LONGEST_GAP, dtype=np.int16)
    values[ends] = flat[places]
    between[ends] = gaps % (LONGEST_GAP + 1)
    return values, between


def dense(values: NDArray[np.int16], gaps: NDArray[np.int16], count: int) -> NDArray[np.int16]:
    """All ``count`` codes of which ``sparse`` gave the values and gaps.

    Raises:
        DataError: there are more values than codes.
    """
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(places) and places[-1] >= count:
        raise DataError("sparse codes", "they reach beyond the last code", "Encode the codes again")
    found = np.zeros(count, dtype=np.int16)
    found[places] = values
    return found


def encode(codes: Codes) -> bytes:
    """Values and gaps, each with a Huffman code of its own; ``decode`` reads it."""
    values, gaps = sparse(codes)
    first = entropy_coding.encode(values)
    return _HEAD.pack(codes.size, len(first)) + first + entropy_coding.encode(gaps)


def decode(data: bytes) -> NDArray[np.int16]:
    """What was encoded, flat.

    Raises:
        DataError: the bytes are not what ``encode`` wrote, or cut short.
    """
    if len(data) < _HEAD.size:
        raise DataError("sparse codes", "their head is cut off", "Encode the codes again")
    count, length = _HEAD.unpack_from(data)
    values = entropy_coding.decode(data[_HEAD.size : _HEAD.size + length])
    gaps = entropy_coding.decode(data[_HEAD.size + length :])
    if len(values) != len(gaps):
        raise DataError("sparse codes", "values and gaps do not match", "Encode the codes again")
    return dense(values, gaps, count)


def encoded_bytes(codes: Codes) -> int:
    """``len(encode(codes))``, without writing the bits."""
    return _HEAD.size + sum(entropy_coding.encoded_bytes(part) for part in sparse(codes))
