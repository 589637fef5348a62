"""IFMR, AMCT's default range search for activations, at each tensor's own bit width.

The calibrator of the same name (``calibrators.py``) says how it chooses; ``recipe("ifmr")`` has the
same ranges. As a method it changes an existing recipe, or only some of its tensors.
"""

from __future__ import annotations

from qviz.tune.range_methods import recalibrated, sites
from qviz.tune.step import Option, Step, Subject

__all__ = ["OPTIONS", "apply", "sites"]

OPTIONS = (
    Option("max_percent", 99.9999, "percentile that the upper end starts from", 50.0, 100.0),
    Option("min_percent", 99.9999, "percentile of the lower end", 50.0, 100.0),
    Option("start", 0.7, "smallest factor tried", 0.01, 10.0),
    Option("stop", 1.3, "factors stay below this", 0.01, 10.0),
    Option("step", 0.01, "from one factor to the next", 0.01, 10.0),
)


def apply(
    subject: Subject,
    *,
    max_percent: float = 99.9999,
    min_percent: float = 99.9999,
    start: float = 0.7,
    stop: float = 1.3,
    step: float = 0.01,
) -> Step:
    """Ranges by IFMR; arguments as AMCT's ``max_percentile``, ``search_range``, ``search_step``."""
    values = (max_percent, min_percent, start, stop, step)
    return recalibrated(subject, "IFMR", ":".join(map(str, ("ifmr", *values))))
