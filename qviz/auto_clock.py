"""The time an escalation may take: looked at between steps and, through progress, inside them."""

from __future__ import annotations

import time
from collections.abc import Callable

from qviz.digits import duration
from qviz.errors import Cancelled
from qviz.progress import OnProgress, Progress

#: A verb's own estimate of what is left is believed after this many seconds and this share of it.
SETTLED_SECONDS, SETTLED_SHARE = 3.0, 0.05
#: A step is given up early if it would take this many times what is left: estimates err.
TOO_LONG = 1.5


class OutOfTime(Cancelled):
    """The time budget ended a step; whoever handles a cancelled verb handles this one too."""

    def __init__(self, reason: str) -> None:
        super().__init__("time budget", reason, "Give more with --time-budget, and go on")

    def __reduce__(self) -> tuple[type[OutOfTime], tuple[str]]:  # type: ignore[override]
        return type(self), (self.reason,)


class Clock:
    """Seconds since the escalation began, and whether there are any left.

    Args:
        budget: seconds that it may take, None sets no limit.
        now: tells the time; for tests.
    """

    def __init__(self, budget: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self.budget, self._now = budget, now
        self._start = now()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._now() - self._start

    @property
    def left(self) -> float | None:
        """Of the budget, None if there is no limit; negative when it is exceeded."""
        return None if self.budget is None else self.budget - self.seconds

    def too_little(self, needed: float) -> str | None:
        """Why a step of at least so many seconds would not fit, None if it may."""
        left = self.left
        if left is None or left > needed:
            return None
        if left <= 0:
            return f"the time budget of {duration(self.budget or 0)} is used up"
        return f"it takes at least {duration(needed)}, {duration(left)} are left"

    def guard(self, tell: OnProgress | None, *, foresee: bool = True) -> OnProgress:
        """Progress of a step, which ends it when the budget is used up.

        Args:
            tell: is told all the same.
            foresee: end it also as soon as its own estimate does not fit; False for a verb that
                leaves something useful whenever it is stopped.

        Returns:
            A callback that raises ``OutOfTime``.
        """

        def told(progress: Progress) -> None:
            if tell is not None:
                tell(progress)
            left = self.left
            if left is None:
                return
            if left <= 0:
                raise OutOfTime(f"the time budget of {duration(self.budget or 0)} is used up")
            if foresee and _settled(progress) and (progress.remaining or 0.0) > TOO_LONG * left:
                raise OutOfTime(
                    f"{progress.verb} would take about {duration(progress.remaining or 0.0)} more, "
                    f"{duration(left)} are left"
                )

        return told


def _settled(progress: Progress) -> bool:
    own, total = progress.done - progress.known, progress.total - progress.known
    return progress.elapsed >= SETTLED_SECONDS and own >= SETTLED_SHARE * total
