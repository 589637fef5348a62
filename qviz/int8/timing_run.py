"""Time a program against its float twin: the whole model, and call by call.

    measure(Subject.of_checkpoint(load_checkpoint(folder)), (1, 8))  ->  Bench

The float side is the same program with dequantized weights and nothing rounded, so both sides have
folded batch norms and one layout. Everything that is compared is run in turn (``timing.take``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qviz.bench import Bench, OpTime, Spread, WholeTime
from qviz.errors import InputError
from qviz.int8 import timing
from qviz.int8.timing import Contender, Effort, Stopwatch, spread, take
from qviz.int8.timing_rows import Layout, make_rows
from qviz.int8.timing_subject import Subject
from qviz.int8.timing_walk import Walk
from qviz.int8.twin import float_twin
from qviz.progress import OnProgress, Reporter

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ONE_THREAD = "one thread: CPU time, without what other programs took in between"
Run = Callable[[], object]


@dataclass(frozen=True)
class How:
    """How to time.

    Attributes:
        device: ``cpu`` or ``cuda``.
        float_type: of the float side; None is fp32 on the CPU and fp16 on a GPU.
        compiled: time both programs through ``torch.compile`` as well.
        effort: how long.
    """

    device: str = "cpu"
    float_type: str | None = None
    compiled: bool = False
    effort: Effort = field(default_factory=Effort)

    @property
    def chosen_float(self) -> str:
        """The float type, the default filled in."""
        return self.float_type or ("fp32" if self.device == "cpu" else "fp16")


def measure(
    subject: Subject,
    batches: Sequence[int] = (1,),
    how: How | None = None,
    *,
    progress: OnProgress | None = None,
) -> Bench:
    """Time a program at some batch sizes.

    Args:
        subject: what to time; on the device that ``how`` names.
        batches: samples per run.
        how: device, float type and effort; None is float32 on the CPU.
        progress: told before each turn; may raise to stop.

    Raises:
        InputError: the device is not there, or the float side cannot be run in that type.
    """
    how = how or How()
    watch = timing.stopwatch(how.device)
    report = Reporter("bench", len(batches), progress)
    notes = [*subject.notes, *busy()]
    if how.device == "cpu" and torch.get_num_threads() == 1:
        notes.append(ONE_THREAD)
    rows: list[OpTime] = []
    whole: list[WholeTime] = []
    walks: dict[int, float] = {}
    pair = _Pair(subject, how)
    for batch in batches:
        found = _one(pair, batch, watch, lambda: report.step("", 0), notes)
        rows += found.rows
        whole += found.whole
        walks[batch] = found.walk_us
        report.step(f"batch {batch}")
    return Bench(
        estimated=False,
        device=timing.device_name(how.device),
        float_type=how.chosen_float,
        threads=torch.get_num_threads() if how.device == "cpu" else None,
        program=subject.digest,
        rows=tuple(rows),
        whole=tuple(whole),
        walk_us=walks,
        notes=tuple(dict.fromkeys(notes)),
    )


def busy() -> tuple[str, ...]:
    """A note if other programs take the processors that are to be timed."""
    try:
        load = os.getloadavg()[0]
    except OSError:  # this system does not say
        return ()
    count = os.cpu_count() or 1
    if load <= count / 2:
        return ()
    return (f"the machine was busy: load {load:.1f} on {count} processors as timing began",)


class _Pair:
    """An integer program and its float twin, on their device and in the float type."""

    def __init__(self, subject: Subject, how: How) -> None:
        self.subject, self.how = subject, how
        self.dtype = FLOATS[how.chosen_float]
        self.program = subject.program
        self.twin = float_twin(subject.program)
        if self.dtype is not torch.float32:
            self.twin = _cast(self.twin, self.dtype)

    def arguments(self, batch: int, *, real: bool) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Inputs of one side; the float side takes floats of its own type."""
        args, named = self.subject.arguments(batch, self.how.device)
        if not real:
            return args, named
        return tuple(self._typed(a) for a in args), {k: self._typed(v) for k, v in named.items()}

    def flat(self, batch: int, *, real: bool) -> list[Tensor]:
        """The same in the order of the placeholders."""
        args, named = self.arguments(batch, real=real)
        return [
            named[item.key] if isinstance(item.key, str) else args[item.key]
            for item in self.subject.inputs
        ]

    def _typed(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def _cast(twin: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A twin that nobody else has, its stored floats and every float32 it names in another type."""

    def typed(value: Any) -> Any:  # noqa: ANN401 - an argument of a node
        return dtype if value is torch.float32 else value

    for node in twin.graph.nodes:
        node.args = tuple(typed(value) for value in node.args)
        node.kwargs = {key: typed(value) for key, value in node.kwargs.items()}
    twin.recompile()
    return twin.to(dtype)  # its own registrations: the tensors themselves are not changed


@dataclass(frozen=True)
class _Found:
    rows: tuple[OpTime, ...]
    whole: tuple[WholeTime, ...]
    walk_us: float


def _one(
    pair: _Pair, batch: int, watch: Stopwatch, check: Callable[[], None], notes: list[str]
) -> _Found:
    """One batch size."""
    walks = Walk(pair.program), Walk(pair.twin)
    inputs = pair.flat(batch, real=False), pair.flat(batch, real=True)
    codes: dict[str, tuple[int, ...]] = {}

    def look(node: fx.Node, args: Any, kwargs: Any, value: Any) -> None:  # noqa: ANN401
        if isinstance(value, Tensor) and value.dtype is torch.int8:
            codes[node.name] = tuple(value.shape)

    walks[0].run(inputs[0], look=look)
    try:
        walks[1].run(inputs[1])
    except (RuntimeError, TypeError) as failure:
        raise InputError(
            f"--float {pair.how.chosen_float}",
            f"the float side cannot be run in it on this device ({_line(failure)})",
            "Choose another float type",
        ) from failure
    whole = _whole_runs(pair, batch, notes)
    shapes = tuple(dict.fromkeys(codes.values()))
    contenders: dict[str, Contender] = {
        "walk int8": lambda w: _walk(walks[0], inputs[0], w),
        "walk float": lambda w: _walk(walks[1], inputs[1], w),
        **{name: _timed(run) for name, run in whole.items()},
    }
    if shapes:
        contenders["requantize"] = _requantize(shapes, pair.how.device)
    times = take(contenders, watch, pair.how.effort, check)
    layout = Layout.of(pair.subject, pair.twin, codes)
    each = np.median(times["requantize"], axis=0) if shapes else np.zeros(0)
    price = dict(zip(shapes, each.tolist(), strict=True))
    rows = make_rows(
        layout,
        batch,
        times["walk int8"],
        times["walk float"],
        {name: price[shape] for name, shape in codes.items()},
    )
    return _Found(
        rows,
        tuple(WholeTime(batch, name, _spread(times[name])) for name in whole),
        float(np.median(times["walk int8"], axis=0).sum()),
    )


def _spread(times: Any) -> Spread:  # noqa: ANN401 - an array [turns, 1]
    return spread(times[:, 0])


def _walk(walk: Walk, inputs: Sequence[Tensor], watch: Stopwatch) -> None:
    watch.ahead(len(walk.steps))
    walk.run(inputs, watch)


def _timed(run: Run) -> Contender:
    def once(watch: Stopwatch) -> None:
        watch.begin()
        run()
        watch.end()

    return once


def _requantize(shapes: Sequence[tuple[int, ...]], device: str) -> Contender:
    """Round a float tensor of each shape to codes."""
    values = [torch.randn(shape, device=device) for shape in shapes]
    quantize = torch.ops.qviz.quantize

    def once(watch: Stopwatch) -> None:
        quantize(values[0], 0.05)  # its code is warm in a running model too
        watch.ahead(len(values))
        for value in values:
            watch.begin()
            quantize(value, 0.05)
            watch.end()

    return once


def _whole_runs(pair: _Pair, batch: int, notes: list[str]) -> dict[str, Run]:
    """The ways in which the whole model is run: eager, as a CUDA graph, compiled."""
    real_name = f"float {pair.how.chosen_float}"
    sides = {real_name: (pair.twin, True), "int8": (pair.program, False)}
    found: dict[str, Run] = {}
    for name, (program, real) in sides.items():
        args, named = pair.arguments(batch, real=real)
        found[name] = _without_gradients(program, args, named)
        if pair.how.device != "cpu":
            _add(found, f"{name}, CUDA graph", partial(_graphed, found[name]), notes)
        if pair.how.compiled:
            mode = "default" if pair.how.device == "cpu" else "max-autotune"
            compiled: Any = torch.compile(program, mode=mode)
            run = _without_gradients(compiled, args, named)
            _add(found, f"{name}, compiled", partial(_warm, run), notes)
    return found


def _without_gradients(
    program: Callable[..., object], args: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> Run:
    def run() -> object:
        with torch.no_grad():
            return program(*args, **named)

    return run


def _add(found: dict[str, Run], name: str, make: Callable[[], Run], notes: list[str]) -> None:
    """A way of running that this machine or model may not be able to do; then a note says why."""
    try:
        found[name] = make()
    except Exception as failure:  # whatever a compiler raises
        notes.append(f"{name} was not timed: {type(failure).__name__}: {_line(failure)}")


def _warm(run: Run) -> Run:
    run()
    return run


def _graphed(run: Run) -> Run:
    """The same as one CUDA graph."""
    aside: Any = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> object:
        graph.replay()
        return graph

    return replay


def _line(failure: Exception) -> str:
    """The first line of what went wrong."""
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:160]
