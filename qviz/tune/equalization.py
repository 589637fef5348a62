"""Cross-layer equalization: make the weights of neighbouring ops alike, leave the function alone.

With one scale per weight tensor a channel whose weights are small gets few codes. Where two ops
follow each other with nothing but positively homogeneous ops between, channel i of the first may be
divided by any s_i > 0 if the second multiplies by it. Nagel et al. 2019 (Data-Free Quantization,
arXiv 1906.04721, section 4.1, eq. 11) choose

    s_i = sqrt(r1_i r2_i) / r2_i

with r1_i and r2_i the largest magnitudes of the weights that make and that read channel i: both
become sqrt(r1_i r2_i). Pairs share ops, so it is repeated until nothing moves. The same factors
serve channels that a residual add shares between several ops, r being the largest of them all.

Not every pair gains: what a factor wins in one weight it can lose in the other, and with a scale
per output channel (the default of a recipe) only the second weight is rounded differently. So a
group of channels is taken only if its weights, rounded as the recipe says, gain SQNR on average.
ReLU6 and SiLU are not homogeneous; ``channel_flow`` says where that ends a group, and which
channels of a ReLU6 provably never reach the clamp. Data-free but for the new ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qviz.affine import fake_quantize, weight_params
from qviz.errors import TuneError
from qviz.progress import Reporter
from qviz.recipe import resolve
from qviz.tune.channel_groups import Group, Scaled, groups, pinned, reasons
from qviz.tune.step import Change, Option, Step, Subject, reranged
from qviz.weights import weight_of

OPTIONS = (
    Option("shared", True, "also channels that a residual add shares between several ops"),
    Option(
        "least_gain",
        0.25,
        "least mean gain of the weights' SQNR, in dB, for which channels are scaled; "
        "-100 scales all, as the paper does",
        -100.0,
        20.0,
    ),
)

#: What the numbers of the changes are.
UNIT = "SQNR of the rounded weight, dB"
#: Sweeps over all groups at most, and the factor below which nothing moves any more.
_SWEEPS, _STILL = 50, 1e-3
#: SQNR of a weight that loses nothing.
_EXACT = 150.0


def factors(made: Tensor, read: Tensor) -> Tensor:
    """``s_i = sqrt(r1_i r2_i) / r2_i`` (eq. 11); 1 for a channel that nothing makes or reads.

    Args:
        made: r1 ``[C]``, largest magnitude of the weights that make each channel.
        read: r2 ``[C]``, of those that read it.
    """
    both = (made > 0) & (read > 0)
    safe = torch.where(both, read, torch.ones_like(read))
    return torch.where(both, (made * read).sqrt() / safe, torch.ones_like(made))


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops of the groups that would gain, those that gain most first."""
    able, _ = _able(subject, shared=True)
    rounding = _Rounding.of(subject)
    gains = []
    for group in able:
        scaled = Scaled(subject.graph)
        before = rounding.sqnr(scaled, group)
        scaled.scale(group, torch.maximum(factors(*scaled.both(group)), group.floor))
        gain = rounding.sqnr(scaled, group) - before
        if gain >= float(OPTIONS[1].default):
            gains.append((gain, group.ops))
    ordered = [op for _, ops in sorted(gains, key=lambda g: -g[0]) for op in ops]
    return tuple(dict.fromkeys(ordered))


def apply(subject: Subject, *, shared: bool = True, least_gain: float = 0.25) -> Step:
    """Equalize all groups of channels that gain by it; ranges of what changed are made anew.

    Args:
        subject: what to equalize.
        shared: also channels with several producers, as a residual add makes them.
        least_gain: mean gain of the weights' SQNR in dB from which on a group is scaled.

    Raises:
        TuneError: there is no such group, or none gains.
    """
    able, notes = _able(subject, shared=shared)
    if not able:
        raise TuneError(
            "cross-layer equalization",
            "no two ops with int8 weights follow each other with only homogeneous ops between"
            + (f" ({notes[0]})" if notes else ""),
            "It needs ReLU or nothing between conv or linear ops; leave it out otherwise",
        )
    work = _Work(subject, able, least_gain)
    work.run()
    taken = work.taken
    if not taken:
        raise TuneError(
            "cross-layer equalization",
            f"no group of channels gains {least_gain:g} dB of weight SQNR ({len(able)} tried)",
            "Leave it out; it helps where one scale per weight tensor meets uneven channels",
        )
    left = len(able) - len(taken)
    if left:
        notes = (f"{left} of {len(able)} groups gain less than {least_gain:g} dB", *notes)
    weights = work.scaled.tuned()
    tensors = tuple(dict.fromkeys(t for g in taken for t in g.tensors))
    recipe = reranged(subject, weights, subject.recipe, tensors)
    record = {"groups": len(taken), "sweeps": work.sweeps}
    return Step(recipe, weights, work.changes(), notes, record)


