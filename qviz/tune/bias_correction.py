"""Bias correction: the mean error of every output channel is taken off the bias.

Rounding weights and inputs shifts the mean of an op's output, E[y~] - E[y], and the shift adds up
through the network. Nagel et al. 2019 (Data-Free Quantization, arXiv 1906.04721, empirical bias
correction) subtract it from the bias, measured over data, one op after the other so that each sees
the corrections before it. No labels, one pass over the samples. Where an output has rows, each
counts as much as an error in it moves the model's output (``importance.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.errors import TuneError
from qviz.progress import Reporter
from qviz.rewrite import get_attr
from qviz.tune.lockstep import Pair, correctable
from qviz.tune.step import Change, Option, Step, Subject
from qviz.weights import NOTHING, bias_of, with_bias

OPTIONS = (Option("samples", 512, "calibration samples to measure the means on", 1),)

#: What the numbers of the changes are.
UNIT = "mean error / output std"


def sites(subject: Subject) -> tuple[str, ...]:
    """Int8 ops with a stored weight, in execution order; it needs a pass to know the worst."""
    return correctable(subject)


def apply(subject: Subject, *, samples: int = 512) -> Step:
    """Correct the bias of every int8 op with a stored weight; an op without a bias gets one.

    Args:
        subject: what to correct; ranges stay as they are.
        samples: calibration samples at most; fewer if their values do not fit in memory.

    Raises:
        TuneError: there is nothing to correct.
    """
    wanted = sites(subject)
    if not wanted:
        raise TuneError(
            "bias correction",
            "no int8 op has a stored weight and a bias of its own",
            "Leave ops=None, or make a conv or linear int8",
        )
    report = Reporter("bias correction", len(wanted), subject.progress)
    pair = Pair(subject, samples, report)
    tuned, changes = NOTHING, []
    for op in wanted:
        reference, own = pair.through(op)
        error = own.mean - reference.mean
        fixed = pair.affine(op, torch.ones_like(error), -error)
        bias = current_bias(subject, op, error) - error
        tuned = tuned.then(with_bias(subject.graph, op, bias.float()))
        left = fixed.mean - reference.mean
        changes.append(
            Change(op, "bias", _size(error, reference.spread), _size(left, reference.spread), UNIT)
        )
        report.step(op)
    return Step(subject.recipe, tuned, tuple(changes), pair.notes, {"samples": pair.samples})


def current_bias(subject: Subject, op: str, like: Tensor) -> Tensor:
    """The op's bias as it is, float64 ``[C]``; zeros if it has none."""
    name = bias_of(subject.graph, op)
    return torch.zeros_like(like) if name is None else get_attr(subject.graph.module, name).double()


def _size(error: Tensor, spread: float) -> float:
    size = float(error.square().mean().sqrt())
    return size / spread if spread > 0 else size
