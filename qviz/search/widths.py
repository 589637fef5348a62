"""Bit widths of ops, as values: what an allocation gives bits to, what that costs, what limits it.

A *layer* is what gets one width: an op with multiply-accumulates, or several that read one weight,
which is stored once. Adds and everything else keep the base's width: they have neither weights nor
multiply-accumulates, so no limit would ever be met by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qviz.errors import RangeError

FLOAT_BITS = 32

CostKind = Literal["size", "bytes", "bops", "latency"]
LimitKind = Literal["size", "bytes", "bops", "latency", "loss"]
AllocationMethod = Literal["integer programme", "greedy", "given"]

_WIDTH = re.compile(r"[Ww](\d+)[Aa](\d+)")


@dataclass(frozen=True, order=True)
class Width:
    """Bits of an op's weight and of its activation operands."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}"

    @staticmethod
    def parse(text: str) -> Width:
        """What ``str`` gave: ``W4A8``.

        Raises:
            RangeError: it is no such text.
        """
        found = _WIDTH.fullmatch(text)
        if found is None:
            raise RangeError(f"width {text!r}", "is none", "Write it as W4A8")
        return Width(int(found[1]), int(found[2]))


#: What everything is at before bits are allocated.
BASE = Width(8, 8)


@dataclass(frozen=True)
class Layer:
    """What gets one width.

    Attributes:
        name: of its first op.
        ops: the ops that read its weight; the op itself if it has none.
        elements: of its weight, 0 if it has none.
        macs: multiply-accumulates per sample, all its ops.
        end: it has a weight, and no other weight lies before it, or none behind it: a first or a
            last op.
    """

    name: str
    ops: tuple[str, ...]
    elements: int
    macs: int
    end: bool = False


@dataclass(frozen=True)
class Costs:
    """What an allocation costs.

    Attributes:
        size: bits of the layers' weights, as a share of the same in float32 (8 bits are 0.25).
        bytes: of all parameters: these weights, and everything else in float32.
        bops: bit operations per sample, multiply-accumulates x weight bits x activation bits.
        relative_bops: as a share of the base's.
        seconds: of the layers, None if no times were given.
    """

    size: float
    bytes: float
    bops: float
    relative_bops: float
    seconds: float | None = None


@dataclass(frozen=True)
class Limit:
    """What an allocation has to keep to.

    Attributes:
        kind: ``size`` (share of the layers' float32 weights), ``bytes`` (of all parameters),
            ``bops`` (share of the base's bit operations), ``latency`` (seconds), or ``loss``
            (the sum of what the layers add to the base's loss).
        value: the most allowed, in the unit of the kind.
    """

    kind: LimitKind
    value: float


@dataclass(frozen=True)
class Allocation:
    """A width for every layer.

    Attributes:
        widths: (layer, width), in execution order.
        increase: predicted: the sum of what each layer alone adds to the loss of the base.
        loss: predicted: the base's loss and the increase.
        costs: what it costs.
        limit: what it keeps to; None if it was given.
        method: how it was found.
    """

    widths: tuple[tuple[str, Width], ...]
    increase: float
    loss: float
    costs: Costs
    limit: Limit | None
    method: AllocationMethod

    @property
    def of(self) -> Mapping[str, Width]:
        """Layer -> width."""
        return dict(self.widths)

    @property
    def summary(self) -> str:
        """How many layers have which width: ``W4A8 12, W8A8 7``."""
        widths = [width for _, width in self.widths]
        return ", ".join(f"{w} {widths.count(w)}" for w in sorted(set(widths)))


@dataclass(frozen=True)
class FrontierPoint:
    """One allocation on the frontier: predicted, and once measured what it really does.

    Attributes:
        allocation: the widths, with predicted loss and costs.
        divergence: measured on evaluation data: mean divergence of the outputs from float's.
        value: the metric measured.
        drop: relative drop of the metric, positive is worse.
        low: lower limit of its 95 % interval.
        high: upper limit.
    """

    allocation: Allocation
    divergence: float | None = None
    value: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def measured(self) -> bool:
        """Whether it was measured on evaluation data."""
        return self.divergence is not None


@dataclass(frozen=True)
class Frontier:
    """The least loss under each of a sweep of limits.

    Attributes:
        kind: what is limited.
        points: of the integer programme, from the tightest limit; each allocation once.
        greedy: the same limits met greedily, for comparison.
        loss: name of the predicted loss: ``kl``, ``mse`` ...
        metric: name of the metric measured.
        float_value: the metric of the float model; None if nothing was measured.
        loss_samples: calibration samples that the losses were measured on.
        samples: evaluation samples that points were measured on.
        spearman: rank correlation of predicted loss and measured divergence over the points
            measured; None for fewer than three.
        spearman_drop: the same with the metric's drop, which on few samples is mostly noise.
    """

    kind: CostKind
    points: tuple[FrontierPoint, ...]
    greedy: tuple[FrontierPoint, ...]
    loss: str
    metric: str = ""
    float_value: float | None = None
    loss_samples: int = 0
    samples: int = 0
    spearman: float | None = None
    spearman_drop: float | None = None


def cost_of(costs: Costs, kind: CostKind) -> float:
    """The cost that a limit of this kind limits, in its unit."""
    found = {
        "size": costs.size,
        "bytes": costs.bytes,
        "bops": costs.relative_bops,
        "latency": costs.seconds,
    }[kind]
    assert found is not None  # a limit on latency is refused without times
    return found


def square(bits: Sequence[int]) -> tuple[Width, ...]:
    """Weights and activations at the same width, for each of ``bits``."""
    return tuple(Width(b, b) for b in bits)


def weights_only(bits: Sequence[int], activations: int = 8) -> tuple[Width, ...]:
    """Weights at each of ``bits``, activations kept."""
    return tuple(Width(b, activations) for b in bits)
