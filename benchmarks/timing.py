"""Ratios of CPU time: contenders and the reference take turns, medians of the ratios per turn."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from qviz.errors import QvizError

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """One contender against the reference.

    Attributes:
        name: of the contender.
        cpu: median over the turns of CPU time over the reference's CPU time in the same turn.
        wall: likewise in wall time.
        turns: how many.
        reference_ms: median CPU time of the reference, in ms; machines differ, ratios less so.
    """

    name: str
    cpu: float
    wall: float
    turns: int
    reference_ms: float

    def as_row(self) -> dict[str, object]:
        """For ``report``."""
        return asdict(self)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call that starts with no free memory at hand.

    Else a pass is up to 40 % quicker after another that left large free blocks behind than in a
    process of its own, where the system has to map and clear them.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def ratios(
    reference: Callable[[], object],
    contenders: Mapping[str, Callable[[], object]],
    turns: int = 5,
    warm: Collection[str] | None = None,
) -> list[Ratio]:
    """Time each contender against the reference, in turns.

    Args:
        reference: what the others are compared with; warmed up by one call.
        contenders: by name.
        turns: how often each is timed.
        warm: names of the contenders that get a call to warm up; None is all.
    """
    reference()
    for name, run in contenders.items():
        if warm is None or name in warm:
            run()
    base: list[tuple[float, float]] = []
    own: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(turns):
        base.append(timed(reference))
        for name, run in contenders.items():
            own[name].append(timed(run))
    return [
        Ratio(
            name,
            statistics.median(t[0] / b[0] for t, b in zip(times, base, strict=True)),
            statistics.median(t[1] / b[1] for t, b in zip(times, base, strict=True)),
            turns,
            statistics.median(b[0] for b in base) * 1e3,
        )
        for name, times in own.items()
    ]


class Apart:
    """Something to time in a process of its own.

    What ran before in a process changes what a pass costs there: free blocks that cannot be given
    back save the system mapping and clearing the next ones, up to a quarter of an eager forward.

    Args:
        make: called there once; its result is called to be timed. Importable by name.
        args: for ``make``.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *args: object) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, other = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(other, make, args), daemon=True)
        self._process.start()

    def call(self, warm: bool = False) -> tuple[float, float, object]:
        """CPU and wall seconds of one call, and what it returned; ``warm`` times nothing."""
        self._pipe.send(warm)
        found: tuple[float, float, object] = self._pipe.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _serve(
    pipe: Connection, make: Callable[..., Callable[[], object]], args: Sequence[object]
) -> None:
    run = make(*args)
    made: list[object] = []

    def once() -> None:
        made[:] = [run()]

    while True:
        warm = pipe.recv()
        if warm:
            once()
        pipe.send((*((0.0, 0.0) if warm else timed(once)), made[0]))


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    extras = [f for f in ("avx512_vnni", "avx_vnni", "amx_int8") if f in flags.split()]
    return f"{names[0] if names else platform.machine()} ({', '.join(extras) or 'no int8 dot'})"


def peak_bytes() -> int:
    """The most memory this process has held so far."""
    # not getrusage: after a fork its maximum includes the parent's
    try:
        status = Path("/proc/self/status").read_text()
    except OSError as error:
        raise QvizError(
            "peak memory", "this system has no /proc/self/status", "Use Linux"
        ) from error
    return int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) << 10


def report(name: str, rows: Sequence[Mapping[str, object]], *, keep: bool = True) -> None:
    """Print rows and, unless ``keep`` is False, write them to ``results/NAME.json``."""
    for row in rows:
        text = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print("  ".join(text))
    if keep:
        write(name, rows)


def write(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, with the machine they were measured on, to ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": name, "machine": machine(), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
