"""How far a verb is, on standard error: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from qviz.digits import duration
from qviz.progress import OnProgress, Progress

if TYPE_CHECKING:
    from qviz.sensitivity import Sensitivity

#: Seconds between two lines where there is no terminal.
EVERY = 5.0
#: What tqdm shows; it puts a comma before the postfix.
BAR = "{desc} {percentage:3.0f} % |{bar:20}| {elapsed}, {remaining} left{postfix}"


class Meter:
    """Shows progress; use it as a context, so that no bar is left behind.

    Warnings wait until there is something to look at anyway, or until ``flush``: a command that
    ends at once with an error says only that.

    Args:
        quiet: show no progress.
        stream: where to; standard error by default.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._clock = quiet, clock
        self.on_terminal = not quiet and _has_room(self._stream)
        self._bar: Any = None  # a tqdm, imported when it is shown
        self._verb, self._done = "", 0
        self._first: Progress | None = None
        self._shown = clock()
        self._warned: set[str] = set()
        self._waiting: list[str] = []

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()

    def tell(self, progress: Progress) -> None:
        """Show this; the callback that verbs are given."""
        if self._quiet:
            return
        if progress.verb != self._verb or progress.done < self._done:
            self._close_bar()
            self._verb, self._first = progress.verb, progress
        self._done = progress.done
        if self.on_terminal:
            self._move_bar(progress)
        elif self._clock() - self._shown >= EVERY and progress.elapsed >= 1:
            self._shown = self._clock()
            self._print_warnings()
            print(f"qviz: {line(progress, self._first)}", file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        self._close_bar()
        self._print_warnings()
        print(f"qviz: {text}", file=self._stream, flush=True)

    def worst(self, ranking: Sensitivity) -> None:
        """Name the worst three measured so far behind the bar."""
        if self._bar is not None:
            measured = [r for r in ranking.rows if r.exact][:3]
            worst = ", ".join(f"{r.name} {r.divergence:.3g}" for r in measured)
            self._bar.set_postfix_str(f"worst {worst}", refresh=False)

    def warn(self, warnings: Iterable[str]) -> None:
        """Say each warning once, when there is time."""
        new = [w for w in dict.fromkeys(warnings) if w not in self._warned]
        self._warned.update(new)
        self._waiting += new
        if self._bar is not None:
            self._print_warnings()

    def flush(self) -> None:
        """Take the bar away and say the warnings that wait."""
        self._close_bar()
        self._print_warnings()

    def _move_bar(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._print_warnings()
            self._bar = tqdm(
                total=progress.total,
                initial=progress.done,
                desc=progress.verb,
                file=self._stream,
                leave=False,
                dynamic_ncols=True,
                bar_format=BAR,
            )
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._verb, self._done = "", 0

    def _print_warnings(self) -> None:
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            if self._bar is not None:
                self._bar.clear()
            print(f"qviz: warning: {text}", file=self._stream, flush=True)


def _has_room(stream: TextIO) -> bool:
    """Whether it is a terminal with a size; some containers have one of no lines."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).lines > 0
    except (OSError, ValueError):
        return False


def line(progress: Progress, first: Progress | None = None) -> str:
    """Progress as a sentence: ``sensitivity 40 %, 12 s, about 18 s left``.

    Args:
        progress: what to say.
        first: what was told first. The pace is counted from there, because what an earlier run had
            done already came at once.
    """
    share = progress.done / progress.total if progress.total else 1.0
    text = f"{progress.verb} {100 * share:.0f} %, {duration(progress.elapsed)}"
    new = progress.done - (first.done if first else 0)
    if new > 0 and progress.done < progress.total:
        spent = progress.elapsed - (first.elapsed if first else 0.0)
        text += f", about {duration(spent / new * (progress.total - progress.done))} left"
    return text


def parts_of(tell: OnProgress, verb: str, count: int) -> Callable[[int], OnProgress]:
    """Callbacks that show the first, second ... of ``count`` equal jobs as parts of one verb."""
    start = time.monotonic()

    def part(index: int) -> OnProgress:
        def told(progress: Progress) -> None:
            done, total = index * progress.total + progress.done, count * progress.total
            tell(Progress(verb, done, total, time.monotonic() - start, progress.message))

        return told

    return part
