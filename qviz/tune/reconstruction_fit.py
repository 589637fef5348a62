"""Fit one unit to the float model's output, and keep what is best on samples held out.

The loss is the squared error of the output over the output's power. A range that other operands
read too is a compromise between them: for each of these the rounding error of the tensor, over the
tensor's power, is added, so that the op that learns a range does not clip what others need. (Four
bits, rate 0.02, divergence with and without: sample ViT 0.031 and 0.036, sample EfficientNet at
0.01 0.146 and 0.157, ResNet-20 0.141 and 0.137.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.errors import NotFiniteError
from qviz.tune.reconstruction_cache import Cache
from qviz.tune.reconstruction_state import State, Variables

#: How often the held-out loss is looked at, beside the start.
CHECKS = 10
#: Entries of one such look at a time.
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of a fit.

    Attributes:
        before: loss on the held-out samples as the unit was.
        after: the least loss on them during the fit; NaN if it diverged.
        fitted_before: loss on as many samples that were fitted on, before.
        fitted_after: the same of the state kept.
        state: what gave ``after``; None if the fit diverged.
        macs: multiply-accumulates spent, forward and backward.
    """

    before: float
    after: float
    fitted_before: float
    fitted_after: float
    state: State | None
    macs: float

    @property
    def improved(self) -> bool:
        """Whether the held-out loss fell."""
        return self.state is not None and self.after < self.before


class Loss:
    """Error of a unit's output over the output's power, and of shared inputs over theirs."""

    def __init__(self, cache: Cache, shared: Mapping[int, int]) -> None:
        self._cache, self._shared = cache, shared
        self._power = _power(cache.target, cache.weights)
        self._powers = {p: _power(x) for p, x in cache.inputs.items()}

    def __call__(self, variables: Variables, rows: Tensor, *, final: bool) -> Tensor:
        """Mean over some entries; with gradients unless ``final``."""
        cache, shared = self._cache, torch.zeros(())
        read = {}
        for position, x in cache.inputs.items():
            part = x[rows]
            read[position] = variables.read(position, part)
            if others := self._shared.get(position, 0):
                error = (read[position] - part).square().mean() / self._powers[position]
                shared = shared + others * error
        made = cache.call(read, variables.weight(final=final), variables.bias())
        squares = (made - cache.target[rows]).square()
        if cache.weights is not None:
            squares = squares * cache.weights[rows]
        return squares.mean() / self._power + shared

    def mean(self, variables: Variables, rows: Tensor) -> float:
        """Mean over many entries, of what would be stored."""
        with torch.no_grad():
            parts = [
                float(self(variables, some, final=True)) * len(some)
                for some in rows.split(_AT_ONCE)
            ]
        return sum(parts) / len(rows)


def fit(
    cache: Cache,
    plain: Variables,
    variables: Variables,
    shared: Mapping[int, int],
    *,
    iterations: int,
    batch: int,
    seed: int,
    look: Callable[[], None],
) -> Fit:
    """Minimize the loss by Adam, with rates that fall to zero along a cosine.

    Args:
        cache: what to fit on.
        plain: the unit as it is.
        variables: what to change.
        shared: how many other operands read an input whose range is learned, by position.
        iterations: steps.
        batch: entries per step.
        seed: of the entries drawn.
        look: called with every look at the held-out samples; what it raises stops the fit.
    """
    loss = Loss(cache, shared)
    some = cache.fit[: len(cache.held_out)]
    before, fitted_before = loss.mean(plain, cache.held_out), loss.mean(plain, some)
    best, fitted, state = math.inf, math.nan, None
    entries = 2.0 * len(cache.held_out)
    every = max(1, iterations // CHECKS)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(variables.groups())
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: 0.5 * (1 + math.cos(math.pi * done / iterations))
    )
    try:
        for done in range(iterations + 1):
            if done % every == 0 or done == iterations:
                look()
                found = loss.mean(variables, cache.held_out)
                entries += len(cache.held_out)
                if not math.isfinite(found):
                    break
                if found < best:
                    best, state = found, variables.state()
                    fitted = loss.mean(variables, some)
                    entries += len(some)
            if done < iterations:
                rows = cache.fit[torch.randint(len(cache.fit), (batch,), generator=generator)]
                optimizer.zero_grad()
                with torch.enable_grad():
                    value = loss(variables, rows, final=False)
                    penalty = variables.penalty(done / iterations)
                    (value if penalty is None else value + penalty).backward()
                optimizer.step()
                schedule.step()
                entries += 3 * batch  # forward, and a product for each of the two gradients
        else:
            return Fit(before, best, fitted_before, fitted, state, entries * cache.macs)
    except NotFiniteError:  # a range has become NaN or infinite
        pass
    return Fit(before, math.nan, fitted_before, math.nan, None, entries * cache.macs)


def _power(values: Tensor, weights: Tensor | None = None) -> float:
    """Mean square; 1 where everything is zero, so that an error over it stays an error."""
    squares = values.square() if weights is None else values.square() * weights
    found = float(squares.mean())
    return found if found > 0 else 1.0
