"""What qviz remembers of an activation: collect once, decide on ranges as often as wanted.

A histogram is signed and linear with ``BINS`` bins a side. Its top is the smallest power of two
above every value it saw; when a larger value comes, bins fold pairwise, which is exact. With it go
the exact minimum, maximum, sums and the number of zeros, NaN and Inf, and the minimum and maximum
of every channel. All of it is independent of batch order, batch size and of how many workers
collected it, bit for bit, so two runs over the same samples are the same run.

    collect(x)           Histogram of one tensor
    merge(a, b)          Histogram of both; exact, commutative, associative
    Collector            the same for a stream of batches, in one fast pass over each

On a CPU the pass is compiled by numba (histogram_kernel); on a GPU, or without numba, it is plain
torch (histogram_torch) with the same counts.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qviz.errors import ShapeError
from qviz.histogram_layout import Layout, as_floats, flatten
from qviz.histogram_sums import exact_sum
from qviz.histogram_torch import torch_histogram
from qviz.histogram_value import BINS, MIN_TOP, Histogram, empty, merge

__all__ = ["BINS", "MIN_TOP", "Collector", "Histogram", "collect", "empty", "merge"]

_PENDING_SUMS = 4096


@cache
def _kernel() -> ModuleType | None:
    """The compiled pass, imported when the first tensor comes; None where numba is missing."""
    try:
        return importlib.import_module("qviz.histogram_kernel")
    except ImportError:
        return None


def collect(x: Tensor, channel_dim: int | None = None, batch_dim: int | None = 0) -> Histogram:
    """The histogram of one tensor.

    Args:
        x: any shape and number type; anything but float32 is converted to it.
        channel_dim: axis whose entries get their own minimum and maximum.
        batch_dim: axis of the samples, None where ``x`` is one sample.

    Raises:
        ShapeError: an axis ``x`` does not have.
    """
    collector = Collector(channel_dim, batch_dim)
    collector.update(x)
    return collector.histogram()


class Collector:
    """Collects the histogram of a tensor over many batches.

    ``update`` holds no Python lock while it works, so several collectors may run in threads; one
    collector belongs to one thread at a time. Workers each keep their own and the results merge.

    Args:
        channel_dim: axis whose entries get their own minimum and maximum, None for none.
        batch_dim: axis of the samples; None where every batch is one sample (or the tensor has no
            such axis, as scores shared by a batch).
    """

    def __init__(self, channel_dim: int | None = None, batch_dim: int | None = 0) -> None:
        self.channel_dim = channel_dim
        self.batch_dim = batch_dim
        self._merged = empty()  # what did not go through the kernel
        self._kernel_arrays: _Arrays | None = None

    def update(self, x: Tensor) -> None:
        """Add one batch.

        Args:
            x: any shape and number type; read only, never copied where it is float32 without gaps.

        Raises:
            ShapeError: an axis ``x`` does not have, or another number of channels than before.
        """
        kernel = _kernel() if x.device.type == "cpu" else None
        if kernel is None:
            part = torch_histogram(x, self.channel_dim, self.batch_dim)
            self._merged = merge(self._merged, part)
            return
        memory, layout = flatten(as_floats(x), self.channel_dim, self.batch_dim)
        if self._kernel_arrays is None:
            self._kernel_arrays = _Arrays(kernel, layout)
        self._kernel_arrays.scan(memory, layout)

    def histogram(self) -> Histogram:
        """Everything collected so far; later updates do not change it.

        Raises:
            ShapeError: batches from different devices had different numbers of channels.
        """
        if self._kernel_arrays is None:
            return merge(self._merged, empty())
        return merge(self._merged, self._kernel_arrays.histogram())


class _Arrays:
    """The numpy arrays the compiled pass adds to."""

    def __init__(self, kernel: ModuleType, layout: Layout) -> None:
        self._kernel = kernel
        self._channels = layout.channels
        self._copies = np.zeros(kernel.COPIES * kernel.SPAN, np.int32)
        self._counts = np.zeros(2 * BINS, np.int64)
        self._state = np.zeros(kernel.STATE_SIZE, np.int64)
        self._state[kernel.EXPONENT] = round(math.log2(MIN_TOP))
        self._size = 0
        self._low = np.full(layout.channels or 1, np.inf, np.float32)
        self._high = np.full(layout.channels or 1, -np.inf, np.float32)
        self._pending: list[NDArray[np.float64]] = []
        self._pending_size = 0
        self._exact = [0, 0]

    def scan(self, memory: Tensor, layout: Layout) -> None:
        """Add one tensor, given as one row of memory."""
        if layout.channels != self._channels:
            raise ShapeError(
                "batch",
                f"has {layout.channels} channels where earlier ones had {self._channels}",
                "Collect tensors of different kinds separately",
            )
        if memory.numel() == 0:
            return
        values = memory.numpy()
        entries, inner, step = _walk(layout, self._kernel.BLOCK, self._kernel.LONGEST_BLOCK)
        low = np.full(entries, np.inf, np.float32)
        high = np.full(entries, -np.inf, np.float32)
        found = np.empty((2, layout.samples))
        self._kernel.scan(
            values,
            values.view(np.int32),
            np.array([layout.size, inner, step]),
            (low, high),
            (self._copies, self._counts, self._state),
            (found[0], found[1]),
        )
        self._size += memory.numel()
        shape = (-1, self._low.size, 1 if inner > 1 else layout.inner)
        np.minimum(self._low, low.reshape(shape).min((0, 2)), out=self._low)
        np.maximum(self._high, high.reshape(shape).max((0, 2)), out=self._high)
        self._keep(found)

    def _keep(self, found: NDArray[np.float64]) -> None:
        """Sums per sample wait for company: adding them exactly is slow one by one."""
        self._pending.append(found)
        self._pending_size += found.shape[1]
        if self._pending_size >= _PENDING_SUMS:
            self._settle()

    def _settle(self) -> None:
        for found in self._pending:
            for place in range(2):
                self._exact[place] += exact_sum(found[place])
        self._pending, self._pending_size = [], 0

    def histogram(self) -> Histogram:
        """Everything scanned so far."""
        self._settle()
        kernel, state = self._kernel, self._state
        kernel.flush(self._copies, self._counts, state)
        low, high = self._low + np.float32(0), self._high + np.float32(0)  # no -0
        told = self._channels is not None
        return Histogram(
            top=2.0 ** int(state[kernel.EXPONENT]),
            counts=torch.from_numpy(self._counts.copy()),
            size=self._size,
            zeros=int(state[kernel.ZEROS]),
            nans=int(state[kernel.NANS]),
            infs=int(state[kernel.INFS]),
            min=float(low.min(initial=np.inf)),
            max=float(high.max(initial=-np.inf)),
            exact_total=self._exact[0],
            exact_squares=self._exact[1],
            channel_min=torch.from_numpy(low) if told else None,
            channel_max=torch.from_numpy(high) if told else None,
        )


# Runs at least this long are reduced one by one; shorter ones side by side, a vector at a time.
_LONG_RUN = 32
_WIDE = 64


def _walk(layout: Layout, block: int, longest: int) -> tuple[int, int, int]:
    """Entries of the limits, values in a row per entry, values per block.

    Where runs are short, every position of a period is an entry of its own, and a short period is
    taken several times, so that the inner loop is always long; ``scan`` folds the entries.
    """
    channels = layout.channels or 1
    if layout.inner >= _LONG_RUN:
        return channels, layout.inner, block
    period = channels * layout.inner
    entries = math.lcm(period, 16)  # whole vectors, if that is not out of proportion
    if entries > 16 * _WIDE:
        entries = period
    entries *= -(-_WIDE // entries)
    rows = 4 * entries  # the kernel takes four rows at a time
    step = block // rows * rows or (rows if rows <= longest else block)
    return entries, 1, step
