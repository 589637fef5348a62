"""qviz: turn a float PyTorch model into an INT8 one and see why it works.

The whole job in six lines::

    session = qviz.open("resnet18.pt2", calibration="calib/", evaluation="val/")
    session.calibrate()                              # one pass: every histogram, every candidate
    recipe = session.recipe(calibrator="entropy")    # pure, instant; no new pass
    scores = session.sensitivity(recipe)             # worst first, with error bars
    best = session.search(recipe, max_drop=0.01)     # skip the few ops that matter
    session.export(best, "out/", formats=["checkpoint"])

Names are imported when they are first used, so ``import qviz`` costs almost nothing. A function
whose module has its own name is not repeated here (a submodule and a function cannot share an
attribute): ``from qviz.capture import capture``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qviz.affine import Grid, QuantParams, dequantize, fake_quantize, quantize
    from qviz.calibrators import CALIBRATORS, Candidate, candidates, clip_range
    from qviz.data import Batch
    from qviz.errors import QvizError
    from qviz.export.into import import_recipe
    from qviz.graph import Graph
    from qviz.histogram import Histogram
    from qviz.int8.checkpoint import load_checkpoint
    from qviz.metrics import METRICS, Metric
    from qviz.opening import open
    from qviz.recipe import Override, Recipe
    from qviz.session import Session

__all__ = [
    "CALIBRATORS",
    "METRICS",
    "Batch",
    "Candidate",
    "Graph",
    "Grid",
    "Histogram",
    "Metric",
    "Override",
    "QuantParams",
    "QvizError",
    "Recipe",
    "Session",
    "__version__",
    "candidates",
    "clip_range",
    "dequantize",
    "fake_quantize",
    "import_recipe",
    "load_checkpoint",
    "open",
    "quantize",
]

_HOME = {
    "qviz.affine": ("Grid", "QuantParams", "dequantize", "fake_quantize", "quantize"),
    "qviz.calibrators": ("CALIBRATORS", "Candidate", "candidates", "clip_range"),
    "qviz.data": ("Batch",),
    "qviz.errors": ("QvizError",),
    "qviz.export.into": ("import_recipe",),
    "qviz.graph": ("Graph",),
    "qviz.histogram": ("Histogram",),
    "qviz.int8.checkpoint": ("load_checkpoint",),
    "qviz.metrics": ("METRICS", "Metric"),
    "qviz.opening": ("open",),
    "qviz.recipe": ("Override", "Recipe"),
    "qviz.session": ("Session",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name where it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'qviz' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        importlib.import_module("qviz.notebook")  # a bare cell shows figures and tables
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
