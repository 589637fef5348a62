"""Stopwatches, and taking times of several things in turn so that drift hits them all alike.

A busy or a warming machine changes its speed over seconds. What is compared is therefore run
turn by turn, every second turn in the opposite order, and medians over the turns are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from qviz.bench import Spread
from qviz.errors import InputError

#: Clock ticks that a GPU is kept waiting per call of a walk, so that the host runs ahead of it.
HEAD_START = 60_000


class Stopwatch(Protocol):
    """Takes times between pairs of ``begin`` and ``end``."""

    def ahead(self, calls: int) -> None:
        """So many calls follow, of which only the device's own time is wanted."""

    def begin(self) -> None:
        """Start a time."""

    def end(self) -> None:
        """Stop it."""

    def read(self) -> list[float]:
        """Seconds of each pair since the last reading."""


class CpuStopwatch:
    """Time on the CPU; what an empty pair takes is subtracted.

    With one thread it is that thread's CPU time, so that other programs do not count: on a busy
    machine a pass of some milliseconds is nearly always interrupted. With several it is wall time.
    """

    def __init__(self) -> None:
        alone = torch.get_num_threads() == 1
        self._now = time.thread_time_ns if alone else time.perf_counter_ns
        self._marks: list[int] = []
        self._cost = 0
        for _ in range(200):
            self.begin()
            self.end()
        self._cost = round(statistics.median(self._gaps()))
        self._marks.clear()

    def ahead(self, calls: int) -> None:
        """Nothing: calls on a CPU end when they return."""

    def begin(self) -> None:
        """Start a time."""
        self._marks.append(self._now())

    def end(self) -> None:
        """Stop it."""
        self._marks.append(self._now())

    def read(self) -> list[float]:
        """Seconds of each pair since the last reading."""
        found = [max(0, gap - self._cost) / 1e9 for gap in self._gaps()]
        self._marks.clear()
        return found

    def _gaps(self) -> list[int]:
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        return [after - before for before, after in pairs]


class CudaStopwatch:
    """Time on the GPU between two events in its stream."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def ahead(self, calls: int) -> None:
        """Let the GPU wait, so that calls queue up behind each other without gaps."""
        torch.cuda._sleep(HEAD_START * calls)

    def begin(self) -> None:
        """Start a time."""
        self._record()

    def end(self) -> None:
        """Stop it."""
        self._record()

    def read(self) -> list[float]:
        """Seconds of each pair since the last reading; waits for the GPU."""
        torch.cuda.synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        found = [before.elapsed_time(after) / 1e3 for before, after in pairs]
        self._events.clear()
        return found

    def _record(self) -> None:
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)


def stopwatch(device: str) -> Stopwatch:
    """The stopwatch of a device: ``cpu`` or ``cuda``.

    Raises:
        InputError: the machine has no such device.
    """
    if device == "cpu":
        return CpuStopwatch()
    if not torch.cuda.is_available():
        raise InputError(
            f"device {device}",
            "PyTorch sees no CUDA GPU on this machine",
            "Time on the CPU, or name a GPU with --gpu to get a roofline estimate for it",
        )
    return CudaStopwatch()


def device_name(device: str) -> str:
    """What the times are true for."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    found = torch.cpu.get_capabilities()
    return str(found.get("cpu_name") or found.get("architecture") or "this CPU")


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        warm_up: turns that are not counted: kernels are chosen and weights packed in them.
        fewest: turns, however long they take.
        most: turns, however short they are.
        seconds: after which no further turn is begun.
    """

    warm_up: int = 2
    fewest: int = 7
    most: int = 101
    seconds: float = 3.0


Contender = Callable[[Stopwatch], None]


def take(
    contenders: Mapping[str, Contender],
    watch: Stopwatch,
    effort: Effort,
    check: Callable[[], None] = lambda: None,
) -> dict[str, NDArray[np.float64]]:
    """Run contenders in turn.

    Args:
        contenders: each makes the same number of begin-end pairs at every call.
        watch: takes the times.
        effort: how often.
        check: called before each turn; raises to stop.

    Returns:
        By contender, microseconds ``[turns, pairs]``.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in contenders}
    names = list(contenders)
    end = 0.0
    for turn in range(effort.warm_up + effort.most):
        check()
        if turn == effort.warm_up:
            end = time.perf_counter() + effort.seconds
        if turn >= effort.warm_up + effort.fewest and time.perf_counter() > end:
            break
        for name in names if turn % 2 else reversed(names):
            contenders[name](watch)
            taken = watch.read()
            if turn >= effort.warm_up:
                times[name].append([1e6 * second for second in taken])
    return {name: np.asarray(rows, dtype=np.float64) for name, rows in times.items()}


def spread(times: NDArray[np.float64]) -> Spread:
    """Median and quartiles of the times of one thing."""
    low, middle, high = np.percentile(times, (25, 50, 75))
    return Spread(float(middle), float(low), float(high), int(times.size))
