"""AdaRound: each weight is rounded down or up, whichever the op's output wants.

Nagel, Amjad, van Baalen, Louizos, Blankevoort 2020 (*Up or Down? Adaptive Rounding for
Post-Training Quantization*, arXiv 2004.10568, eq. 21 to 25): minimize

    || f_a(W x) - f_a(W~ x~) ||^2 + lambda sum_ij (1 - |2 h(V_ij) - 1|^beta),
    W~ = s clip(floor(W / s) + h(V)),   h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)

over V by Adam; f_a is the activation behind the op. beta falls from 20 to 2 along a cosine after a
warm start without the second term, which drives every h towards 0 or 1; what is left between is
rounded. zeta, gamma, the range of beta and the warm start are the defaults of AMCT's ADA
(``beta_range``, ``warm_start``). Bias and ranges stay as they are, but for the
weight's, which is searched first.

What differs: a larger rate that falls along a cosine, so that 200 steps serve where the paper takes
more and AMCT 10,000; for so few, lambda is 0.1 where AMCT's ``reg_param`` is 0.01, or more of the h
are left between 0 and 1; samples are held out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qviz.affine import spread
from qviz.tune.reconstruction import COMMON, Settings, reconstruct
from qviz.tune.reconstruction_ranges import least_error
from qviz.tune.reconstruction_state import AsItIs, State
from qviz.tune.reconstruction_units import Units, units_of
from qviz.tune.step import Option, Step, Subject

ZETA, GAMMA = 1.1, -0.1

OPTIONS = (
    *COMMON,
    Option("lr", 0.1, "rate of the rounding variables", 0.0, 10.0),
    Option("regularization", 0.1, "lambda: weight of the term that ends at whole codes", 0.0, 10.0),
    Option("beta_start", 20.0, "beta after the warm start", 1.0, 100.0),
    Option("beta_end", 2.0, "beta at the end", 1.0, 100.0),
    Option("warm_start", 0.2, "part of the iterations without the second term", 0.0, 1.0),
)

TITLE = "AdaRound"


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with an int8 weight of their own, in execution order; a fit would tell the worst."""
    return tuple(unit.op for unit in _units(subject).found)


def _units(subject: Subject) -> Units:
    units = units_of(subject)
    # no range is learned, so none is shared
    found = tuple(replace(u, learned={}) for u in units.found if u.weight is not None)
    return Units(found, units.left)


def apply(
    subject: Subject,
    *,
    mode: str = "sequential",
    iterations: int = 200,
    batch_size: int = 32,
    samples: int = 512,
    holdout: float = 0.2,
    lr: float = 0.1,
    regularization: float = 0.1,
    beta_start: float = 20.0,
    beta_end: float = 2.0,
    warm_start: float = 0.2,
) -> Step:
    """Choose the rounding of every int8 weight, at the bit widths of the recipe.

    Args:
        subject: what to tune; activation ranges and biases stay as they are.
        mode: ``sequential`` or ``parallel``.
        iterations: steps per op.
        batch_size: windows, rows or samples per step.
        samples: calibration samples at most, those held out among them.
        holdout: part of the samples that no fit sees.
        lr: of the rounding variables.
        regularization: lambda.
        beta_start: beta after the warm start.
        beta_end: beta at the end.
        warm_start: part of the iterations without the regularization.

    Raises:
        TuneError: no weight is int8, one sample, or every fit diverged.
    """
    annealing = (regularization, beta_start, beta_end, warm_start)
    return reconstruct(
        subject,
        TITLE,
        _units(subject),
        lambda before: _Rounded(before, lr, annealing),
        Settings(mode, iterations, batch_size, samples, holdout),
    )


class _Rounded:
    """The rounding of one weight as parameters."""

    def __init__(
        self, before: AsItIs, rate: float, annealing: tuple[float, float, float, float]
    ) -> None:
        assert before.value is not None
        assert before.params is not None
        self._before, self._rate, self._annealing = before, rate, annealing
        self._params = least_error(before.value, before.params)
        self._step = spread(self._params.scale, before.value, self._params.axis)
        codes = before.value / self._step
        self._floor = codes.floor()
        # h(V) is the fraction at first: the weight starts as it is
        fraction = (codes - self._floor).clamp(1e-4, 1 - 1e-4)
        self._v = -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)
        self._v.requires_grad_()
        # the loss is over the output's power, the paper's a sum over channels
        self._scale = 1 / max(before.channels * before.cache.power, 1e-30)

    def groups(self) -> list[dict[str, Any]]:
        """The rounding variables."""
        return [{"params": [self._v], "lr": self._rate}]

    def _up(self) -> Tensor:
        """h(V), in [0, 1] (eq. 23)."""
        return (torch.sigmoid(self._v) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)

    def weight(self, *, final: bool) -> Tensor:
        """The softly rounded weight (eq. 22); ``final`` rounds h to 0 or 1."""
        up = self._up()
        if final:
            up = (up >= 0.5).to(up.dtype)
        codes = (self._floor + up).clamp(self._params.quant_min, self._params.quant_max)
        return codes * self._step

    def bias(self) -> Tensor | None:
        """The op's own."""
        return None

    def read(self, position: int, x: Tensor) -> Tensor:
        """An input on its grid."""
        return self._before.read(position, x)

    def penalty(self, done: float) -> Tensor | None:
        """The regularization (eq. 24); None during the warm start."""
        weight, first, last, warm = self._annealing
        if done < warm or weight == 0:
            return None
        part = (done - warm) / max(1 - warm, 1e-9)
        beta = last + (first - last) * 0.5 * (1 + math.cos(math.pi * part))
        far = (2 * self._up() - 1).abs()
        return weight * self._scale * (1 - far.pow(beta)).sum()

    def state(self) -> State:
        """The weight on its grid, and the grid."""
        params = self._params
        return State(weight=self.weight(final=True).detach(), limit=params.scale * params.quant_max)
