"""HFMG, AMCT's histogram range search for activations, at each tensor's own bit width.

The calibrator of the same name (``calibrators.py``) says how it chooses; ``recipe("hfmg")`` has the
same ranges. As a method it changes an existing recipe, or only some of its tensors.
"""

from __future__ import annotations

from qviz.tune.range_methods import recalibrated, sites
from qviz.tune.step import Option, Step, Subject

__all__ = ["OPTIONS", "apply", "sites"]

OPTIONS = (Option("bins", 4096, "bins of the histogram; AMCT has 1024 to 8192", 256, 16384),)


def apply(subject: Subject, *, bins: int = 4096) -> Step:
    """Ranges by HFMG; ``bins`` is AMCT's ``num_of_bins``."""
    return recalibrated(subject, "HFMG", f"hfmg:{bins}")
