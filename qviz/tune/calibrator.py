"""Ranges by another calibrator: for some tensors only, or for all.

A recipe's ranges come from one calibrator, and no calibrator is best for every tensor. This gives
the tensors asked for the range that another one finds at their own bit width; no new pass.
"""

from __future__ import annotations

from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.tune import range_methods
from qviz.tune.step import Option, Step, Subject

OPTIONS = (Option("calibrator", "mse", "whose ranges to take", choices=DEFAULT_CANDIDATES),)


def sites(subject: Subject) -> tuple[str, ...]:
    """Tensors read as int8, those with the most expected error per power first."""
    return range_methods.sites(subject)


def apply(subject: Subject, *, calibrator: str = "mse") -> Step:
    """Take another calibrator's ranges.

    Args:
        subject: what to tune; weights stay as they are.
        calibrator: its spec.

    Raises:
        TuneError: no activation is read as int8.
    """
    return range_methods.recalibrated(subject, f"ranges by {calibrator}", calibrator)
