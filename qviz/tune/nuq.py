"""Non-uniform steps (NUQ): of a weight's uniform codes only some are used.

AMCT's non-uniform quantization ("NUQ algorithm for weight quantization", hiascend.com, AMCT
documentation): on top of uniform quantization a subset of ``num_steps`` of its steps represents
the weights, searched in ``num_of_iteration`` iterations. How AMCT searches is not published; here
it is Lloyd's algorithm (Lloyd 1982) on the weights in units of their scale, with every centre
rounded to a code. A rounded mean is the best code for what is nearest to it, so the squared error
never grows from one iteration to the next.

Codes stay codes of the same grid, so that the kernels compute with them as before; fewer different
ones take fewer bits to store. Code 0 is always kept: zeros stay zeros.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qviz.affine import Grid
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

TITLE = "Non-uniform steps (NUQ)"
OPTIONS = (
    Option("num_steps", 32, "codes that each weight may use, 0 among them", 2, 254),
    Option("num_of_iteration", 50, "most iterations; it ends when no step moves", 0, 10_000),
)

Reals = NDArray[np.float64]
Steps = NDArray[np.int64]


def first_steps(low: int, high: int, count: int) -> Steps:
    """Codes spaced evenly from ``low`` to ``high``, 0 instead of the one nearest to it.

    Args:
        low: smallest code in use, at most 0.
        high: largest, at least 0.
        count: of codes; fewer come back where there are no more.
    """
    steps = np.unique(np.rint(np.linspace(low, high, count)).astype(np.int64))
    steps[np.argmin(np.abs(steps))] = 0
    return np.unique(steps)


def nearest(values: Reals, steps: Steps) -> Steps:
    """The nearest step to each value, the lower one of two at equal distance."""
    middles = (steps[1:] + steps[:-1]) / 2
    found: Steps = steps[np.searchsorted(middles, values, side="left")]
    return found


def choose_steps(values: Reals, steps: Steps, iterations: int) -> Steps:
    """Move steps to where the values are.

    A step that no value is nearest to stays; of two that meet one is left.

    Args:
        values: ``[n]``, weights divided by their scale.
        steps: to begin with, ascending, 0 among them.
        iterations: at most.
    """
    for _ in range(iterations):
        middles = (steps[1:] + steps[:-1]) / 2
        which = np.searchsorted(middles, values, side="left")
        counts = np.bincount(which, minlength=len(steps))
        sums = np.bincount(which, weights=values, minlength=len(steps))
        means = np.rint(sums / np.maximum(counts, 1)).astype(np.int64)
        moved = np.where((counts > 0) & (steps != 0), means, steps)
        moved = np.unique(moved)
        if np.array_equal(moved, steps):
            break
        steps = moved
    return steps


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops whose weight has more codes than the fewest steps, largest first."""
    return _sites(subject, 2)


def _sites(subject: Subject, count: int) -> tuple[str, ...]:
    found = stored_weights(subject)
    return tuple(op for op, (_, bits) in found.items() if codes_in_grid(bits) > count)


def apply(subject: Subject, *, num_steps: int = 32, num_of_iteration: int = 50) -> Step:
    """Let every integer weight use only some of its codes.

    Args:
        subject: what to change.
        num_steps: codes that a weight may use.
        num_of_iteration: at most.

    Raises:
        TuneError: no op has an integer weight of more codes than that.
        NotFiniteError: a weight holds NaN or Inf.
    """

    def one(stored: Stored) -> Replaced:
        return _subset(stored, num_steps, num_of_iteration)

    return replaced(subject, TITLE, _sites(subject, num_steps), one)


def _subset(stored: Stored, count: int, iterations: int) -> Replaced:
    grid = Grid(stored.bits, narrow=True)
    steps = stored.value.double() / stored.scale.double()
    values = steps.clamp(grid.quant_min, grid.quant_max).reshape(-1).numpy()
    low, high = min(0, round(values.min())), max(0, round(values.max()))
    chosen = choose_steps(values, first_steps(low, high, count), iterations)
    codes = torch.from_numpy(nearest(values, chosen)).reshape(stored.value.shape)
    new = codes.to(torch.float32) * stored.scale
    return Replaced(
        value=new,
        keeps_grid=True,
        before=codes_size(stored, stored.value),
        after=codes_size(stored, new),
        note=f"{len(chosen)} of {codes_in_grid(stored.bits)} codes, "
        f"{sqnr_db(stored.value, new):.1f} dB",
    )
