"""Smoothing: outliers of activation channels are moved into the weights that read them.

A few channels behind a LayerNorm are often tens of times larger than the others, and one scale for
the tensor leaves those hardly any codes. Xiao et al. 2023 (SmoothQuant, arXiv 2211.10438, eq. 3 and
4) divide channel j by

    s_j = max|X_j|^a / max|W_j|^(1 - a)

and multiply what reads it: 1/s goes into the norm's weight and bias, s into every linear that reads
the norm (query, key and value share one s). AMCT's DMQ balancer is the same formula. The float
function stays what it is. The strength a is searched per norm: each of 0.2 to 0.8 is tried on rows
of calibration data, rounding input and weights as the recipe does, and the best is taken if it also
lowers the error of the linears' outputs on rows it was not chosen on.

Between a value projection and the output projection of attention the same holds, since attention
mixes tokens, not channels: there 1/s goes into the value projection's rows, if every row has a
scale of its own. A norm whose output is also added to a residual (BERT) must keep its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.affine import fake_quantize, range_params, weight_params
from qviz.calibrators import clip_range
from qviz.errors import TuneError
from qviz.histogram import collect
from qviz.progress import Reporter
from qviz.recipe import activation_grid, resolve
from qviz.rewrite import get_attr
from qviz.tune.channel_groups import Group, Scaled, groups, pinned, reasons, spread_factors
from qviz.tune.channel_inputs import Inputs, inputs_of
from qviz.tune.step import Change, Option, Step, Subject, reranged
from qviz.weights import weight_of

OPTIONS = (
    Option(
        "strength",
        0.0,
        "share of the difficulty moved from activations to weights; 0 searches it per norm",
        0.0,
        1.0,
    ),
    Option("samples", 64, "calibration samples that strengths are tried on", 2),
)

#: Strengths that are tried; 0.2 to 0.8 is AMCT's ``migration_strength``.
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
#: What the numbers of the changes are.
UNIT = "squared error of the outputs / their power"


def factors(activations: Tensor, weights: Tensor, strength: float) -> Tensor:
    """``s_j = max|X_j|^a / max|W_j|^(1 - a)`` (eq. 4); 1 where either is 0.

    Args:
        activations: largest magnitude of each channel, ``[C]``.
        weights: largest magnitude of the weights that read it, ``[C]``.
        strength: a.
    """
    both = (activations > 0) & (weights > 0)
    x, w = (torch.where(both, v, torch.ones_like(v)) for v in (activations, weights))
    return torch.where(both, x**strength / w ** (1 - strength), torch.ones_like(x))


def sites(subject: Subject) -> tuple[str, ...]:
    """Linears whose input can be smoothed, those with the most uneven channels first."""
    able, _ = _able(subject)
    seen = inputs_of(subject, able, samples=16, rows=1)
    uneven = []
    for group in able:
        largest = seen.largest(group)
        typical = float(largest.median().clamp(min=1e-12))
        uneven.append((float(largest.max()) / typical, [r.op for r, _ in group.readers]))
    ordered = [op for _, ops in sorted(uneven, key=lambda u: -u[0]) for op in ops]
    return tuple(dict.fromkeys(ordered))


def apply(subject: Subject, *, strength: float = 0.0, samples: int = 64) -> Step:
    """Smooth every norm (or value projection) that gains by it; new ranges for what changed.

    Args:
        subject: what to smooth.
        strength: 0 searches; any other number is taken as it is wherever it lowers the error.
        samples: calibration samples that strengths are tried on.

    Raises:
        TuneError: no linear reads a norm that could be scaled, or none gains.
    """
    able, notes = _able(subject)
    if not able:
        raise TuneError(
            "smoothing",
            "no int8 linear reads a norm, or a value projection, that could be scaled"
            + (f" ({notes[0]})" if notes else ""),
            "Leave it out; it needs a LayerNorm or RMSNorm that only linears read",
        )
    seen = inputs_of(subject, able, samples=samples)
    scaled, taken, changes = Scaled(subject.graph), [], []
    report = Reporter("smoothing", len(able), subject.progress)
    for group in able:
        found = _search(subject, scaled, group, seen, (strength,) if strength else STRENGTHS)
        if found.after < found.before:
            scaled.scale(group, found.s)
            taken.append(group)
            changes.append(found.change(group))
        report.step(group.name)
    if not taken:
        raise TuneError(
            "smoothing",
            f"no strength lowers the error behind a norm ({len(able)} tried)",
            "Leave it out; it helps where a few channels are much larger than the others",
        )
    left = len(able) - len(taken)
    if left:
        notes = (f"{left} of {len(able)} inputs of linears have less error as they are", *notes)
    weights = scaled.tuned()
    recipe = reranged(subject, weights, subject.recipe, tuple(t for g in taken for t in g.tensors))
    return Step(recipe, weights, tuple(changes), notes, {"samples": seen.samples})


@dataclass(frozen=True, eq=False)
class _Found:
    """The best strength for a group.

    Attributes:
        strength: it.
        s: the factors.
        before: error as it is, on rows that the strength was not chosen on.
        after: with the factors, on the same rows.
    """

    strength: float
    s: Tensor
    before: float
    after: float

    def change(self, group: Group) -> Change:
        """The row of the step."""
        low, high = float(self.s.min()), float(self.s.max())
        note = f"strength {self.strength:g}, factors {low:.3g} to {high:.3g}"
        return Change(group.name, "smoothing", self.before, self.after, UNIT, note)


def _search(
    subject: Subject, scaled: Scaled, group: Group, seen: Inputs, strengths: Sequence[float]
) -> _Found:
    """Choose on every other row, judge on the rest."""
    largest, read = seen.largest(group), scaled.read(group)
    error = _Error(subject, scaled, group, seen)
    tried = {a: factors(largest, read, a) for a in strengths}
    best = min(tried, key=lambda a: error.of(tried[a], first=True))
    before = error.of(torch.ones_like(largest), first=False)
    return _Found(best, tried[best], before, error.of(tried[best], first=False))


@dataclass(frozen=True, eq=False)
class _Error:
    """What rounding does to the outputs of the readers of a group."""

    subject: Subject
    scaled: Scaled
    group: Group
    seen: Inputs

    def of(self, s: Tensor, *, first: bool) -> float:
        """Squared error over power of all outputs with factors ``s``, on one half of the rows."""
        noise = power = 0.0
        for reader, where in self.group.readers:
            x = self.seen.rows[reader.op][0 if first else 1 :: 2]
            w = reader.layout.blocks(self.scaled.value(reader.weight))[0, :, :, 0].float()  # (O, I)
            columns = spread_factors(s, where).float()
            rounded = self._input(reader.op, x / columns) @ self._weight(reader.op, w * columns).T
            exact = x @ w.T
            noise += float((rounded - exact).double().square().sum())
            power += float(exact.double().square().sum())
        return noise / max(power, 1e-30)

    def _input(self, op: str, x: Tensor) -> Tensor:
        recipe, graph = self.subject.recipe, self.subject.graph
        operand = next(o for o in graph.ops[op].operands if o.kind == "activation")
        decision = resolve(recipe, graph)[operand.name]
        if not decision.int8:
            return x
        grid = activation_grid(recipe, graph, operand.tensor, decision.bits)
        # as the new range will be found, but from these rows
        clip = clip_range(collect(x), recipe.range_of[operand.tensor].calibrator, grid)
        return fake_quantize(x, range_params(clip.lo, clip.hi, grid))

    def _weight(self, op: str, w: Tensor) -> Tensor:
        recipe = self.subject.recipe
        weight = weight_of(self.subject.graph, op)
        assert weight is not None
        decision = resolve(recipe, self.subject.graph)[weight.name]
        if not decision.int8:
            return w
        return fake_quantize(w, weight_params(w, decision.bits, 0 if recipe.per_channel else None))


def _able(subject: Subject) -> tuple[list[Group], tuple[str, ...]]:
    """Groups of which all readers are int8 linears, and why others must keep their scale."""
    every, found = groups(subject.simulator, subject.calibration)
    decisions = resolve(subject.recipe, subject.graph)
    notes = list(reasons(found, norms=True))
    able = []
    for group in every:
        readers = [r for r, _ in group.readers]
        # rows of a projection may be scaled freely only if each has its own scale
        free = subject.recipe.per_channel or all(p.layout is None for p, _ in group.producers)
        linear = all(get_attr(subject.graph.module, r.weight).dim() == 2 for r in readers)
        wanted = any(subject.wants(name) for name in (*(r.op for r in readers), *group.tensors))
        int8 = any(decisions[f"{r.op}/input"].int8 for r in readers)
        if group.several or not (free and linear and wanted and int8):
            continue
        if held := pinned(subject.recipe, group):
            notes.append(f"{group.name}: left alone, the range of {held} was set and stays")
            continue
        able.append(group)
    return able, tuple(notes)
