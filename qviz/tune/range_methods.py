"""Activation ranges given anew by one calibrator: what the methods ``ifmr`` and ``hfmg`` share."""

from __future__ import annotations

from dataclasses import replace

from qviz.calibrators import clip_range, describe
from qviz.errors import TuneError
from qviz.histogram_cost import ClipRange
from qviz.progress import Reporter
from qviz.recipe import TensorRange, activation_grid
from qviz.tune.step import Change, Step, Subject, bits_of

UNIT = "expected mse"


def wanted(subject: Subject, tensor: str) -> bool:
    """Whether the subject's ops name a tensor, or an op that reads it."""
    readers = subject.graph.tensors[tensor].consumers
    return subject.wants(tensor) or any(subject.wants(r.rpartition("/")[0]) for r in readers)


def sites(subject: Subject) -> tuple[str, ...]:
    """Tensors read as int8, those with the most expected error per power first."""
    widths = bits_of(subject.recipe, subject.graph)
    losses = {}
    for name, bits in widths.items():
        if wanted(subject, name) and (h := subject.histograms().get(name)) and h.finite:
            grid = activation_grid(subject.recipe, subject.graph, name, bits)
            known = subject.recipe.range_of[name]
            losses[name] = -describe(h, ClipRange(known.lo, known.hi), grid).sqnr_db
    return tuple(sorted(losses, key=lambda name: -losses[name]))


def recalibrated(subject: Subject, title: str, spec: str) -> Step:
    """The recipe with the ranges that a calibrator chooses at each tensor's own bit width.

    Args:
        subject: what to tune; weights stay as they are.
        title: of the method.
        spec: of the calibrator.

    Raises:
        TuneError: no tensor with a range is read as int8.
        RangeError: the spec is wrong.
    """
    names = sites(subject)
    if not names:
        raise TuneError(title, "no activation is read as int8", "Make an op int8")
    widths, histograms = bits_of(subject.recipe, subject.graph), subject.histograms()
    made, changes = dict(subject.recipe.range_of), []
    report = Reporter(title, len(names), subject.progress)
    for name in names:
        grid = activation_grid(subject.recipe, subject.graph, name, widths[name])
        old, h = made[name], histograms[name]
        clip = clip_range(h, spec, grid)
        made[name] = TensorRange(name, clip.lo, clip.hi, spec)
        if (old.lo, old.hi) != (clip.lo, clip.hi):
            before = describe(h, ClipRange(old.lo, old.hi), grid).mse
            after = describe(h, clip, grid).mse
            note = f"{old.lo:.4g} to {old.hi:.4g} -> {clip.lo:.4g} to {clip.hi:.4g}"
            changes.append(Change(name, "range", before, after, UNIT, note))
        report.step(name)
    return Step(replace(subject.recipe, ranges=tuple(made.values())), None, tuple(changes))
