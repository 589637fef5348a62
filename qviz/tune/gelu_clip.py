"""GELU10: clip what comes out of GELU, SiLU or Hardswish, so that its negative side keeps codes.

These functions never go far below zero (GELU -0.17, SiLU -0.28, Hardswish -0.375) but reach far
above it. On a symmetric grid over [-50, 50] half a step is 0.197: all negative outputs round to 0.
Wu et al. 2020 (arXiv 2004.09602, GELU10) clip the range to 10 before calibration, so that the
negative lobe gets codes of its own; NVIDIA's code does it by clamping the amax of the input
quantizer behind (``--clip-gelu 10``).

A tensor is proposed where its histogram shows the loss and the gain: it has negative values, the
largest of them lies below half a step of its range, and clipping to 10 shows them again with no
more squared error than before. Where the range of least error shows them too and is clearly better
than 10, or 10 would not clip, that one is taken. With few codes no range may do; nothing changes.
"""

from __future__ import annotations

from qviz.affine import Grid, range_params
from qviz.calibrators import clip_range, describe
from qviz.errors import TuneError
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.histogram_cost import ClipRange
from qviz.progress import Reporter
from qviz.recipe import activation_grid
from qviz.tune.range_methods import UNIT, wanted
from qviz.tune.step import Change, Option, Step, Subject, bits_of

OPTIONS = (
    Option("limit", 10.0, "largest value that is not clipped", 0.01, 1000.0),
    Option(
        "better",
        True,
        "let the histogram choose another limit where that is clearly better, and none where "
        "clipping costs more than it gains; no clips whatever it costs",
    ),
)

#: A range of the histogram's is clearly better if it leaves less than this part of the error.
_CLEARLY = 0.9
#: Ops whose output has a small negative lobe.
_LOBED = {"gelu", "silu", "hardswish", "mish"}
_GATES = {"sigmoid", "hardsigmoid"}


def lobed(graph: Graph) -> tuple[str, ...]:
    """Tensors that come out of such a function, also one written out, or times a gate."""
    found: list[str] = []
    for op in graph.ops.values():
        gated = op.type == "mul" and any(_is(graph, r, _GATES) for r in op.reads)
        # x * sigmoid(x) is SiLU; silu(y) * sigmoid(z) keeps the lobe of silu(y)
        written = gated and any(
            other in graph.ops[gate].reads
            for gate in op.reads
            for other in op.reads
            if other != gate and _is(graph, gate, _GATES)
        )
        if op.type in _LOBED or written or (gated and any(r in found for r in op.reads)):
            found.append(op.name)
    return tuple(found)


def _is(graph: Graph, tensor: str, types: set[str]) -> bool:
    return tensor in graph.ops and graph.ops[tensor].type in types


def sites(subject: Subject) -> tuple[str, ...]:
    """Tensors whose lost negative lobe is better seen again, widest range first."""
    found, _ = _clipped(subject, float(OPTIONS[0].default), better=True)
    return tuple(sorted(found, key=lambda name: -subject.recipe.range_of[name].hi))


def _clipped(
    subject: Subject, limit: float, *, better: bool
) -> tuple[dict[str, tuple[ClipRange, Grid]], list[str]]:
    """New range of each tensor that regains its lobe by it, and those that do not."""
    widths = bits_of(subject.recipe, subject.graph)
    names = [t for t in lobed(subject.graph) if t in widths and wanted(subject, t)]
    found, hopeless = {}, []
    for name in names:
        grid = activation_grid(subject.recipe, subject.graph, name, widths[name])
        known, h = subject.recipe.range_of[name], subject.histograms()[name]
        now = ClipRange(known.lo, known.hi)
        if not h.finite or not lost(h, now, grid):
            continue
        clip = limited(h, now, grid, limit, better=better)
        if clip is None:
            hopeless.append(name)
        else:
            found[name] = clip, grid
    return found, hopeless


def lost(h: Histogram, clip: ClipRange, grid: Grid) -> bool:
    """Whether there are negative values and all of them round to zero."""
    params = range_params(clip.lo, clip.hi, grid)
    return h.min < 0 and int(params.zero_point) == 0 and -h.min <= float(params.scale) / 2


def limited(
    h: Histogram, now: ClipRange, grid: Grid, limit: float, *, better: bool
) -> ClipRange | None:
    """The range that shows the lobe again: to ``limit``, or one of clearly less squared error.

    Args:
        h: of the tensor.
        now: its range, under which the lobe is lost.
        grid: its grid.
        limit: largest value that is not clipped.
        better: whether the histogram may choose.

    Returns:
        None if no such range shows the lobe, or each has more squared error than ``now``.
    """
    clipped = _cut(h, limit, grid)
    shows = limit < now.hi and not lost(h, clipped, grid)
    if not better:
        return clipped if shows else None
    least = clip_range(h, "mse", grid)
    of_now, of_clipped, of_least = (describe(h, c, grid).mse for c in (now, clipped, least))
    shows = shows and of_clipped <= of_now
    if not lost(h, least, grid) and (not shows or of_least < _CLEARLY * of_clipped):
        return least
    return clipped if shows else None


def _cut(h: Histogram, limit: float, grid: Grid) -> ClipRange:
    return ClipRange(-limit if grid.symmetric else min(h.min, 0.0), limit)


def apply(subject: Subject, *, limit: float = 10.0, better: bool = True) -> Step:
    """Clip the ranges of tensors that regain their negative lobe by it.

    Args:
        subject: what to clip; weights stay as they are.
        limit: largest value that is not clipped.
        better: let the histogram choose another limit where that is clearly better.

    Raises:
        TuneError: no tensor loses its negative lobe, or none can regain it.
    """
    found, hopeless = _clipped(subject, limit, better=better)
    note = f"tensors that lose all negative values under any good range: {len(hopeless)}"
    if not found:
        raise TuneError(
            "GELU clipping",
            note
            if hopeless
            else "no output of GELU, SiLU or Hardswish loses its negative values under this recipe",
            "Leave it out; it helps where few values are far out and half a step hides the lobe",
        )
    recipe, changes = subject.recipe, []
    report = Reporter("GELU clipping", len(found), subject.progress)
    for name, (clip, grid) in found.items():
        h, old = subject.histograms()[name], recipe.range_of[name]
        recipe = recipe.with_range(name, clip.lo, clip.hi)
        before = describe(h, ClipRange(old.lo, old.hi), grid).mse
        moved = f"{old.hi:.4g} -> {clip.hi:.4g}, lowest value {h.min:.3g}"
        changes.append(Change(name, "range", before, describe(h, clip, grid).mse, UNIT, moved))
        report.step(name)
    return Step(recipe, None, tuple(changes), (note,) if hopeless else ())
