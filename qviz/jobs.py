"""Long verbs in the background: progress, cancel, partial results. Threads only, no web framework.

A ``Job`` runs on a ``Worker``'s thread and is looked at from anywhere through ``snapshot``. The
thread is a daemon, because the threads of an executor are joined when the interpreter exits, and
Ctrl-C would wait for the job. One worker runs one job at a time: that is what keeps two long verbs
on one model from getting in each other's way.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from qviz.errors import Cancelled, QvizError
from qviz.progress import Progress

State = Literal["waiting", "running", "done", "failed", "cancelled"]

#: Finished jobs that a worker remembers.
REMEMBERED = 64
#: How long a process that ends waits for the running job to notice, in seconds.
FAREWELL = 2.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A job at one moment.

    Attributes:
        id: of the job.
        title: what it does, in words.
        state: waiting, running, done, failed or cancelled.
        cancelling: cancel was asked for and has not happened yet.
        progress: how far the verb has come, None before its first unit.
        partial: what was published last; kept when the job is cancelled or fails.
        result: what the work returned, None until done.
        error: why it failed, in words; None unless failed.
        trace: the traceback, None unless failed.
        seconds: since it started to run.
        version: grows with every change.
    """

    id: str
    title: str
    state: State
    cancelling: bool
    progress: Progress | None
    partial: Any
    result: Any
    error: str | None
    trace: str | None
    seconds: float
    version: int

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


class Job:
    """One piece of work. The work calls ``tell`` and ``publish``; everybody else looks.

    Args:
        title: what it does, in words.
        work: is given the job and returns the result.
    """

    def __init__(self, title: str, work: Callable[[Job], object]) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.title = title
        self._work: Callable[[Job], object] | None = work
        self._changed = threading.Condition()
        self._state: State = "waiting"
        self._stop = threading.Event()
        self._progress: Progress | None = None
        self._partial: Any = None
        self._result: Any = None
        self._error: str | None = None
        self._trace: str | None = None
        self._started = self._ended = 0.0
        self._version = 0
        self._listeners: list[Callable[[Snapshot], None]] = []

    def check(self) -> None:
        """Stop here if cancel was asked for.

        Raises:
            Cancelled: it was.
        """
        if self._stop.is_set():
            raise Cancelled(self.title, "cancelled", "Start it again to go on")

    def tell(self, progress: Progress) -> None:
        """Note how far the work is; a verb's ``progress=``.

        Raises:
            Cancelled: cancel was asked for.
        """
        self._update(_progress=progress)
        self.check()

    def publish(self, partial: object) -> None:
        """Show what there is so far; a value that is not changed afterwards."""
        self._update(_partial=partial)

    def cancel(self) -> None:
        """Ask the work to stop; what was published stays. Does nothing to a finished job."""
        self._stop.set()
        with self._changed:
            if self._state == "waiting":
                self._finish("cancelled")
        self._update()

    def snapshot(self) -> Snapshot:
        """The job as it is now."""
        with self._changed:
            return self._snapshot()

    def wait(self, seconds: float | None = None) -> Snapshot:
        """Wait for the end, or as long as given."""
        with self._changed:
            self._changed.wait_for(lambda: self._state not in ("waiting", "running"), seconds)
            return self._snapshot()

    def subscribe(self, listener: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Call ``listener`` after every change, on the thread that made it.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def run(self) -> None:
        """Do the work on this thread; errors end up in the snapshot."""
        with self._changed:
            work, self._work = self._work, None  # what it holds is free when it is over
            if work is None or self._state != "waiting":
                return
            self._state, self._started = "running", time.monotonic()
        self._update()
        try:
            result = work(self)
        except Cancelled:
            self._finish("cancelled")
        except QvizError as failure:
            self._finish("failed", error=str(failure), trace=traceback.format_exc())
        except Exception as failure:
            # the user's model, data or metric; whatever it raised, the job says so
            text = f"{self.title}: {type(failure).__name__}: {failure}"
            self._finish("failed", error=text, trace=traceback.format_exc())
        else:
            self._finish("done", result=result)

    def _finish(
        self,
        state: State,
        *,
        result: object = None,
        error: str | None = None,
        trace: str | None = None,
    ) -> None:
        self._ended = time.monotonic()
        self._update(_state=state, _result=result, _error=error, _trace=trace)

    def _update(self, **values: object) -> None:
        with self._changed:
            for name, value in values.items():
                setattr(self, name, value)
            self._version += 1
            seen = self._snapshot()
            self._changed.notify_all()
        for listener in tuple(self._listeners):
            listener(seen)

    def _snapshot(self) -> Snapshot:
        end = self._ended or time.monotonic()
        return Snapshot(
            id=self.id,
            title=self.title,
            state=self._state,
            cancelling=self._stop.is_set() and self._state == "running",
            progress=self._progress,
            partial=self._partial,
            result=self._result,
            error=self._error,
            trace=self._trace,
            seconds=end - self._started if self._started else 0.0,
            version=self._version,
        )


class Worker:
    """Runs jobs one after the other on a thread of its own.

    Args:
        name: of the thread.
        threads: torch threads for the work; None leaves one core to whoever shows the progress.
    """

    def __init__(self, name: str = "qviz-worker", threads: int | None = None) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def submit(self, title: str, work: Callable[[Job], object]) -> Job:
        """Queue a piece of work."""
        job = Job(title, work)
        with self._lock:
            self._jobs[job.id] = job
            finished = [key for key, one in self._jobs.items() if not one.snapshot().active]
            for key in finished[: max(0, len(self._jobs) - REMEMBERED)]:
                del self._jobs[key]
        self._queue.put(job)
        return job

    def job(self, id: str) -> Job | None:
        """A job by its id, None if there is none (any more)."""
        with self._lock:
            return self._jobs.get(id)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs it remembers, oldest first."""
        with self._lock:
            return tuple(self._jobs.values())

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return any(job.snapshot().active for job in self.jobs)

    def close(self, seconds: float = 0.0) -> None:
        """Cancel everything, and wait as long as given until the running job has noticed."""
        for job in self.jobs:
            job.cancel()
        self._queue.put(None)
        atexit.unregister(self._end)
        self._thread.join(seconds)

    def _end(self) -> None:
        # a thread still in torch's code when the interpreter goes would abort the process
        self.close(FAREWELL)

    def _loop(self) -> None:
        started = False
        while (job := self._queue.get()) is not None:
            if not started:  # not earlier: importing torch takes seconds
                import torch

                torch.set_num_threads(self._threads)
                started = True
            job.run()
