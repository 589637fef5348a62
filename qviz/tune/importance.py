"""What an error in an op's output costs at the output of the model.

Not all rows of a linear count alike. A sequence padded to a fixed length is mostly padding, and
what the mask keeps out of the attention changes no answer; a row with a few enormous values (the
separators of BERT) has nearly all of the squared error, and is divided by its own size in the layer
norm behind it. A fit that weighs all rows alike is of these alone: AdaQuant took the error of
MiniLM's feed-forward outputs down 24 times and the model's divergence up 8 times.

An error d in an op's output moves the model's output by J d. The mean of (J^T v)^2 over random
directions v is the diagonal of J^T J (Gauss-Newton; as the squared gradients of BRECQ, Li et al.
2021, arXiv 2102.05426, eq. 10, but of the outputs themselves). One direction per sample is taken,
all of one length, and what would be noise is averaged: over the channels of every row, and over the
rows of every channel, whose product is the weight of an element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qviz.collate import Batch
from qviz.errors import MetricError
from qviz.evaluate import first_output
from qviz.execute import Program, fill
from qviz.graph import Graph, TensorInfo
from qviz.progress import Reporter
from qviz.tune.samples import rows_of

#: Samples of a backward pass at a time.
CHUNK = 8


@dataclass(frozen=True, eq=False)
class Importance:
    """Mean squared gradient of the model's output, by row and by column of an op's output.

    Attributes:
        rows: ``[B, rows]``, all axes before the last in one; of a product of two activations
            ``[B, ..., rows]``, for each of its matrices. Zero is a row that reaches no output.
        columns: ``[C]``, of all samples together; of such a product ``[B, ..., columns]``.
    """

    rows: Tensor
    columns: Tensor

    def of(self, samples: slice) -> Importance:
        """The same of some samples."""
        one = self.columns.dim() == 1
        return Importance(self.rows[samples], self.columns if one else self.columns[samples])

    def weights(self, output: Tensor) -> Tensor:
        """Of every element of an output, samples first."""
        rows = self.rows.reshape(*output.shape[:-1], 1)
        columns = self.columns if self.columns.dim() == 1 else self.columns[..., None, :]
        return rows * columns


def importance_of(
    program: Program,
    steps: Mapping[str, int],
    batches: Sequence[Batch],
    seed: int,
    report: Reporter,
) -> tuple[dict[str, list[Importance]], str]:
    """What counts of the outputs of ops, in each batch.

    Args:
        program: of the float model, differentiable.
        steps: op -> index of the step whose output is looked at: its own, or that of an activation
            behind it. Only linears and adds are looked at whose output has several rows per sample,
            and products of two activations.
        batches: the samples.
        seed: of the directions in which the output is differentiated.
        report: told of each backward pass; what it raises stops them.

    Returns:
        Op -> the importance in each batch, without ops of which nothing counts; empty for a model
        without such linears, or one that cannot be differentiated: then also why, in words.
    """
    graph = program.graph
    wanted = {step: op for op, step in steps.items() if _is_looked_at(graph, op)}
    if not any(graph.ops[op].type == "linear" for op in wanted.values()):
        return {}, ""
    # rows of all samples of a batch in one axis come apart only with the whole batch
    mixed = any(graph.tensors[op].batch_dim is None for op in wanted.values())
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Importance]] = {op: [] for op in wanted.values()}
    for batch in batches:
        parts: dict[str, list[Importance]] = {op: [] for op in found}
        for rows in torch.arange(batch.size).split(batch.size if mixed else CHUNK):
            report.step("rows that count", 0)
            try:
                _backward(program, rows_of(batch, rows), wanted, generator, parts)
            except RuntimeError as failure:  # an op that autograd does not know
                reason = str(failure).partition("\n")[0]
                return {}, f"all rows count alike: the model cannot be differentiated ({reason})"
        for op, made in parts.items():
            found[op].append(_joined(made))
    return {
        op: made if graph.ops[op].type == "matmul" else _over_all(made)
        for op, made in found.items()
        if any(bool(m.rows.any()) for m in made)
    }, ""


def rows_that_count(
    parts: Sequence[Tensor], info: TensorInfo, importance: Sequence[Importance] | None
) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
    """The rows of an op's output that reach the model's, and what a squared error of each counts.

    Returns:
        Of each batch ``[n, C]`` and ``[n]``; all of the output as it is, and None, where nothing is
        known of it.
    """
    if importance is None:
        return parts, None
    rows, weights = [], []
    for part, own in zip(parts, importance, strict=True):
        first, live = samples_first(part, info), own.rows > 0
        rows.append(first.reshape(*live.shape, first.shape[-1])[live])
        weights.append(own.rows[live])
    return rows, weights


def _is_looked_at(graph: Graph, name: str) -> bool:
    op, made = graph.ops[name], graph.tensors[name]
    if op.type == "matmul":
        return is_product(*(graph.tensors[read] for read in op.reads), made)
    if op.type not in ("linear", "add"):
        return False
    if made.batch_dim is None:
        return made.dims > 1
    return made.batch_dim < made.dims - 1 and made.dims + (made.batch_multiple > 1) > 2


def _joined(parts: Sequence[Importance]) -> Importance:
    return Importance(torch.cat([p.rows for p in parts]), torch.cat([p.columns for p in parts]))


def _over_all(parts: Sequence[Importance]) -> list[Importance]:
    """The columns, sums per sample until now, of all samples together, one on average."""
    columns = torch.stack([p.columns.sum(0) for p in parts]).sum(0)
    return [Importance(p.rows, columns / columns.mean()) for p in parts]


def _backward(
    program: Program,
    batch: Batch,
    wanted: Mapping[int, str],
    generator: torch.Generator,
    parts: Mapping[str, list[Importance]],
) -> None:
    values, graph = program.inputs(batch), program.graph
    found: dict[str, Importance] = {}
    shapes: dict[str, Tensor] = {}

    def hook(op: str) -> Callable[[Tensor], None]:
        def seen(gradient: Tensor) -> None:
            # a row with every key masked may have none
            found[op] = _of(gradient.square().nan_to_num(0.0, 0.0), graph, op)

        return seen

    with torch.enable_grad():
        for index, step in enumerate(program.steps):
            args, kwargs = fill(step, values)
            made = step.target(*args, **kwargs)
            if index in wanted:
                op = wanted[index]
                shapes[op] = made.detach().new_zeros(1).expand(made.shape)
                if not made.requires_grad:
                    made = made.detach().requires_grad_()
                made.register_hook(hook(op))
            values[step.slot] = made
            for slot in step.frees:
                if slot != step.slot:
                    values[slot] = None
        outputs = _scored(program.results(values), batch.size, program)
        directions = [_direction(v, generator) for v in outputs]
        if outputs:
            torch.autograd.backward(outputs, directions)
    for op in wanted.values():
        parts[op].append(found[op] if op in found else _of(shapes[op], graph, op))


def _scored(values: list[Any], samples: int, program: Program) -> list[Tensor]:
    """The output that is scored, or all that could be; none that has no gradient."""
    try:
        known = [first_output(values, samples, program)]
    except MetricError:
        known = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    return [v for v in known if v.requires_grad]


def _direction(output: Tensor, generator: torch.Generator) -> Tensor:
    """At random for every sample, each of length sqrt(n)."""
    count = output.shape[0] if output.dim() else 1
    direction = torch.randn(output.shape, generator=generator).reshape(count, -1)
    length = direction.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    return (direction / length).reshape(output.shape).to(output.dtype)


def _of(squares: Tensor, graph: Graph, op: str) -> Importance:
    first = samples_first(squares, graph.tensors[op])
    rows = first.mean(-1)
    if graph.ops[op].type != "matmul":
        return Importance(rows.flatten(1), first.flatten(1, -2).sum(1))
    columns = first.mean(-2)
    return Importance(rows, columns / columns.mean(-1, keepdim=True).clamp(min=1e-38))


def is_product(*infos: TensorInfo) -> bool:
    """Whether these are two factors and their product, with as many matrices for every sample."""
    made = infos[-1]
    return len(infos) == 3 and all(
        info.batch_dim is not None
        and info.batch_dim < info.dims - 2
        and (info.batch_dim, info.shape[:-2]) == (made.batch_dim, made.shape[:-2])
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
