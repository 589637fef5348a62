"""What a sensitivity ranking is: rows worst first, and the measured parts they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from qviz.intervals import Interval

Mode = Literal["only_this", "all_but_this"]
Operands = Literal["both", "weights", "activations"]
Granularity = Literal["op", "operand"]


@dataclass(frozen=True)
class SensitivityRow:
    """The effect of one op or operand.

    Attributes:
        name: the op or operand.
        type: the op's type.
        divergence: only_this: mean divergence from float that it causes alone. all_but_this: how
            much the divergence of the full recipe falls when it is left in float.
        divergence_interval: 95 % bootstrap interval of it.
        change: relative change of the metric that it causes (only_this: from float; all_but_this:
            from all-int8 to all but this, so positive is what leaving it in float wins).
        change_interval: 95 % paired bootstrap interval of it.
        value: the metric measured.
        samples: samples measured so far; 0 if the row is the proxy's.
        exact: measured, not estimated by the proxy.
        rank: place in the ranking, 0 is worst.
        tie: number of the group of ops the data cannot tell apart.
    """

    name: str
    type: str
    divergence: float
    divergence_interval: Interval | None
    change: float | None
    change_interval: Interval | None
    value: float | None
    samples: int
    exact: bool
    rank: int
    tie: int


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A ranking, worst first.

    Attributes:
        rows: worst first.
        mode: only_this or all_but_this.
        operands: both, weights or activations.
        metric: name of the metric.
        divergence_name: ``kl`` or ``mse``.
        proxy: the gradient estimate of each row, by name; empty for all_but_this.
        spearman: rank correlation of the proxy with the exact divergence, None if not all exact.
    """

    rows: tuple[SensitivityRow, ...]
    mode: Mode
    operands: Operands
    metric: str
    divergence_name: str
    proxy: Mapping[str, float] = field(default_factory=dict)
    spearman: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the summed divergence that the worst 1, 2, 3 ... rows explain."""
        total = sum(max(r.divergence, 0.0) for r in self.rows)
        running, out = 0.0, []
        for row in self.rows:
            running += max(row.divergence, 0.0)
            out.append(running / total if total else 0.0)
        return tuple(out)

    @property
    def flat(self) -> bool:
        """No small set explains the loss: half of it needs more than a fifth of the ops."""
        needed = next((i + 1 for i, s in enumerate(self.shares) if s >= 0.5), len(self.rows))
        return len(self.rows) >= 10 and needed > len(self.rows) / 5


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one variant for a stretch of samples; what a run folder keeps.

    Attributes:
        key: op or operand.
        start: index of the first sample.
        divergence: per sample, ``[n]``.
        scores: the metric per sample ``[n]``, None for a metric of the whole corpus.
        outputs: the outputs ``[n, ...]``, for a metric of the whole corpus only.
    """

    key: str
    start: int
    divergence: Tensor
    scores: Tensor | None
    outputs: Tensor | None


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks."""

    def ranks(x: Tensor) -> Tensor:
        _, group, count = torch.unique(x, return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        mean: Tensor = (last - (count - 1) / 2.0)[group]
        return mean - mean.mean()

    x, y = ranks(a), ranks(b)
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else 0.0
