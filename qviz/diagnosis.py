"""What is special about the shape of one tensor, in words, and what to do about it.

Every rule looks at numbers that are there already: the histogram, its channel limits, and the
candidate ranges. A rule speaks only where its remedy is worth something, so most tensors have no
finding at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qviz.affine import Grid, fake_quantize, range_params, weight_params
from qviz.calibrators import Candidate, clip_range
from qviz.histogram import Histogram

Kind = Literal[
    "never saw data",
    "dead tensor",
    "outlier tail",
    "one wide channel",
    "one-sided",
    "entropy misled",
    "per tensor ruinous",
]

#: The largest value lies this many times as far out as the 99.99th percentile.
FAR = 1.75
#: One channel reaches this many times as far as the median channel.
WIDE = 6.0
#: A range is worth offering from this gain on, in dB.
GAIN = 2.0
#: Share of the values in one bin from which a histogram is mostly that one spike.
SPIKE = 0.25
#: A weight loses too much to one scale from this many dB on.
RUINOUS = 6.0
#: Fewer codes than this a side leave a channel hardly any values.
FEW_CODES = 8
#: The lowest value of some activation functions, and the name.
FLOORS = ((-0.2785, "SiLU"), (-0.17, "GELU"), (-0.375, "hard-swish"))


@dataclass(frozen=True)
class Finding:
    """One thing to know about a tensor.

    Attributes:
        kind: which rule spoke.
        text: what is so, with the numbers.
        remedy: what to do about it.
        calibrator: the spec whose range is the remedy, None where no range is.
    """

    kind: Kind
    text: str
    remedy: str
    calibrator: str | None = None


@dataclass(frozen=True, eq=False)
class WeightCost:
    """What one scale for a whole weight costs beside one per channel.

    Attributes:
        bits: width of the codes.
        per_tensor_db: SQNR with one scale.
        per_channel_db: SQNR with one scale per channel.
        amax: largest magnitude of every channel, [C].
        codes: codes a side that every channel would use under one scale, [C].
    """

    bits: int
    per_tensor_db: float
    per_channel_db: float
    amax: Tensor
    codes: Tensor

    @property
    def loss_db(self) -> float:
        """What one scale loses, in dB; 0 where nothing is lost either way."""
        if math.isinf(self.per_channel_db):
            return 0.0 if math.isinf(self.per_tensor_db) else math.inf
        return self.per_channel_db - self.per_tensor_db


def weight_cost(w: Tensor, *, bits: int, axis: int) -> WeightCost:
    """Quantize a weight both ways.

    Args:
        w: any shape, finite.
        bits: 2 to 8.
        axis: of the channels.

    Raises:
        NotFiniteError: ``w`` holds NaN or Inf.
        ShapeError: ``w`` is empty or has no such axis.
    """
    one, each = weight_params(w, bits, None), weight_params(w, bits, axis)
    amax = w.detach().movedim(axis, 0).flatten(1).abs().amax(1)
    return WeightCost(
        bits=bits,
        per_tensor_db=_sqnr_db(w, fake_quantize(w.detach(), one)),
        per_channel_db=_sqnr_db(w, fake_quantize(w.detach(), each)),
        amax=amax,
        codes=torch.round(amax / one.scale),
    )


def _sqnr_db(w: Tensor, rounded: Tensor) -> float:
    w = w.detach().double()
    error = float((w - rounded.double()).square().sum())
    return 10 * math.log10(float(w.square().sum()) / error) if error > 0 else math.inf


def diagnose_weight(cost: WeightCost, *, per_channel: bool = True) -> tuple[Finding, ...]:
    """Whether one scale for the whole weight would be ruinous.

    Args:
        cost: of both ways.
        per_channel: what the recipe does; False makes the warning a present one.
    """
    loss = cost.loss_db
    # the SQNR of the whole hardly sees small channels, but each makes an output of its own
    starved = int(((cost.codes < FEW_CODES) & (cost.amax > 0)).sum())
    if loss < RUINOUS and not starved:
        return ()
    widest, narrowest = int(cost.amax.argmax()), int(cost.amax.argmin())
    text = (
        f"One scale for the whole weight {'would lose' if per_channel else 'loses'} {loss:.1f} dB: "
        f"SQNR {cost.per_tensor_db:.1f} dB instead of {cost.per_channel_db:.1f} dB with one per "
        f"channel. Channel {widest} reaches {float(cost.amax.max()):.4g}, channel {narrowest} only "
        f"{float(cost.amax.min()):.4g}"
    )
    if starved:
        text += (
            f"; {starved} of {cost.amax.numel()} channels would have fewer than {FEW_CODES} codes "
            "a side"
        )
    keep = "Keep one scale per channel, as the recipe does."
    change = "Use one scale per channel, or leave this op in float."
    return (Finding("per tensor ruinous", f"{text}.", keep if per_channel else change),)


def diagnose(h: Histogram, grid: Grid, candidates: Sequence[Candidate]) -> tuple[Finding, ...]:
    """What is special about an activation tensor, the gravest first.

    Args:
        h: its histogram.
        grid: what it is quantized to.
        candidates: ranges on that grid; the best of them is what a remedy offers.
    """
    if nothing := _nothing(h):
        return (nothing,)
    best = min(candidates, key=lambda one: one.mse, default=None)
    rules = (_entropy, _outliers, _channel, _one_sided)
    found = (rule(h, grid, candidates, best) for rule in rules) if best is not None else ()
    return tuple(finding for finding in found if finding is not None)


def _nothing(h: Histogram) -> Finding | None:
    """A tensor without information."""
    if h.finite == 0:
        text = (
            f"All {h.size:,} values were NaN or infinite."
            if h.size
            else "No calibration sample reached this tensor."
        )
        return Finding(
            "never saw data",
            text,
            "Calibrate with samples that reach it with finite values; until then the ops that "
            "read it stay float.",
        )
    if h.min == h.max:
        what = "exactly 0" if h.max == 0 else f"{h.max:.5g}"
        return Finding(
            "dead tensor",
            f"All {h.finite:,} values are {what}: the tensor carries no information.",
            "Look at the op that makes it; no range can help or harm.",
        )
    return None


def _of(candidates: Sequence[Candidate], calibrator: str) -> Candidate | None:
    return next((one for one in candidates if one.calibrator == calibrator), None)


def _entropy(
    h: Histogram, _: Grid, candidates: Sequence[Candidate], best: Candidate
) -> Finding | None:
    """A spike holds so many of the values that the divergence sees little else."""
    entropy = _of(candidates, "entropy")
    if entropy is None or best.sqnr_db - entropy.sqnr_db < GAIN:
        return None
    spike = float(h.counts.max()) / h.finite
    if h.zero_fraction >= SPIKE:
        why = f"{100 * h.zero_fraction:.0f} % of the values are exactly 0"
    elif spike >= SPIKE:
        why = f"{100 * spike:.0f} % of the values share one of {h.counts.numel():,} bins"
    else:
        return None
    return Finding(
        "entropy misled",
        f"Entropy would cut at {entropy.range.amax:.4g} what reaches {h.amax:.4g} and lose "
        f"{best.sqnr_db - entropy.sqnr_db:.1f} dB: {why}, and its divergence sees little else.",
        f"Use {best.calibrator} (SQNR {best.sqnr_db:.1f} dB) instead of entropy "
        f"({entropy.sqnr_db:.1f} dB).",
        best.calibrator,
    )


def _outliers(
    h: Histogram, grid: Grid, candidates: Sequence[Candidate], best: Candidate
) -> Finding | None:
    """A few values far out set the step for all."""
    widest = _of(candidates, "max")
    inner = clip_range(h, "percentile:99.99", grid).amax
    if widest is None or inner <= 0:
        return None
    gain = best.sqnr_db - widest.sqnr_db
    if h.amax < FAR * inner or gain < GAIN:
        return None
    return Finding(
        "outlier tail",
        f"Outlier tail: the largest magnitude {h.amax:.4g} is {h.amax / inner:.1f} times the "
        f"99.99th percentile {inner:.4g}; with max it sets the step for all values.",
        f"Use {best.calibrator}: SQNR {best.sqnr_db:.1f} dB instead of {widest.sqnr_db:.1f} dB "
        f"with max ({gain:+.1f} dB).",
        best.calibrator,
    )


def _channel(h: Histogram, grid: Grid, _: Sequence[Candidate], best: Candidate) -> Finding | None:
    """One channel much wider than the others sets the step for all."""
    if h.channel_min is None or h.channel_max is None:
        return None
    amax = torch.maximum(-h.channel_min, h.channel_max)
    amax = torch.where(torch.isfinite(amax), amax, torch.zeros_like(amax))
    live = amax[amax > 0]
    if live.numel() < 3:
        return None
    widest, median = int(amax.argmax()), float(live.median())
    times = float(amax[widest]) / median
    if times < WIDE:
        return None
    codes = max(1, round(median / best.scale))
    sides = f"{codes} codes a side" if grid.signed else f"{codes} codes"
    return Finding(
        "one wide channel",
        f"One wide channel: channel {widest} reaches {float(amax[widest]):.4g}, the median channel "
        f"{median:.4g} ({times:.1f} times less), so most channels have about {sides}.",
        "An activation has one scale for all channels. If the op is sensitive, leave this operand "
        "in float; a narrower range clips the wide channel only.",
    )


def _one_sided(h: Histogram, grid: Grid, _: Sequence[Candidate], best: Candidate) -> Finding | None:
    """A small negative tail, to which a symmetric grid gives half of its codes."""
    low, high = (h.min, h.max) if h.max > -h.min else (-h.max, -h.min)
    if not grid.signed or not -0.376 <= low < 0 or -low > 0.15 * high:
        return None
    params = range_params(best.range.lo, best.range.hi, grid)
    scale = float(params.scale)
    used = min(round(high / scale), grid.quant_max) + min(round(-low / scale), -grid.quant_min) + 1
    name = next((f" after {n}" for floor, n in FLOORS if abs(low - floor) < 0.004), "")
    return Finding(
        "one-sided",
        f"One-sided{name}: values go from {h.min:.3g} to {h.max:.4g}, and a symmetric grid uses "
        f"{used} of its {2**grid.bits} codes.",
        f"With this profile the step only shrinks with the range: {best.calibrator} has the least "
        f"error (SQNR {best.sqnr_db:.1f} dB). A profile with a zero point (ort-cpu) would use "
        "all codes and halve the step.",
        best.calibrator,
    )
