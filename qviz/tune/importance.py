"""Which rows and columns of an op's output reach the output of the model at all.

A sequence padded to a fixed length is mostly padding, and what the mask keeps out of the attention
changes no answer. A fit or a mean that weighs such rows like the others is of padding: MiniLM on
sentences with 85 % of it lost accuracy by AdaQuant at 4-bit weights. The gradient of the output is
exactly zero there, so one backward pass tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.collate import Batch
from qviz.execute import Program, fill
from qviz.graph import Graph, TensorInfo
from qviz.progress import Reporter
from qviz.tune.samples import rows_of

#: Samples of a backward pass at a time.
CHUNK = 8


@dataclass(frozen=True, eq=False)
class Live:
    """Which parts of an op's output reach the output of the model at all, by sample.

    Attributes:
        rows: bool ``[B, rows]``, all axes before the last in one; of a product of two activations
            ``[B, ..., rows]``, for each of its matrices.
        columns: bool ``[B, ..., columns]`` of such a product; None for other ops.
    """

    rows: Tensor
    columns: Tensor | None = None

    def of(self, samples: slice) -> Live:
        """The same of some samples."""
        return Live(self.rows[samples], None if self.columns is None else self.columns[samples])


def live_rows(
    program: Program,
    steps: Mapping[str, int],
    batches: Sequence[Batch],
    seed: int,
    report: Reporter,
) -> dict[str, list[Live]]:
    """Rows and columns with any gradient of the model's output, by op.

    Args:
        program: of the float model, differentiable.
        steps: op -> index of the step whose output is looked at: its own, or that of an activation
            behind it. Only linears and adds are looked at whose output has several rows per sample,
            and products of two activations.
        batches: the samples.
        seed: of the direction in which the output is differentiated.
        report: told of each backward pass; what it raises stops them.

    Returns:
        Op -> what is live in each batch, without ops of which nothing is; empty for a model without
        such linears.
    """
    graph = program.graph
    wanted = {step: op for op, step in steps.items() if _is_looked_at(graph, op)}
    if not any(graph.ops[op].type == "linear" for op in wanted.values()):
        return {}
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Live]] = {op: [] for op in wanted.values()}
    for batch in batches:
        parts: dict[str, list[Live]] = {op: [] for op in found}
        for rows in torch.arange(batch.size).split(CHUNK):
            report.step("rows that count", 0)
            _backward(program, rows_of(batch, rows), wanted, generator, parts)
        for op, made in parts.items():
            found[op].append(_joined(made))
    return {op: made for op, made in found.items() if any(bool(m.rows.any()) for m in made)}


def rows_that_count(
    parts: Sequence[Tensor], info: TensorInfo, live: Sequence[Live] | None
) -> Sequence[Tensor]:
    """The live rows of an op's output, ``[n, C]`` of each batch with any; all of it for None."""
    if live is None:
        return parts
    firsts = [samples_first(part, info) for part in parts]
    found = [
        first.reshape(*own.rows.shape, first.shape[-1])[own.rows]
        for first, own in zip(firsts, live, strict=True)
    ]
    return [rows for rows in found if len(rows)]


def _is_looked_at(graph: Graph, name: str) -> bool:
    op, made = graph.ops[name], graph.tensors[name]
    if op.type == "matmul":
        return is_product(*(graph.tensors[read] for read in op.reads), made)
    if op.type not in ("linear", "add") or made.batch_dim is None:
        return False
    return made.batch_dim < made.dims - 1 and made.dims + (made.batch_multiple > 1) > 2


def _joined(parts: Sequence[Live]) -> Live:
    columns = [p.columns for p in parts if p.columns is not None]
    return Live(torch.cat([p.rows for p in parts]), torch.cat(columns) if columns else None)


def _backward(
    program: Program,
    batch: Batch,
    wanted: Mapping[int, str],
    generator: torch.Generator,
    parts: Mapping[str, list[Live]],
) -> None:
    values = program.inputs(batch)
    live_of: dict[str, Live] = {}

    def hook(op: str) -> Callable[[Tensor], None]:
        def seen(gradient: Tensor) -> None:
            live_of[op] = _live(gradient != 0, program.graph, op)

        return seen

    with torch.enable_grad():
        for index, step in enumerate(program.steps):
            args, kwargs = fill(step, values)
            made = step.target(*args, **kwargs)
            if index in wanted:
                op = wanted[index]
                live_of[op] = _live(torch.zeros_like(made, dtype=torch.bool), program.graph, op)
                if not made.requires_grad:
                    made = made.detach().requires_grad_()
                made.register_hook(hook(op))
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


def _live(live: Tensor, graph: Graph, op: str) -> Live:
    """Rows and columns with anything live, of an output whose last axis is its channels."""
    first = samples_first(live, graph.tensors[op])
    if graph.ops[op].type != "matmul":
        return Live(first.any(-1).flatten(1))
    return Live(first.any(-1), first.any(-2))


def is_product(*infos: TensorInfo) -> bool:
    """Whether these are two factors and their product, with as many matrices for every sample."""
    first = infos[-1]
    return len(infos) == 3 and all(
        info.batch_dim is not None
        and info.batch_dim < info.dims - 2
        and (info.batch_dim, info.shape[:-2]) == (first.batch_dim, first.shape[:-2])
        for info in infos
    )


def samples_first(value: Tensor, info: TensorInfo) -> Tensor:
    """``[B, ...]``, or ``[B, m, ...]`` where every sample has several entries on the batch axis.

    Where samples cannot be told apart (rows of many tokens and samples mixed), the whole batch is
    one: ``[1, ...]``.
    """
    if info.batch_dim is None:
        return value[None]
    first = value.movedim(info.batch_dim, 0)
    if info.batch_multiple == 1:
        return first
    return first.reshape(-1, info.batch_multiple, *first.shape[1:])
