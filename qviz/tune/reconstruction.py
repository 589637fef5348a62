"""Reconstruction: each op in turn is fitted to what it makes in the float model.

``adaround`` and ``adaquant`` say what of an op is changed; everything else is here. No labels are
needed. A part of the samples is held out from every fit: the best state on them is kept, and an op
whose loss on them did not fall keeps what it had.

*parallel*: each op reads its float inputs, so no op's result depends on another's width.
*sequential*: it reads what the ops tuned before it make, and so undoes part of their error. Its
goal is the float model's output either way (Hubara et al. 2021, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from qviz.affine import Grid, fake_quantize, symmetric_params
from qviz.collate import Batch, concatenate
from qviz.errors import TuneError
from qviz.execute import Edit
from qviz.progress import Reporter
from qviz.recipe import TensorRange, resolve
from qviz.simulate import FakeQuantize
from qviz.tune.importance import importance_of
from qviz.tune.lockstep import BUDGET, peak_bytes
from qviz.tune.reconstruction_cache import record
from qviz.tune.reconstruction_fit import Fit, fit
from qviz.tune.reconstruction_state import AsItIs, State, Variables
from qviz.tune.reconstruction_units import Unit, Units
from qviz.tune.reconstruction_walk import Walk
from qviz.tune.samples import drawn, rows_of
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import NOTHING, TunedWeights, with_bias

UNIT = "held-out error / output power"
#: Names in a note.
_NAMED = 6

#: Options that both methods have.
COMMON = (
    Option(
        "mode",
        "sequential",
        "each op reads what the ops tuned before it make, or (parallel) its float inputs",
        choices=("sequential", "parallel"),
    ),
    Option("iterations", 200, "steps of Adam per op", 1, 100_000),
    Option("batch_size", 32, "windows, rows or samples per step", 1, 10_000),
    Option("samples", 512, "calibration samples, those held out among them", 2),
    Option("holdout", 0.2, "part of the samples that no fit sees", 0.01, 0.9),
)


@dataclass(frozen=True)
class Settings:
    """Options that both methods have; see ``COMMON``."""

    mode: str
    iterations: int
    batch_size: int
    samples: int
    holdout: float


def reconstruct(
    subject: Subject,
    title: str,
    units: Units,
    variables: Callable[[AsItIs], Variables],
    settings: Settings,
) -> Step:
    """Fit every unit and keep what the held-out samples say is better.

    Args:
        subject: what to tune.
        title: of the method, as a person reads it.
        units: what to fit, in execution order.
        variables: what to change of a unit.
        settings: how.

    Raises:
        TuneError: nothing can be fitted, there is one sample, or every fit diverged.
    """
    if not units.found:
        raise TuneError(title, _nothing(units), "Make ops int8 that have a weight of their own")
    if min(settings.samples, subject.calibration.count) < 2:
        raise TuneError(
            title,
            f"{subject.calibration.name} is one sample, which leaves none to hold out",
            "Give more calibration samples",
        )
    report = Reporter(title.lower(), len(units.found), subject.progress)
    work = _Work(subject, settings, report, units.found)
    for unit in units.found:
        work.fit(unit, variables)
        report.step(unit.op)
    if len(work.diverged) == len(units.found):
        raise TuneError(title, "every fit became NaN or infinite", "Use smaller learning rates")
    return Step(
        work.recipe,
        work.tuned or None,
        tuple(work.changes),
        tuple(work.notes(units)),
        work.numbers(),
    )


class _Work:
    """What has been fitted so far."""

    def __init__(
        self, subject: Subject, settings: Settings, report: Reporter, units: Sequence[Unit]
    ) -> None:
        self.recipe, self.tuned = subject.recipe, NOTHING
        self.changes: list[Change] = []
        self.kept: list[str] = []
        self.diverged: list[str] = []
        self._subject, self._settings, self._report = subject, settings, report
        self._fits: list[Fit] = []
        self._sequential = settings.mode == "sequential"
        same = subject.graph is subject.original.graph and not self._sequential
        asked = min(settings.samples, subject.calibration.count)
        walks = 1 if same else 2
        room = BUDGET // max(1, walks * peak_bytes(subject.simulator.program))
        self._samples = min(asked, max(2, room))
        self._short = asked - self._samples
        self._held_out = min(self._samples - 1, max(1, round(settings.holdout * self._samples)))
        batches, self._apart = _batches(subject, self._samples, self._held_out)
        self._reference = Walk(subject.original.program, {}, batches)
        edits = subject.simulator.edits(subject.recipe) if self._sequential else {}
        self._own = self._reference if same else Walk(subject.simulator.program, edits, batches)
        self._walked = walks * self._samples * subject.graph.macs
        original = subject.original.differentiable
        steps = {unit.op: unit.steps[-1] for unit in units}
        seed = subject.seed
        self._importance, self._alike = importance_of(original, steps, batches, seed, report)
        if self._importance:
            self._walked += 3 * self._samples * subject.graph.macs

    def fit(self, unit: Unit, variables: Callable[[AsItIs], Variables]) -> None:
        """Fit one unit; the walk goes on with what came of it."""
        subject, settings = self._subject, self._settings
        cache = record(
            unit,
            subject.simulator,
            self._reference,
            self._own,
            held_out=self._apart,
            seed=subject.seed,
            importance=self._importance.get(unit.op),
        )
        before = AsItIs(unit, cache, subject.simulator, self.recipe)
        shared = {
            o.position: unit.learned[o.tensor] for o in unit.inputs if o.tensor in unit.learned
        }
        found = fit(
            cache,
            before,
            variables(before),
            shared,
            iterations=settings.iterations,
            batch=settings.batch_size,
            seed=subject.seed + unit.steps[0],
            look=lambda: self._report.step(unit.op, 0),
        )
        self._fits.append(found)
        self._note(unit, found)
        if found.improved and found.state is not None:
            self._keep(unit, found.state)

    def _note(self, unit: Unit, found: Fit) -> None:
        what = "weight" if unit.weight is not None else "range"
        after = found.after if found.improved else found.before
        if found.improved:
            note = f"on samples fitted {found.fitted_before:.3g} -> {found.fitted_after:.3g}"
        elif found.state is None:
            note = "kept: the fit became NaN or infinite"
            self.diverged.append(unit.op)
        else:
            note = f"kept: the best fit has {found.after:.3g} on held-out samples"
            self.kept.append(unit.op)
        self.changes.append(Change(unit.op, what, found.before, after, UNIT, note))

    def _keep(self, unit: Unit, state: State) -> None:
        graph = self._subject.graph
        bits = resolve(self.recipe, graph)
        edits: list[tuple[int, Edit]] = []
        if unit.weight is not None and state.weight is not None and state.limit is not None:
            width = bits[unit.weight.name].bits
            limits = {unit.weight.name: {width: state.limit}}
            value = state.weight.contiguous()
            self.tuned = self.tuned.then(TunedWeights({unit.weight.tensor: value}, {}, limits))
            axis = unit.weight.axis if state.limit.dim() else None
            params = symmetric_params(state.limit, Grid(width, narrow=True), axis)
            edits.append((unit.weight.position, fake_quantize(state.weight, params)))
        if state.bias is not None:
            self.tuned = self.tuned.then(with_bias(graph, unit.op, state.bias))
            edits.append((unit.bias_position, state.bias))
        if self._sequential:
            for position, edit in edits:
                self._own.replace(unit.steps[0], position, edit)
        for chosen in state.ranges:
            self._rerange(chosen)

    def _rerange(self, chosen: TensorRange) -> None:
        old = self.recipe.range_of[chosen.tensor]
        before, after = (max(abs(r.lo), abs(r.hi)) for r in (old, chosen))
        self.changes.append(Change(chosen.tensor, "range", before, after, "amax"))
        self.recipe = self.recipe.with_range(chosen.tensor, chosen.lo, chosen.hi, chosen.calibrator)
        if not self._sequential:
            return
        simulator = self._subject.simulator
        decisions = resolve(self.recipe, simulator.graph)
        for operand in simulator.graph.operands.values():
            decision = decisions[operand.name]
            if operand.tensor == chosen.tensor and decision.int8:
                params = simulator.activation_params(chosen.tensor, self.recipe, decision.bits)
                step = simulator.program.step_of_op[operand.op]
                self._own.replace(step, operand.position, FakeQuantize(params))

    def notes(self, units: Units) -> list[str]:
        """What a person should know."""
        fits, found = self._fits, []
        improved = [f for f in fits if f.improved]
        text = f"{len(improved)} of {len(fits)} ops are better on {self._held_out} held-out"
        found.append(f"{text} samples; no fit saw these")
        if self.kept:
            found.append(
                f"kept as they were, no fit was better on held-out samples: {_few(self.kept)}"
            )
        if self.diverged:
            found.append(
                f"kept as they were, the fit became NaN or infinite: {_few(self.diverged)}"
            )
        for reason in dict.fromkeys(units.left.values()):
            names = [op for op, why in units.left.items() if why == reason]
            found.append(f"left alone, {reason}: {_few(names)}")
        if self._short:
            found.append(
                f"{self._samples} of {self._samples + self._short} samples: the values of more "
                f"would not fit in {BUDGET >> 20} MiB"
            )
        if self._alike:
            found.append(self._alike)
        return found

    def numbers(self) -> dict[str, float | int | str]:
        """For the record; losses are means over the ops."""
        fits = self._fits
        kept = [f for f in fits if f.state is not None]

        def mean(values: Iterable[float]) -> float:
            return math.fsum(values) / max(1, len(kept))

        return {
            "macs": round(self._walked + sum(f.macs for f in fits)),
            "fitted": self._samples - self._held_out,
            "held_out": self._held_out,
            "ops": len(fits),
            "improved": sum(f.improved for f in fits),
            "diverged": len(self.diverged),
            "held_out_before": mean(f.before for f in kept),
            "held_out_after": mean(f.after if f.improved else f.before for f in kept),
            "fitted_before": mean(f.fitted_before for f in kept),
            "fitted_after": mean(f.fitted_after if f.improved else f.fitted_before for f in kept),
        }


def _batches(subject: Subject, samples: int, held_out: int) -> tuple[list[Batch], int]:
    """Calibration samples at random, those held out in batches of their own, which come first.

    Returns:
        The batches, and how many of them are held out.
    """
    size = min(subject.batch_size, samples)
    some = concatenate(list(drawn(subject.calibration, samples, seed=subject.seed, size=size)))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(subject.seed))
    apart = [rows_of(some, rows) for rows in order[:held_out].split(size)]
    return [*apart, *(rows_of(some, rows) for rows in order[held_out:].split(size))], len(apart)


def _few(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _nothing(units: Units) -> str:
    if not units.left:
        return "no op that may be changed has anything to fit"
    op, reason = next(iter(units.left.items()))
    return f"no op can be fitted; {op}: {reason}"
