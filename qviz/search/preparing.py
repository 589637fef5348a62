"""Prepare a network at every width that layers may get: ranges that suit it, or a reconstruction.

A range made for 256 steps is too wide for 16. Which calibrator does best at few steps differs from
model to model, so unless one is named each is tried: everything but the first and last ops at that
width, and the least divergence from float on calibration samples wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from qviz.calibrators import clip_range
from qviz.data import Data
from qviz.evaluate import Outputs, divergence_metric, outputs
from qviz.histogram import Histogram
from qviz.metrics import score
from qviz.progress import Reporter
from qviz.recipe import Recipe, TensorRange, activation_grid
from qviz.search.mixing import Networks, Prepared
from qviz.search.widths import BASE, Width
from qviz.simulate import Simulator
from qviz.tune.step import Subject
from qviz.weights import TunedWeights, tuned_graph

#: Tried for activations below 8 bits.
CANDIDATES = ("mse", "sqnr", "entropy", "percentile:99.9", "percentile:99.99", "max")
#: Calibration samples that candidates are compared on.
TRIED_ON = 128


def base_recipe(recipe: Recipe) -> Recipe:
    """The recipe with everything int8 at the base's width; what is float stays float."""
    plain = tuple(replace(o, bits=None) for o in recipe.overrides if o.int8 is not None)
    return replace(
        recipe, weight_bits=BASE.weights, activation_bits=BASE.activations, overrides=plain
    )


def prepare(subject: Subject, widths: Iterable[Width], *, calibrator: str = "auto") -> Networks:
    """The subject's network at each width, by ranges alone; weights are rounded to nearest.

    Args:
        subject: the model and its recipe, whose ranges are those at 8 bits.
        widths: what is offered beside the base.
        calibrator: of activations below 8 bits; ``auto`` tries ``CANDIDATES``.
    """
    recipe = base_recipe(subject.recipe)
    at = {BASE: Prepared(recipe)}
    narrow = sorted({w.activations for w in widths} - {BASE.activations}, reverse=True)
    ranged = {BASE.activations: recipe}
    for bits in narrow:
        ranged[bits] = _ranged(subject, recipe, bits, calibrator)
    at |= {width: Prepared(ranged[width.activations]) for width in widths if width != BASE}
    return Networks(subject.graph, subject.original, at)


def _ranged(subject: Subject, recipe: Recipe, bits: int, calibrator: str) -> Recipe:
    if calibrator != "auto":
        return at_bits(subject, recipe, bits, calibrator)
    data = subject.calibration.head(TRIED_ON)
    reference = outputs(subject.original.program, data, batch_size=subject.batch_size)
    report = Reporter(f"ranges at {bits} bits", len(CANDIDATES), subject.progress)
    found: dict[str, tuple[float, Recipe]] = {}
    for spec in CANDIDATES:
        tried = at_bits(subject, recipe, bits, spec)
        width = Width(BASE.weights, bits)
        networks = Networks(
            subject.graph, subject.original, {BASE: Prepared(recipe), width: Prepared(tried)}
        )
        mixed, _ = networks.mixed({la.name: width for la in networks.layers if not la.end})
        found[spec] = (divergence(subject.simulator, mixed, data, reference, subject), tried)
        report.step(f"{spec}: {found[spec][0]:.4g}")
    return min(found.values(), key=lambda item: item[0])[1]


def at_bits(subject: Subject, recipe: Recipe, bits: int, calibrator: str) -> Recipe:
    """The recipe with the ranges that a calibrator gives for activations of this many bits.

    A range that a person set keeps its numbers.
    """
    histograms = subject.histograms()
    ranges = tuple(_range(r, histograms, subject, recipe, bits, calibrator) for r in recipe.ranges)
    return replace(recipe, ranges=ranges)


def _range(
    known: TensorRange,
    histograms: Mapping[str, Histogram],
    subject: Subject,
    recipe: Recipe,
    bits: int,
    calibrator: str,
) -> TensorRange:
    h = histograms.get(known.tensor)
    if h is None or not h.finite or known.calibrator.partition(":")[0] == "fixed":
        return known
    clip = clip_range(h, calibrator, activation_grid(recipe, subject.graph, known.tensor, bits))
    return TensorRange(known.tensor, clip.lo, clip.hi, calibrator)


def divergence(
    simulator: Simulator, recipe: Recipe, data: Data, reference: Outputs, subject: Subject
) -> float:
    """Mean divergence of a recipe's outputs from the float model's, on calibration samples."""
    made = outputs(
        simulator.program, data, simulator.edits(recipe), batch_size=subject.batch_size
    ).values
    metric = divergence_metric(reference.values)
    return score(metric, made, None, reference.values).value


def tuned_divergence(
    subject: Subject, recipe: Recipe, weights: TunedWeights, data: Data, reference: Outputs
) -> float:
    """The same for weights tuned relative to the subject's graph."""
    simulator = subject.simulator
    if weights:
        simulator = Simulator(tuned_graph(subject.graph, weights))
    return divergence(simulator, recipe, data, reference, subject)


def offered(bits: Sequence[int], activations: str = "8") -> tuple[Width, ...]:
    """The widths that bits stand for: activations kept at 8, the ``same`` as weights, or ``both``.

    The base is always among them.
    """
    kept = [Width(b, BASE.activations) for b in bits] if activations in ("8", "both") else []
    same = [Width(b, b) for b in bits] if activations in ("same", "both") else []
    return tuple(sorted({BASE, *kept, *same}, reverse=True))
