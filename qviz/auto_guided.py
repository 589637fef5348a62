"""The guided strategy: what costs little first, and no more than the target needs.

    calibrators              every candidate measured; the best is the base of all that follows
    cheap fixes              one after the other on the base, each kept only if it helps
    partial quantization     the worst ops to float, up to 5 % of the MACs; if that is not enough,
                             as many as it takes, kept in case nothing better is found
    reconstruction           AdaQuant, every op on what the ops before it make
    training                 quantization-aware, if there is training data

Below 8 bits, partial quantization is followed by more bits: the worst ops at 8. Both come again
after whatever changed the base. It stops as soon as a variant is within the target with at most 5 %
of the MACs in float and at the bits asked for; a variant that needs more is kept, and the later
stages may still find one that needs less.

Sources: the order is Wu et al. 2020 (arXiv:2004.09602, section 6) with the reconstruction of
Hubara et al. 2021 (arXiv:2006.10518, section 3) before training.
"""

from __future__ import annotations

from qviz.auto_bits import more_bits
from qviz.auto_calibrators import calibrators
from qviz.auto_partial import partial, starts
from qviz.auto_tune import TRAINING, tune
from qviz.auto_work import Work
from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.digits import percent

CANDIDATES = (*DEFAULT_CANDIDATES, "ifmr", "hfmg")
#: Cheap fixes in the order in which they build on each other: first what moves scale between
#: tensors, then ranges, then what corrects the errors that are left.
FIXES = (
    "gelu_clip",
    "equalization",
    "smoothing",
    "weight_range",
    "bias_correction",
    "statistics",
    "bias_tuning",
)
#: Of these, what is tried again after a reconstruction (the advanced pipeline of Hubara et al.).
AFTER_RECONSTRUCTION = ("statistics", "bias_tuning")
SEQUENTIAL = (("mode", "sequential"),)


def guided(work: Work) -> str:
    """Go through the stages until the target is met.

    Returns:
        Why it ended, in words.

    Raises:
        InputError: no calibrator could be measured.
    """
    calibrators(work, work.options.calibrators or CANDIDATES)
    if work.base is None:
        if work.first_error is not None:
            raise work.first_error
        return "the time budget was used up before anything was measured"
    spend = (partial, more_bits)
    for stage in (fixes, *spend, reconstruction, *spend, training, *spend):
        if not work.enough:
            stage(work)
    return ended(work)


def line_met(work: Work) -> bool:
    """Whether the main line meets the target by itself."""
    drop = None if work.base is None else work.base.drop
    return drop is not None and drop <= work.options.max_drop


def fixes(work: Work) -> None:
    """Each cheap fix on the base, until the target is met."""
    for name in FIXES:
        if not line_met(work):
            tune(work, "cheap fixes", name)


def reconstruction(work: Work) -> None:
    """AdaQuant, op after op, on the base and on what that was before it was corrected."""
    for start in starts(work):
        if not line_met(work):
            # what is fitted before is fitted anew: a second start may end elsewhere
            tune(work, "reconstruction", "adaquant", SEQUENTIAL, origin=start)
    if work.base is not None and work.base.stage == "reconstruction":
        for name in AFTER_RECONSTRUCTION:
            if not line_met(work):
                tune(work, "reconstruction", name)


def training(work: Work) -> None:
    """Quantization-aware training from the base, within the time that is left."""
    if work.session.training_data is not None:
        tune(work, "training", TRAINING)


def ended(work: Work) -> str:
    """Why it stopped, in words."""
    best, target = work.best, percent(work.options.max_drop)
    assert best is not None
    if work.enough:
        return f"the target of {target} is met"
    late = [s.title for s in work.steps if s.outcome == "skipped"]
    text = f"the target of {target} is not met: this is the best found"
    if work.met and best.stage == "more bits":
        text = f"the target of {target} is met with some ops at 8 bits, nothing met it without"
    elif work.met:
        share = percent(best.float_macs)
        text = (
            f"the target of {target} is met with {share} of MACs in float, nothing met it with less"
        )
    if late:
        return f"{text}; there was no time for {', '.join(dict.fromkeys(late))}"
    if not work.met and work.session.training_data is None:
        text += "; there were no training data to train with"
    return text
