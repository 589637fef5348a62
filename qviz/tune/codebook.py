"""Weights from a codebook: k-means over each weight, stored as numbers of b bits.

Deep Compression's second stage (Han et al. 2016, arXiv 1510.00149, section 3): the weights of a
layer are clustered into ``2^b`` values by k-means (eq. 2: least sum of squared distances), begun
from values spaced evenly between the smallest and the largest weight (section 3.2, where that
beats random and density-based beginnings). What is stored is one number per weight and the values.
The training of the values that follows in the paper is not part of it.

The integer model rounds the values to its grid and runs as before: this saves storage, no time.
Weights that are exactly zero, which pruning leaves, stay zero and take one of the values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from qviz.tune.sizes import FLOAT, WeightSize, weight_size
from qviz.tune.step import Option, Step, Subject
from qviz.tune.storing import (
    Replaced,
    Stored,
    codes_in_grid,
    codes_size,
    replaced,
    sqnr_db,
    stored_weights,
)

TITLE = "Codebook"
OPTIONS = (
    Option("bits", 6, "bits per weight: 2^bits different values in each weight", 1, 7),
    Option("iterations", 100, "most iterations of k-means; it ends when nothing moves", 0, 10_000),
)

NOTE = (
    "sizes are of the numbers and the codebook; a checkpoint of the recipe holds the codes that "
    "the codebook's values round to, which take more"
)

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clusters:
    """What k-means found.

    Attributes:
        centres: ascending.
        labels: index of the nearest centre of each value, the lower one of two at equal distance.
        iterations: until no value changed its centre, or as many as were allowed.
    """

    centres: Reals
    labels: NDArray[np.int64]
    iterations: int


def kmeans(values: Reals, k: int, iterations: int) -> Clusters:
    """Lloyd's algorithm in one dimension, from evenly spaced centres.

    The values are sorted once; a cluster is a stretch of them, its sum a difference of two running
    sums. A centre that no value is nearest to stays where it is.

    Args:
        values: ``[n]``, at least one.
        k: number of centres.
        iterations: at most.
    """
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    running = np.concatenate([[0.0], np.cumsum(ascending)])
    centres = np.linspace(ascending[0], ascending[-1], k)
    ends = _ends(ascending, centres)
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007 - how far it came is part of the result
        counts = np.diff(ends)
        means = np.diff(running[ends]) / np.maximum(counts, 1)
        centres = np.where(counts > 0, means, centres)
        moved = _ends(ascending, centres)
        if np.array_equal(moved, ends):
            break
        ends = moved
    labels = np.empty(len(values), dtype=np.int64)
    labels[order] = np.repeat(np.arange(k), np.diff(ends))
    return Clusters(centres, labels, done)


def _ends(ascending: Reals, centres: Reals) -> NDArray[np.int64]:
    """Where the stretch of each centre begins and ends: ``[k + 1]``."""
    middles = (centres[1:] + centres[:-1]) / 2
    inner = np.searchsorted(ascending, middles, side="right")
    return np.concatenate([[0], inner, [len(ascending)]])


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops whose weight has more codes than the smallest codebook, largest first."""
    return _sites(subject, 1)


def _sites(subject: Subject, bits: int) -> tuple[str, ...]:
    found = stored_weights(subject)
    return tuple(op for op, (_, width) in found.items() if codes_in_grid(width) > 1 << bits)


def apply(subject: Subject, *, bits: int = 6, iterations: int = 100) -> Step:
    """Replace every integer weight by the values of its codebook.

    Args:
        subject: what to change.
        bits: per weight.
        iterations: of k-means, at most.

    Raises:
        TuneError: no op has an integer weight of more codes than the codebook.
        NotFiniteError: a weight holds NaN or Inf.
    """

    def one(stored: Stored) -> Replaced:
        return _clustered(stored, bits, iterations)

    step = replaced(subject, TITLE, _sites(subject, bits), one)
    return replace(step, notes=(NOTE, *step.notes))


def _clustered(stored: Stored, bits: int, iterations: int) -> Replaced:
    flat = stored.value.reshape(-1).double().numpy()
    kept = flat == 0
    k = (1 << bits) - int(kept.any())
    index = np.zeros(flat.size, dtype=np.int64)
    values = np.zeros(flat.size)
    done = 0
    if not kept.all():
        found = kmeans(flat[~kept], k, iterations)
        index[~kept] = found.labels + int(kept.any())
        values[~kept] = found.centres[found.labels]
        done = found.iterations
    new = torch.from_numpy(values).to(torch.float32).reshape(stored.value.shape)
    db = sqnr_db(stored.value, new)
    return Replaced(
        value=new,
        keeps_grid=False,
        before=codes_size(stored, stored.value),
        after=_index_size(stored.op, index, bits, stored.scales),
        note=f"{1 << bits} values after {done} iterations, {db:.1f} dB",
    )


def _index_size(op: str, index: NDArray[np.int64], bits: int, scales: int) -> WeightSize:
    """Of the numbers of the values, with a codebook of floats beside them."""
    values = 1 << bits
    found = weight_size(op, index, bits, scales + values)
    # the codebook is the list of values
    return replace(found, indexed_bytes=-(-index.size * bits // 8) + FLOAT * (scales + values))