def _able(subject: Subject, *, shared: bool) -> tuple[list[Group], tuple[str, ...]]:
    """Groups of conv and linear ops that may be scaled, and why others may not."""
    every, found = groups(subject.simulator, subject.calibration)
    decisions = resolve(subject.recipe, subject.graph)
    notes = list(reasons(found))

    def rounded(group: Group) -> bool:
        weights = [weight_of(subject.graph, op) for op in group.ops]
        return any(w is not None and decisions[w.name].int8 for w in weights)

    able = []
    for group in every:
        products = all(p.layout is not None for p, _ in group.producers)
        wanted = any(subject.wants(name) for name in (*group.ops, *group.tensors))
        if not (products and wanted and rounded(group)) or (group.several and not shared):
            continue
        if held := pinned(subject.recipe, group):
            notes.append(f"{group.name}: left alone, the range of {held} was set and stays")
            continue
        able.append(group)
    return able, tuple(notes)


@dataclass(frozen=True)
class _Rounding:
    """How the recipe rounds each weight: bits by parameter, and the channel axis or None."""

    bits: dict[str, tuple[int, int | None]]

    @staticmethod
    def of(subject: Subject) -> _Rounding:
        decisions, per_channel = resolve(subject.recipe, subject.graph), subject.recipe.per_channel
        return _Rounding(
            {
                o.tensor: (decisions[o.name].bits, o.axis if per_channel else None)
                for o in subject.graph.operands.values()
                if o.kind == "weight" and decisions[o.name].int8
            }
        )

    def of_weight(self, scaled: Scaled, parameter: str) -> float:
        """SQNR of one weight in dB."""
        bits, axis = self.bits[parameter]
        value = scaled.value(parameter).float()
        error = fake_quantize(value, weight_params(value, bits, axis)) - value
        noise, power = (float(x.double().square().sum()) for x in (error, value))
        if noise == 0 or power == 0:
            return _EXACT
        return min(_EXACT, 10 * float(torch.log10(torch.tensor(power / noise))))

    def sqnr(self, scaled: Scaled, group: Group) -> float:
        """Mean over the int8 weights of a group."""
        found = [self.of_weight(scaled, w) for w in group.weights if w in self.bits]
        return sum(found) / len(found)


@dataclass
class _Work:
    """Groups being equalized."""

    subject: Subject
    able: Sequence[Group]
    least_gain: float
    sweeps: int = 0
    scaled: Scaled = field(init=False)

    def __post_init__(self) -> None:
        self.scaled = Scaled(self.subject.graph)
        self.rounding = _Rounding.of(self.subject)
        # pairs before channels of many ops: these fit what the pairs have become
        self.able = sorted(self.able, key=lambda g: len(g.producers))
        self.total = [torch.ones(g.channels, dtype=torch.float64) for g in self.able]

    def run(self) -> None:
        """Sweep over all groups until no factor moves."""
        report = Reporter("equalization", _SWEEPS, self.subject.progress)
        while self.sweeps < _SWEEPS:
            moved = max(self._one(i) for i in range(len(self.able)))
            self.sweeps += 1
            report.step(f"sweep {self.sweeps}", 1)
            if moved < _STILL:
                break

    def _one(self, index: int) -> float:
        """Scale one group if that is worth it; how far its factors moved, as a logarithm."""
        group, scaled = self.able[index], self.scaled
        wanted = torch.maximum(self.total[index] * factors(*scaled.both(group)), group.floor)
        s = wanted / self.total[index]
        before = self.rounding.sqnr(scaled, group)
        scaled.scale(group, s)
        # once a group is in, later sweeps only have to keep what it won
        taken = bool((self.total[index] != 1).any())
        least = min(0.0, self.least_gain) if taken else self.least_gain
        if self.rounding.sqnr(scaled, group) - before < least:
            scaled.scale(group, 1 / s)
            return 0.0
        self.total[index] = wanted
        return float(s.log().abs().max())

    @property
    def taken(self) -> list[Group]:
        """Groups whose factors are not all 1."""
        pairs = zip(self.able, self.total, strict=True)
        return [g for g, total in pairs if bool((total != 1).any())]

    def changes(self) -> tuple[Change, ...]:
        """One row per int8 weight that was scaled."""
        own, rows = Scaled(self.subject.graph), {}
        for group, total in zip(self.able, self.total, strict=True):
            if not bool((total != 1).any()):
                continue
            note = f"{group.name}: factors {float(total.min()):.3g} to {float(total.max()):.3g}"
            for op, parameter in group.stored:
                if parameter in self.rounding.bits:
                    was, now = (self.rounding.of_weight(w, parameter) for w in (own, self.scaled))
                    rows[parameter] = Change(f"{op}/weight", "weight", was, now, UNIT, note)
        return tuple(rows.values())
