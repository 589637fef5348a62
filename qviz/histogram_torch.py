"""A histogram in plain torch: for tensors on a GPU, and where numba cannot be imported.

Its counts, limits and numbers of zeros, NaN and Inf equal those of the compiled pass bit for bit;
its sums are taken in another order within a sample, so they may differ in the last digit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qviz.histogram_layout import Layout, as_floats, flatten
from qviz.histogram_sums import exact_sum
from qviz.histogram_value import BINS, MIN_TOP, Histogram

_CHUNK = 2**22  # values binned at a time: bounds the memory of the float64 copies


def torch_histogram(x: Tensor, channel_dim: int | None, batch_dim: int | None) -> Histogram:
    """The histogram of one tensor on any device.

    Args:
        x: any shape and number type.
        channel_dim: axis of the channels, None not to tell them apart.
        batch_dim: axis of the samples, None where ``x`` is one sample.

    Raises:
        ShapeError: an axis ``x`` does not have.
    """
    values, layout = flatten(as_floats(x), channel_dim, batch_dim)
    finite = values.isfinite()
    low = _smallest(torch.where(finite, values, math.inf), layout)
    high = -_smallest(torch.where(finite, -values, math.inf), layout) + 0.0
    rows = torch.where(finite, values, 0.0).view(layout.samples, layout.size).to(torch.float64)
    amax = rows.abs().max().item() if rows.numel() else 0.0
    top = max(MIN_TOP, 2.0 ** math.frexp(amax)[1]) if amax > 0 else MIN_TOP
    told = layout.channels is not None
    return Histogram(
        top=top,
        counts=_counts(values[finite], top).cpu(),
        size=values.numel(),
        zeros=int((values == 0).sum()),
        nans=int(values.isnan().sum()),
        infs=int(values.isinf().sum()),
        min=min(low.tolist(), default=math.inf),
        max=max(high.tolist(), default=-math.inf),
        exact_total=exact_sum(rows.sum(1).cpu().numpy()),  # (B, N) -> (B,)
        exact_squares=exact_sum(rows.square().sum(1).cpu().numpy()),
        channel_min=low.cpu() if told else None,
        channel_max=high.cpu() if told else None,
    )


def _smallest(values: Tensor, layout: Layout) -> Tensor:
    """Smallest value of every channel, [C] ([1] where they are not told apart)."""
    channels = 1 if layout.channels is None else layout.channels
    if values.numel() == 0:
        return torch.full((channels,), math.inf)
    # Adding 0 turns -0 into 0, which a minimum may or may not return.
    return values.view(-1, channels, layout.inner).amin((0, 2)) + 0.0


def _counts(values: Tensor, top: float) -> Tensor:
    """int64 [2 * BINS]. In float64 the quotient never underflows, so floor is exact."""
    counts = torch.zeros(2 * BINS, dtype=torch.int64, device=values.device)
    for part in values.split(_CHUNK):
        cells = torch.floor(part.to(torch.float64) * (BINS / top)).to(torch.int64) + BINS
        counts += torch.bincount(cells, minlength=2 * BINS)
    return counts
