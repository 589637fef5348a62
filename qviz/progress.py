"""How far a long verb has come: one value, passed to whoever shows it.

A callback that raises (``Cancelled``, KeyboardInterrupt) stops the verb; rows finished before are
kept by whoever stores them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A verb's state.

    Attributes:
        verb: what runs: ``calibrate``, ``sensitivity`` ...
        done: units finished.
        total: units in all.
        elapsed: seconds since the verb began.
        message: what the last unit was.
        known: units that were finished before the verb began.
    """

    verb: str
    done: int
    total: int
    elapsed: float
    message: str = ""
    known: int = 0

    @property
    def remaining(self) -> float | None:
        """Seconds left if the rest goes as fast, None before the first unit."""
        own = self.done - self.known
        return self.elapsed / own * (self.total - self.done) if own > 0 else None


OnProgress = Callable[[Progress], None]


class Reporter:
    """Counts units of one verb and tells the callback, if there is one."""

    def __init__(self, verb: str, total: int, tell: OnProgress | None, known: int = 0) -> None:
        self.verb, self.total, self._tell = verb, total, tell
        self.done = self._known = known
        self._start = time.monotonic()

    def step(self, message: str = "", units: int = 1) -> None:
        """Some units are done."""
        self.done += units
        if self._tell is not None:
            elapsed = time.monotonic() - self._start
            self._tell(Progress(self.verb, self.done, self.total, elapsed, message, self._known))
