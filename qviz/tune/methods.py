"""METHODS: every way to win accuracy back, as rows of one table.

A row names a module of this package with ``OPTIONS``, ``sites(subject)`` and
``apply(subject, **options)`` (step.py). To add a method: write the module, add its row. It then
appears in the app, the command line and the API.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from qviz.errors import TuneError
from qviz.tune.step import Option, Step, Subject

Cost = Literal["seconds", "minutes", "hours"]


class Module(Protocol):
    """What the module of a method has."""

    OPTIONS: tuple[Option, ...]

    def sites(self, subject: Subject, **options: float | int | str | bool) -> tuple[str, ...]:
        """Ops or tensors that it can change, most promising first where that is known.

        Of its options it takes those that decide this (``Option.sites``).
        """

    def apply(self, subject: Subject, **options: float | int | str | bool) -> Step:
        """Do it; ``TuneError`` where it cannot be done."""


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as the command line and recipes call it; also its module.
        title: as a person reads it.
        what: one sentence: what it does and when it helps.
        source: paper or tool it comes from.
        cost: order of magnitude of its time on a CPU.
        needs: beyond unlabelled calibration data: ``training``.
    """

    name: str
    title: str
    what: str
    source: str
    cost: Cost
    needs: tuple[str, ...] = ()

    @property
    def module(self) -> Module:
        """Its code, imported when first asked for."""
        return cast(Module, importlib.import_module(f"qviz.tune.{self.name}"))

    def deciding(
        self, options: Mapping[str, float | int | str | bool]
    ) -> dict[str, float | int | str | bool]:
        """Those of the options that decide where it applies, where they are not the default."""
        known = {o.name: o.default for o in self.module.OPTIONS if o.sites}
        return {k: v for k, v in options.items() if k in known and v != known[k]}


#: In the order in which a person would try them.
_ROWS: tuple[Method, ...] = (
    Method(
        "gelu_clip",
        "GELU clipping (GELU10)",
        "Clips what GELU, SiLU or Hardswish make, where their negative side rounds to zero.",
        "Wu et al. 2020, GELU10",
        "seconds",
    ),
    Method(
        "equalization",
        "Cross-layer equalization",
        "Evens out the weights of neighbouring ops; helps where a tensor has one weight scale.",
        "Nagel et al. 2019, Data-Free Quantization, section 4.1",
        "seconds",
    ),
    Method(
        "smoothing",
        "Smoothing (SmoothQuant, DMQ balancer)",
        "Moves outliers of activation channels behind a norm into the weights that read them.",
        "Xiao et al. 2023, SmoothQuant; AMCT, DMQ balancer",
        "seconds",
    ),
    Method(
        "calibrator",
        "Ranges by another calibrator",
        "Gives the tensors chosen, or all, the ranges that another calibrator finds.",
        "Wu et al. 2020, section 3.3",
        "seconds",
    ),
    Method(
        "ifmr",
        "IFMR ranges",
        "Activation ranges by AMCT's default search, at each tensor's own bit width.",
        "AMCT, IFMR",
        "seconds",
    ),
    Method(
        "hfmg",
        "HFMG ranges",
        "Activation ranges by AMCT's histogram search, at each tensor's own bit width.",
        "AMCT, HFMG",
        "seconds",
    ),
    Method(
        "more_bits",
        "More bits",
        "Gives the ops chosen more bits: for the few that cannot do with what the others have.",
        "Hubara et al. 2021, CalibTIP: bits per layer",
        "seconds",
    ),
    Method(
        "weight_range",
        "Weight range search",
        "Clips each weight channel where that leaves less error: essential at 4 bits.",
        "Nagel et al. 2020, AdaRound (its starting grid)",
        "seconds",
    ),
    Method(
        "bias_correction",
        "Bias correction",
        "Takes the mean error of every output channel off the bias, op after op.",
        "Nagel et al. 2019, Data-Free Quantization",
        "seconds",
    ),
    Method(
        "statistics",
        "Statistics tuning (BN re-estimation)",
        "Brings mean and variance behind each op that had a batch norm back to those of float.",
        "Hubara et al. 2021, CalibTIP",
        "seconds",
    ),
    Method(
        "bias_tuning",
        "Bias tuning",
        "Trains only the biases towards the float model's outputs; no labels.",
        "Hubara et al. 2021, CalibTIP",
        "minutes",
    ),
    Method(
        "adaround",
        "AdaRound",
        "Rounds each weight up or down, whichever the op's output wants; for weights of few bits.",
        "Nagel et al. 2020, Up or Down?",
        "minutes",
    ),
    Method(
        "adaquant",
        "AdaQuant",
        "Fits weights, bias and ranges of each op to its float output; for 4 bits and the like.",
        "Hubara et al. 2021, AdaQuant",
        "minutes",
    ),
    Method(
        "qat",
        "Quantization-aware training (QAT)",
        "Trains the weights with rounding in the forward pass, where nothing cheaper suffices.",
        "Wu et al. 2020, section 6 and eq. 13",
        "hours",
        ("training",),
    ),
    Method(
        "codebook",
        "Codebook",
        "K-means over each weight, stored as numbers of few bits: smaller to ship, not faster.",
        "Han et al. 2016, Deep Compression, section 3",
        "seconds",
    ),
    Method(
        "nuq",
        "Non-uniform steps (NUQ)",
        "Each weight uses a few of its codes, where its values are: smaller to ship, not faster.",
        "AMCT, NUQ algorithm for weight quantization",
        "seconds",
    ),
    Method(
        "pruning",
        "Magnitude pruning",
        "The smallest weights of each op become zero: smaller once entropy-coded, not faster.",
        "Han et al. 2016, Deep Compression, section 2",
        "seconds",
    ),
)

METHODS: dict[str, Method] = {m.name: m for m in _ROWS}


def method(name: str) -> Method:
    """A method by name.

    Raises:
        TuneError: there is none.
    """
    if name not in METHODS:
        raise TuneError(f"method {name!r}", "does not exist", f"Use one of {', '.join(METHODS)}")
    return METHODS[name]
