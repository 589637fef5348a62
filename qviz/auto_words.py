"""An escalation in words: one sentence per step, and what to know about the number at the end."""

from __future__ import annotations

from collections.abc import Sequence

from qviz.auto import AutoStep, Samples
from qviz.digits import duration, number, percent, scored, span
from qviz.intervals import Interval
from qviz.metrics import Metric


def sentence(step: AutoStep, metric: Metric) -> str:
    """What was tried, what it did with its interval, what became of it and why, and how long."""
    parts = []
    if step.after is not None:
        after = scored(step.after, metric)
        text = f"{metric.name} {after}"
        if step.before is not None:
            text = f"{metric.name} {scored(step.before, metric)} -> {after}"
            if step.gain is not None:
                noise = ": noise" if step.noise else ""
                text += f" ({percent(step.gain, signed=True)}, 95 % {_gain(step)}{noise})"
        parts.append(f"{text}, drop from float {percent(step.drop)} (95 % {_drop(step)})")
    outcome = "nothing done" if step.outcome == "idle" else step.outcome
    parts.append(f"{outcome}: {step.reason}")
    parts.append(duration(step.seconds))
    return f"{step.title}: {'; '.join(parts)}"


def _gain(step: AutoStep) -> str:
    return span(_interval(step.gain_low, step.gain_high))


def _drop(step: AutoStep) -> str:
    found = _interval(step.drop_low, step.drop_high)
    return "-" if found is None else f"{percent(found.low)} to {percent(found.high)}"


def _interval(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else Interval(low, high)


def notes(
    best: AutoStep | None,
    measured: int,
    max_drop: float,
    data: Sequence[Samples],
    *,
    confirmed: bool,
) -> tuple[str, ...]:
    """What to know about the number of the best variant.

    Args:
        best: whose number it is.
        measured: variants that the evaluation data chose among.
        max_drop: the target.
        data: what was used for what.
        confirmed: whether it was measured on other data too.
    """
    found = []
    evaluation = next((d for d in data if d.role == "evaluation"), None)
    if best is None or evaluation is None:
        return ()
    drop, high = best.drop, best.drop_high
    if drop is not None and high is not None and drop <= max_drop < high:
        found.append(
            f"The drop of {percent(drop)} is within the target of {percent(max_drop)}, its 95 % "
            f"interval reaches {percent(high)}: {evaluation.count} samples do not prove it"
        )
    if measured > 1:
        text = (
            f"{measured} variants were measured on the evaluation data ({evaluation.name}, "
            f"{evaluation.count} samples), and they chose this one: its number is optimistic by "
            "that selection"
        )
        if not confirmed:
            text += ". Measure it on data that chose nothing with --confirm DATA"
        found.append(text)
    return tuple(found)


def fell(before: float, after: float, name: str) -> str:
    """A divergence that fell, or did not."""
    verb = "falls" if after < before else "does not fall"
    return f"the divergence {verb} ({name} {number(before)} -> {number(after)})"
