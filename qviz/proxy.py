"""Gradient proxy: rank every op in one forward and one backward pass.

To second order, the KL divergence that a change ``d`` of an op's output ``y`` causes at the class
scores is ``E[(v . J d)^2] / 2`` with ``J = dz/dy`` and ``v`` drawn so that ``E[v v^T]`` is the
Fisher matrix ``diag(p) - p p^T`` of the scores; for outputs that are not class scores ``E[v v^T]``
is the identity over n and the same form gives the mean squared error. With
``d = op(quantized operands) - op(operands)`` one backward pass of ``v . z`` gives the estimate for
all ops at once. Local error alone (the size of ``d``) does not rank ops: what counts is what the
network makes of it.

Source: the empirical-Fisher saliency of Theis et al. 2018 (arXiv 1801.05787), eq. 6, with the
Fisher factor in place of sampled labels, which has less variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qviz.data import Data
from qviz.evaluate import first_output
from qviz.execute import Program, apply_edits, fill
from qviz.graph import TensorInfo
from qviz.progress import OnProgress, Reporter
from qviz.simulate import Simulator

CHUNK = 8


def proxy(
    simulator: Simulator,
    data: Data,
    edits_of: Mapping[str, Mapping[int, Any]],
    *,
    samples: int = 256,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> dict[str, float]:
    """Estimated mean divergence that each op or operand causes when it alone is quantized.

    Args:
        simulator: the captured model.
        data: evaluation samples; the first ``samples`` are used.
        edits_of: op or operand name -> the edits that quantize it alone, all in one step.
        samples: how many samples; a few dozen settle the ranking.
        seed: of the random directions.
        progress: told after each chunk.

    Returns:
        Name -> estimate, in the unit of the divergence (nats, or squared output units).
    """
    some = data.head(samples)
    generator = torch.Generator().manual_seed(seed)
    by_step: dict[int, list[tuple[str, Any]]] = {}
    for name, edits in edits_of.items():
        for step, items in edits.items():
            by_step.setdefault(step, []).append((name, items))
    totals = dict.fromkeys(edits_of, 0.0)
    report = Reporter("proxy", some.count, progress)
    for batch in some.batches(CHUNK):
        for name, value in _chunk(simulator.differentiable, batch, by_step, generator).items():
            totals[name] += value
        report.step("", batch.size)
    return {name: value / some.count for name, value in totals.items()}


def _chunk(
    program: Program,
    batch: Any,  # noqa: ANN401 - a Batch; typed where it is made
    by_step: Mapping[int, list[tuple[str, Any]]],
    generator: torch.Generator,
) -> dict[str, float]:
    values = program.inputs(batch)
    sums: dict[str, float] = {}
    live = False
    with torch.enable_grad():
        for index, step in enumerate(program.steps):
            args, kwargs = fill(step, values)
            result = step.target(*args, **kwargs)
            if index in by_step:
                if not live or not result.requires_grad:
                    result = result.detach().requires_grad_()
                    live = True
                info = program.graph.tensors[program.tensor_of_slot[step.slot]]
                for name, items in by_step[index]:
                    with torch.no_grad():
                        other = step.target(*apply_edits(args, items), **kwargs)
                        change = other.sub_(result)
                    result.register_hook(_hook(name, change, info, batch.size, sums))
            values[step.slot] = result
            for slot in step.frees:
                values[slot] = None
        output = first_output(program.results(values), batch.size, program)
        direction = _direction(output.detach(), generator)
        scalar = (output * direction).sum()
        if scalar.requires_grad:
            scalar.backward()
    return sums


def _hook(
    name: str, change: Tensor, info: TensorInfo, samples: int, sums: dict[str, float]
) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        product = gradient * change
        if info.batch_dim is not None:
            product = product.movedim(info.batch_dim, 0).reshape(samples, -1)
        else:
            product = product.reshape(1, -1)
        sums[name] = sums.get(name, 0.0) + float(product.sum(1).double().square().sum()) / 2

    return hook


def _direction(output: Tensor, generator: torch.Generator) -> Tensor:
    """V per sample with ``E[v v^T]`` the Fisher matrix of class scores, or 2 I / n otherwise."""
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    if output.dim() == 2 and output.shape[1] > 1:
        p = torch.softmax(output, 1)
        root = p.sqrt()
        fisher: Tensor = root * signs - p * (root * signs).sum(1, keepdim=True)
        return fisher
    per_sample = output[0].numel()
    direction: Tensor = signs * (2.0 / per_sample) ** 0.5
    return direction
