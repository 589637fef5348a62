"""What came of tuning: the new recipe with what it scored before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qviz.evaluate import Evaluation
from qviz.intervals import Interval
from qviz.recipe import Recipe
from qviz.tune.step import Change


@dataclass(frozen=True, eq=False)
class Tuning:
    """One method applied to a recipe, measured before and after on the same samples.

    Attributes:
        method: its name.
        title: its name in words.
        options: all of its options.
        ops: what it was restricted to, None if to nothing.
        start: the recipe it began with.
        recipe: the recipe it gave.
        before: ``start`` measured, None without evaluation data.
        after: ``recipe`` measured.
        gain: relative change of the metric from before to after, positive is better.
        interval: 95 % paired bootstrap interval of ``gain``.
        changes: what changed, row by row.
        notes: what a person should know.
        seconds: of the method alone, without the measurements.
        seed: of everything random.
        calibration: samples it could fit on.
        training: samples it could train on, 0 if there are none.
        evaluation: samples it was measured on.
        record: further numbers of the method.
    """

    method: str
    title: str
    options: Mapping[str, float | int | str | bool]
    ops: tuple[str, ...] | None
    start: Recipe
    recipe: Recipe
    before: Evaluation | None
    after: Evaluation | None
    gain: float | None
    interval: Interval | None
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    seconds: float
    seed: int
    calibration: int
    training: int
    evaluation: int
    record: Mapping[str, float | int | str]

    @property
    def noise(self) -> bool | None:
        """Whether the data cannot tell before from after; None if nothing was measured."""
        return None if self.interval is None else 0.0 in self.interval

    @property
    def summary(self) -> str:
        """One or two sentences for a person."""
        text = f"{self.title}: {len(self.changes)} changes in {self.seconds:.1f} s"
        if self.before is None or self.after is None or self.interval is None:
            return f"{text}, not measured (no evaluation data)"
        name, low, high = self.after.metric.name, self.interval.low, self.interval.high
        text += f", {name} {self.before.value:.4g} -> {self.after.value:.4g}"
        text += f" ({self.gain:+.2%}, 95 % {low:+.2%} to {high:+.2%})"
        if self.noise:
            text += ": inside the interval, noise"
        if self.before.divergence != self.after.divergence:
            text += (
                f"; {self.after.divergence_name} from float {self.before.divergence:.3g} -> "
                f"{self.after.divergence:.3g}"
            )
        return text

    def row(self) -> dict[str, Any]:
        """The row of the record; plain values."""
        return {
            "method": self.method,
            "title": self.title,
            "options": dict(self.options),
            "ops": None if self.ops is None else list(self.ops),
            "start": self.start.to_json(),
            "recipe": self.recipe.to_json(),
            "metric": None if self.after is None else self.after.metric.name,
            "float": None if self.after is None else self.after.reference.value,
            "before": None if self.before is None else self.before.value,
            "after": None if self.after is None else self.after.value,
            "divergence_before": None if self.before is None else self.before.divergence,
            "divergence_after": None if self.after is None else self.after.divergence,
            "gain": self.gain,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "changes": len(self.changes),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "seed": self.seed,
            "samples": {
                "calibration": self.calibration,
                "training": self.training,
                "evaluation": self.evaluation,
            },
            "record": dict(self.record),
        }
