"""An estimate of what a program costs on a GPU that is not here: the roofline of its datasheet.

    time of a kernel = max(operations / peak rate, bytes / memory bandwidth)

A lower bound for both sides: no kernel reaches the peak, nothing is kept in a cache between two
kernels, and launching costs nothing, which flatters small batches. What it says is which side of
the roofline an op lies on, and so what int8 can win there.

Bytes: every kernel reads its inputs and weights and writes its output once. Codes take 1 byte,
floats of the float type 2. The float program is counted with bias, residual add and activation
fused into the product before them, as an engine runs it. A view moves nothing.

Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from qviz.bench import Bench, OpTime, Spread, WholeTime
from qviz.int8 import twin
from qviz.int8.gpus import Gpu
from qviz.int8.timing_rows import Layout, make_rows
from qviz.int8.timing_subject import Subject, any_arguments
from qviz.int8.timing_walk import Walk
from qviz.optypes import LINEARS, LOOKUPS, MATMULS, label
from qviz.rewrite import CONVS, TRANSPOSED_CONVS

#: Bytes of a float that is not stored as codes: fp16 or bf16.
FLOAT_BYTES = 2
NOTE = (
    "the larger of operations over peak rate and bytes over bandwidth; no launch cost, no cache; "
    "not measured"
)


@dataclass(frozen=True)
class Work:
    """What one kernel has to do.

    Attributes:
        macs: multiply-accumulates.
        bytes: read and written.
        int8: the multiply-accumulates are of codes.
    """

    macs: int
    bytes: int
    int8: bool


@dataclass(frozen=True)
class Cost:
    """What a roofline says of a kernel: microseconds, and what bounds it."""

    us: float
    bound: str


def cost(work: Work, gpu: Gpu) -> Cost:
    """The roofline of one kernel."""
    rate = gpu.int8_tops if work.int8 else gpu.fp16_tflops
    compute = 2 * work.macs / (rate * 1e6)
    memory = work.bytes / (gpu.memory_gbs * 1e3)
    return Cost(max(compute, memory), "compute" if compute > memory else "memory")


@dataclass(eq=False)
class _Group:
    """Calls that an engine runs as one kernel."""

    reads: dict[int, int] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)
    written: int = 0
    macs: int = 0
    int8: bool = False


class _Counter:
    """Counts the work of a program's calls while it runs on tensors without values."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.groups: dict[str, _Group] = {}
        self.codes: dict[str, int] = {}
        self._sources = sources
        self._kept: list[Any] = []  # ids stand for tensors, which must not be let go meanwhile

    def look(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: object
    ) -> None:
        group = self.groups.setdefault(self._sources[node.name], _Group())
        inputs, outputs = any_arguments((args, kwargs)), any_arguments(value)
        self._kept.append((inputs, outputs))
        group.macs += macs_of(node, args, outputs)
        group.int8 |= twin.is_integer_call(node)
        if not outputs or _is_view(inputs, outputs):
            group.made |= {id(t) for t in outputs}
            return
        # only the last value of a group leaves it
        group.written = sum(size_of(t) for t in outputs)
        most = group.written if label(node) in LOOKUPS else math.inf  # of a table only what is used
        for tensor in inputs:
            if id(tensor) not in group.made:
                group.reads[id(tensor)] = int(min(size_of(tensor), most))
        group.made |= {id(t) for t in outputs}
        if len(outputs) == 1 and outputs[0].dtype is torch.int8:
            self.codes[node.name] = outputs[0].numel()

    def work(self) -> dict[str, Work]:
        """By the name of the call that a group stands for."""
        return {
            name: Work(g.macs, sum(g.reads.values()) + g.written, g.int8)
            for name, g in self.groups.items()
        }


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor on the GPU: floats in the float type, all else as it is."""
    each = FLOAT_BYTES if tensor.dtype is torch.float32 else tensor.element_size()
    return tensor.numel() * each


def macs_of(node: fx.Node, args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of a call; 0 for ops without products over a sum."""
    target: Any = node.target
    kernel = twin.kernel_of(node) if twin.is_integer_call(node) else ""
    if not outputs:
        return 0
    count = outputs[0].numel()
    if kernel == "conv" or target in CONVS:
        return count * int(math.prod(args[2 if kernel else 1].shape[1:]))
    if kernel == "conv_transpose" or target in TRANSPOSED_CONVS:
        return int(args[0].numel() * math.prod(args[2 if kernel else 1].shape[1:]))
    if kernel in ("linear", "matmul") or target in LINEARS or target in MATMULS:
        first = {"aten::addmm": 1, "aten::baddbmm": 1}.get(target._schema.name, 0)
        return count * int(args[first].shape[-1])
    return 0


def _is_view(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether the outputs lie in the memory of an input."""
    held = {t.untyped_storage()._cdata for t in inputs}
    return all(t.untyped_storage()._cdata in held for t in outputs)


def estimate(subject: Subject, gpu: Gpu, batches: Sequence[int] = (1,)) -> Bench:
    """What a program would cost on a GPU, by its datasheet; labelled as an estimate.

    Args:
        subject: the integer program, on the CPU.
        gpu: a row of ``GPUS``.
        batches: samples per run.
    """
    real = twin.float_twin(subject.program)
    rows: list[OpTime] = []
    whole: list[WholeTime] = []
    walks: dict[int, float] = {}
    for batch in batches:
        found = _rows(subject, real, gpu, batch)
        rows += found
        walks[batch] = sum(row.int8_us for row in found)
        for name, us in (("float fp16", sum(r.float_us for r in found)), ("int8", walks[batch])):
            whole.append(WholeTime(batch, name, Spread(us, us, us, 0)))
    return Bench(
        estimated=True,
        device=gpu.name,
        float_type="fp16",
        threads=None,
        program=subject.digest,
        rows=tuple(rows),
        whole=tuple(whole),
        walk_us=walks,
        notes=(*subject.notes, f"{gpu.source}; {NOTE}"),
    )


def _rows(subject: Subject, real: fx.GraphModule, gpu: Gpu, batch: int) -> tuple[OpTime, ...]:
    nodes = [n.name for n in subject.program.graph.nodes if n.op == "call_function"]
    own = _count(subject.program, {name: name for name in nodes}, subject, batch)
    sources = {n.name: str(n.meta["source"]) for n in real.graph.nodes}
    theirs = _count(real, sources, subject, batch)
    layout = Layout.of(subject, real, own.codes)
    int8 = {name: cost(work, gpu) for name, work in own.work().items()}
    floats = {name: cost(work, gpu) for name, work in theirs.work().items()}
    # the whole kernel's time stands at the first of its calls, so that a group counts once
    seen: set[str] = set()
    times = []
    for source in layout.sources:
        times.append(0.0 if source in seen else floats[source].us)
        seen.add(source)
    rounding = {
        name: cost(Work(0, count * (FLOAT_BYTES + 1), False), gpu).us
        for name, count in own.codes.items()
    }
    bounds = {n: f"{c.bound} / {floats[n].bound if n in floats else '-'}" for n, c in int8.items()}
    return make_rows(
        layout,
        batch,
        np.array([[int8[name].us for name in nodes]]),
        np.array([times]),
        rounding,
        bounds,
    )


def _count(
    program: fx.GraphModule, sources: Mapping[str, str], subject: Subject, batch: int
) -> _Counter:
    counter = _Counter(sources)
    args, named = subject.arguments(batch)
    flat = [named[i.key] if isinstance(i.key, str) else args[i.key] for i in subject.inputs]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        Walk(program).run([mode.from_tensor(value) for value in flat], look=counter.look)
    return counter
