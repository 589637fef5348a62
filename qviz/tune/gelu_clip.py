"""GELU10: clip what comes out of GELU, SiLU or Hardswish, so that its negative side keeps codes.

These functions never go far below zero (GELU -0.17, SiLU -0.28, Hardswish -0.375) but reach far
above it. On a symmetric grid over [-50, 50] half a step is 0.197: all negative outputs round to 0.
Wu et al. 2020 (arXiv 2004.09602, GELU10) clip the range to 10 before calibration, so that the
negative lobe gets codes of its own; NVIDIA's code does it by clamping the amax of the input
quantizer behind (``--clip-gelu 10``).

A tensor is proposed where its histogram shows the loss: it has negative values, and the largest of
them lies below half a step of its range. The limit is 10 unless the histogram prefers another: if
10 is no smaller than the range, or some range leaves clearly less squared error, that range of
least error is taken.
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
    Option("better", True, "let the histogram choose another limit where that is clearly better"),
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
    """Tensors whose whole negative lobe rounds to zero under the recipe, widest range first."""
    widths = bits_of(subject.recipe, subject.graph)
    names = [t for t in lobed(subject.graph) if t in widths and wanted(subject, t)]
    if not names:
        return ()
    found = {}
    for name in names:
        grid = activation_grid(subject.recipe, subject.graph, name, widths[name])
        known, h = subject.recipe.range_of[name], subject.histograms()[name]
        if h.finite and lost(h, ClipRange(known.lo, known.hi), grid):
            found[name] = known.hi
    return tuple(sorted(found, key=lambda name: -found[name]))


def lost(h: Histogram, clip: ClipRange, grid: Grid) -> bool:
    """Whether there are negative values and all of them round to zero."""
    params = range_params(clip.lo, clip.hi, grid)
    return h.min < 0 and int(params.zero_point) == 0 and -h.min <= float(params.scale) / 2


def limited(h: Histogram, now: ClipRange, grid: Grid, limit: float, *, better: bool) -> ClipRange:
    """The range to take: to ``limit``, or that of least squared error where it is clearly better.

    Args:
        h: of the tensor.
        now: its range.
        grid: its grid.
        limit: largest value that is not clipped.
        better: whether the histogram may choose.
    """
    clipped = _cut(h, min(limit, now.hi), grid)
    if not better:
        return clipped
    least = clip_range(h, "mse", grid)
    pointless = clipped.hi >= now.hi
    of_least, of_clipped = (describe(h, c, grid).mse for c in (least, clipped))
    return least if pointless or of_least < _CLEARLY * of_clipped else clipped


def _cut(h: Histogram, limit: float, grid: Grid) -> ClipRange:
    return ClipRange(-limit if grid.symmetric else min(h.min, 0.0), limit)


def apply(subject: Subject, *, limit: float = 10.0, better: bool = True) -> Step:
    """Clip the ranges of ``sites``.

    Args:
        subject: what to clip; weights stay as they are.
        limit: largest value that is not clipped.
        better: let the histogram choose another limit where that is clearly better.

    Raises:
        TuneError: no tensor loses its negative lobe.
    """
    names = sites(subject)
    if not names:
        raise TuneError(
            "GELU clipping",
            "no output of GELU, SiLU or Hardswish loses its negative values under this recipe",
            "Leave it out; it helps where half a step is larger than the lobe",
        )
    widths, histograms = bits_of(subject.recipe, subject.graph), subject.histograms()
    recipe, changes, still = subject.recipe, [], 0
    report = Reporter("GELU clipping", len(names), subject.progress)
    for name in names:
        grid, h = activation_grid(recipe, subject.graph, name, widths[name]), histograms[name]
        now = ClipRange(recipe.range_of[name].lo, recipe.range_of[name].hi)
        clip = limited(h, now, grid, limit, better=better)
        still += lost(h, clip, grid)
        recipe = recipe.with_range(name, clip.lo, clip.hi)
        before, after = describe(h, now, grid).mse, describe(h, clip, grid).mse
        note = f"{now.hi:.4g} -> {clip.hi:.4g}, lowest value {h.min:.3g}"
        changes.append(Change(name, "range", before, after, UNIT, note))
        report.step(name)
    note = f"{still} of {len(names)} tensors still lose all negative values: too few codes"
    return Step(recipe, None, tuple(changes), (note,) if still else ())
