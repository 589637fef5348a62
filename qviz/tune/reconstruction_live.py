"""Which rows of an op's output reach the output of the model at all.

A sequence padded to a fixed length is mostly padding, and what the mask keeps out of the attention
changes no answer. A fit that weighs such rows like the others learns them: MiniLM on sentences with
85 % padding lost accuracy by AdaQuant at 4-bit weights. The gradient of the output is exactly zero
there, so one backward pass tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from qviz.collate import Batch
from qviz.execute import Program, fill
from qviz.graph import TensorInfo
from qviz.tune.reconstruction_cut import samples_first
from qviz.tune.reconstruction_units import Unit
from qviz.tune.samples import rows_of

#: Samples of a backward pass at a time.
CHUNK = 8
#: Ops whose output is rows of channels.
ROWS = ("linear", "add")


def live_rows(
    program: Program,
    units: Sequence[Unit],
    batches: Sequence[Batch],
    seed: int,
    look: Callable[[], None] = lambda: None,
) -> dict[str, list[Tensor]]:
    """Rows with any gradient of the model's output, by op.

    Args:
        program: of the float model, differentiable.
        units: only those are looked at whose output has several rows per sample.
        batches: the samples.
        seed: of the direction in which the output is differentiated.
        look: called before each backward pass; what it raises stops them.

    Returns:
        Op -> of each batch, bool ``[B, rows]``; empty for a model without such ops.
    """
    graph = program.graph
    wanted = {
        unit.steps[-1]: (unit.op, graph.tensors[unit.op])
        for unit in units
        if graph.ops[unit.op].type in ROWS and _has_rows(graph.tensors[unit.op])
    }
    if not any(graph.ops[op].type == "linear" for op, _ in wanted.values()):
        return {}
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {op: [] for op, _ in wanted.values()}
    for batch in batches:
        parts: dict[str, list[Tensor]] = {op: [] for op in found}
        for rows in torch.arange(batch.size).split(CHUNK):
            look()
            _backward(program, rows_of(batch, rows), wanted, generator, parts)
        for op, made in parts.items():
            found[op].append(torch.cat(made))
    return found


def _has_rows(info: TensorInfo) -> bool:
    return info.batch_dim is not None and len(info.shape) == 2  # without the batch


def _backward(
    program: Program,
    batch: Batch,
    wanted: Mapping[int, tuple[str, TensorInfo]],
    generator: torch.Generator,
    parts: Mapping[str, list[Tensor]],
) -> None:
    values = program.inputs(batch)
    live_of: dict[str, Tensor] = {}

    def hook(op: str, info: TensorInfo) -> Callable[[Tensor], None]:
        def seen(gradient: Tensor) -> None:
            live_of[op] = _rows(gradient != 0, info)

        return seen

    with torch.enable_grad():
        for index, step in enumerate(program.steps):
            args, kwargs = fill(step, values)
            made = step.target(*args, **kwargs)
            if index in wanted:
                op, info = wanted[index]
                live_of[op] = _rows(torch.zeros_like(made, dtype=torch.bool), info)
                if not made.requires_grad:
                    made = made.detach().requires_grad_()
                made.register_hook(hook(op, info))
            values[step.slot] = made
            for slot in step.frees:
                if slot != step.slot:
                    values[slot] = None
        outputs = [v for v in program.results(values) if isinstance(v, Tensor) and v.requires_grad]
        directions = [torch.randn(v.shape, generator=generator) for v in outputs]
        if outputs:
            torch.autograd.backward(outputs, directions)
    for op, live in live_of.items():
        parts[op].append(live)


def _rows(live: Tensor, info: TensorInfo) -> Tensor:
    """``[B, rows]`` of an output whose last axis is its channels."""
    first = samples_first(live, info).any(-1)
    return first.reshape(len(first), -1)
