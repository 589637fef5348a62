"""What a report says, as values: ``reporting.py`` gathers them, ``report.py`` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qviz.calibrators import Candidate
from qviz.coverage import CoverageRow
from qviz.evaluate import Evaluation
from qviz.histogram import Histogram
from qviz.intervals import Interval
from qviz.metrics import Metric
from qviz.recipe import Recipe
from qviz.recipe_diff import Difference
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity
from qviz.tables_tune import Tried


@dataclass(frozen=True)
class Measured:
    """One recipe measured on the evaluation data, without the scores of each sample.

    Attributes:
        value: the metric of the quantized model.
        float_value: the metric of the float model.
        change: relative change of the metric.
        interval: 95 % paired bootstrap interval of it.
        divergence: mean distance of the outputs from the float model's.
        divergence_name: ``kl`` or ``mse``.
        flips: predictions that changed.
        samples: number of samples.
    """

    value: float
    float_value: float
    change: float
    interval: Interval
    divergence: float
    divergence_name: str
    flips: int
    samples: int

    @staticmethod
    def of(found: Evaluation) -> Measured:
        """Of an evaluation just made."""
        return Measured(
            found.value,
            found.reference.value,
            found.change,
            found.interval,
            found.divergence,
            found.divergence_name,
            len(found.flips),
            found.scores.count,
        )


@dataclass(frozen=True)
class Source:
    """Where the model or data came from.

    Attributes:
        role: ``model``, ``calibration data`` ...
        name: as it was named.
        digest: of its contents.
        count: number of samples; None for a model.
    """

    role: str
    name: str
    digest: str
    count: int | None = None


@dataclass(frozen=True)
class Escalation:
    """How ``qviz auto`` found a recipe.

    Attributes:
        ended: why it stopped, in words.
        steps: what was tried, in order: stage, what became of it, the sentence with its numbers.
        notes: what to know about the number, in words.
        commands: what repeats the result.
    """

    ended: str
    steps: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RangeView:
    """One tensor with the range that the recipe gives it.

    Attributes:
        tensor: its name.
        histogram: what calibration saw.
        candidates: with the recipe's range among them.
        selected: ``calibrator`` of the recipe's range among the candidates.
        readers: operands that read it as int8.
    """

    tensor: str
    histogram: Histogram
    candidates: tuple[Candidate, ...]
    selected: str
    readers: tuple[str, ...]

    @property
    def chosen(self) -> Candidate:
        """The recipe's range, with what it costs."""
        return next(one for one in self.candidates if one.calibrator == self.selected)


@dataclass(frozen=True, eq=False)
class Content:
    """Everything in a report; what is None or empty was not measured, and the page says so.

    Attributes:
        name: of the model.
        metric: what is measured.
        recipe: the decision.
        base: what the recipe is compared with, in words.
        differences: from it.
        measured: the recipe on the evaluation data.
        calibrators: everything int8 by calibrator; ``(calibrator, per channel)`` -> measured.
        coverage: every op.
        macs: multiply-accumulates per sample.
        ranges: the tensors with the lowest SQNR under the recipe, lowest first.
        tensors: how many tensors have a range.
        calibration_samples: that the ranges come from.
        sensitivity: an only-this ranking.
        ranked: what the ranking was measured with, in words, if not with this recipe.
        search: for the ops to leave in float.
        tried: every step of tuning in the run, oldest first.
        escalation: how the recipe was found, if ``qviz auto`` found it.
        certificate: ``certificate.json`` of the int8 checkpoint of this recipe.
        stale: why there is a certificate that says nothing about it; "" otherwise.
        sources: model and data.
        versions: package -> version.
        created: when the report was made, UTC.
        command: what made the run.
        again: commands that do the recipe again.
        python: Python that does the same; "" where that is not known.
        warnings: what is doubtful.
    """

    name: str
    metric: Metric
    recipe: Recipe
    base: str
    differences: tuple[Difference, ...]
    measured: Measured | None
    calibrators: Mapping[tuple[str, bool], Measured]
    coverage: Sequence[CoverageRow]
    macs: int
    ranges: Sequence[RangeView]
    tensors: int
    calibration_samples: int
    sensitivity: Sensitivity | None = None
    ranked: str = ""
    search: SearchResult | None = None
    tried: tuple[Tried, ...] = ()
    escalation: Escalation | None = None
    certificate: Mapping[str, Any] | None = None
    stale: str = ""
    sources: tuple[Source, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    command: str = ""
    again: str = ""
    python: str = ""
    warnings: tuple[str, ...] = ()
