"""AdaQuant: each op's weights, bias and ranges are fitted to its float output.

Hubara, Nahshan, Hanani, Banner, Soudry 2021 (*Accurate Post Training Quantization With Small
Calibration Sets*, arXiv 2006.10518, eq. 2; CalibTIP's ``utils/adaquant.py``): minimize

    || W X + b - (Q_w(W + V) Q_x(X) + b') ||^2

over V, b', the range of the weight and that of the activation, by Adam, with straight-through
gradients. A weight may end more than one step from where it was, which AdaRound does not allow.

What differs from the code: rates are in units that fit every layer (a step of the weight's grid,
the output's root mean square, a part of the range) where the code has 1e-5, 1e-3, 1e-3 and 1e-1
absolute; they fall along a cosine and are larger, so that 200 steps do what 1000 did there; the fit
starts at the weight range of least error; samples are held out; where an output has rows, its
errors count as much as they move the model's output (``importance.py``). Ops with two activations
(adds, attention products) have only their ranges fitted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qviz.tune.reconstruction import COMMON, Settings, reconstruct
from qviz.tune.reconstruction_ranges import LearnedLimit, LearnedRange, least_error
from qviz.tune.reconstruction_state import AsItIs, State
from qviz.tune.reconstruction_units import Unit, Units, units_of
from qviz.tune.step import Option, Step, Subject

OPTIONS = (
    *COMMON,
    Option("lr_weight", 0.02, "rate of the weights, in steps of their grid", 0.0, 10.0),
    Option("lr_bias", 0.002, "rate of the bias, in root mean squares of the output", 0.0, 1.0),
    Option("lr_weight_range", 0.002, "rate of the weight's range, in parts of it", 0.0, 1.0),
    Option("lr_activation_range", 0.01, "rate of the input's range, in parts of it", 0.0, 1.0),
)

TITLE = "AdaQuant"


def sites(subject: Subject) -> tuple[str, ...]:
    """Int8 ops with something to fit, in execution order; it needs a fit to know the worst."""
    return tuple(unit.op for unit in _units(subject).found)


def _units(subject: Subject) -> Units:
    units = units_of(subject)
    return Units(tuple(u for u in units.found if _changes(u)), units.left)


def _changes(unit: Unit) -> bool:
    return unit.weight is not None or unit.biased or bool(unit.learned)


def apply(
    subject: Subject,
    *,
    mode: str = "sequential",
    iterations: int = 200,
    batch_size: int = 32,
    samples: int = 512,
    holdout: float = 0.2,
    lr_weight: float = 0.02,
    lr_bias: float = 0.002,
    lr_weight_range: float = 0.002,
    lr_activation_range: float = 0.01,
) -> Step:
    """Fit weights, biases and ranges of every int8 op, at the bit widths of the recipe.

    Args:
        subject: what to tune.
        mode: ``sequential`` or ``parallel``.
        iterations: steps per op.
        batch_size: windows, rows or samples per step.
        samples: calibration samples at most, those held out among them.
        holdout: part of the samples that no fit sees.
        lr_weight: in steps of the weight's grid.
        lr_bias: in root mean squares of the output, or of its median channel.
        lr_weight_range: in parts of the range.
        lr_activation_range: in parts of the range.

    Raises:
        TuneError: there is nothing to fit, one sample, or every fit diverged.
    """
    rates = (lr_weight, lr_bias, lr_weight_range, lr_activation_range)
    return reconstruct(
        subject,
        TITLE,
        _units(subject),
        lambda before: _Learned(before, rates),
        Settings(mode, iterations, batch_size, samples, holdout),
    )


class _Learned:
    """Weight, bias and ranges of one unit as parameters."""

    def __init__(self, before: AsItIs, rates: tuple[float, float, float, float]) -> None:
        self._before, self._rates = before, rates
        self._grid: LearnedLimit | None = None
        self._codes: Tensor | None = None
        if before.value is not None and before.params is not None:
            self._grid = LearnedLimit(least_error(before.value, before.params))
            # in steps of the grid, so that one rate fits every channel
            self._step = self._grid.step_like(before.value)
            self._codes = (before.value / self._step).requires_grad_()
        self._shift: Tensor | None = None
        if before.unit.biased:
            self._size = before.size
            self._shift = torch.zeros(before.channels).requires_grad_()
        made = {
            chosen.tensor: LearnedRange(chosen, grid)
            for chosen, grid in before.ranges.values()
            if chosen.tensor in before.unit.learned
        }
        self._ranges = {
            position: made[chosen.tensor]
            for position, (chosen, _) in before.ranges.items()
            if chosen.tensor in made
        }

    def groups(self) -> list[dict[str, Any]]:
        """One group per kind of parameter."""
        ranges = {id(p): p for r in self._ranges.values() for p in r.parameters}
        found = (
            [] if self._codes is None else [self._codes],
            [] if self._shift is None else [self._shift],
            [] if self._grid is None else [self._grid.size],
            list(ranges.values()),
        )
        pairs = zip(found, self._rates, strict=True)
        return [{"params": params, "lr": rate} for params, rate in pairs if params]

    def weight(self, *, final: bool) -> Tensor | None:
        """The weight on the grid of its range as it stands."""
        value = self._value()
        return None if value is None or self._grid is None else self._grid(value)

    def _value(self) -> Tensor | None:
        return None if self._codes is None else self._codes * self._step

    def bias(self) -> Tensor | None:
        """The bias."""
        if self._shift is None:
            return None
        start = self._before.start_bias
        return self._size * self._shift + (0.0 if start is None else start)

    def read(self, position: int, x: Tensor) -> Tensor:
        """An input on the grid of its range as it stands."""
        learned = self._ranges.get(position)
        return self._before.read(position, x) if learned is None else learned(x)

    def penalty(self, done: float) -> Tensor | None:
        """None."""
        return None

    def state(self) -> State:
        """A copy of what has been learned."""
        value, bias = self._value(), self.bias()
        ranges = {id(r): r for r in self._ranges.values()}
        return State(
            None if value is None else value.detach().clone(),
            None if self._grid is None else self._grid.limit.clone(),
            None if bias is None else bias.detach().clone(),
            tuple(r.range("adaquant") for r in ranges.values()),
        )
