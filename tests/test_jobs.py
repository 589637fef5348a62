"""Jobs: progress, cancel, partial results, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from qviz.errors import DataError
from qviz.jobs import Job, Snapshot, Worker
from qviz.progress import Progress


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test", threads=1)
    yield made
    made.close()


def units(job: Job, gate: threading.Event | None = None, total: int = 3) -> str:
    """Work of a few units; waits for the gate before the second one."""
    for done in range(1, total + 1):
        job.publish(list(range(done)))
        job.tell(Progress("count", done, total, 0.5 * done))
        if gate is not None and done == 1:
            assert gate.wait(10)
    return "all"


def test_a_finished_job_holds_its_result_and_the_last_partial_one(worker: Worker) -> None:
    seen = worker.submit("count", units).wait(10)
    assert (seen.state, seen.result, seen.partial) == ("done", "all", [0, 1, 2])
    assert seen.progress == Progress("count", 3, 3, 1.5)
    assert not seen.active


def test_cancel_stops_at_the_next_unit_and_keeps_what_was_published(worker: Worker) -> None:
    gate = threading.Event()
    job = worker.submit("count", lambda own: units(own, gate))
    until(lambda: job.snapshot().partial == [0])
    job.cancel()
    assert job.snapshot().cancelling
    gate.set()
    seen = job.wait(10)
    assert (seen.state, seen.partial, seen.result) == ("cancelled", [0, 1], None)


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(worker: Worker) -> None:
    gate = threading.Event()
    first = worker.submit("first", lambda own: units(own, gate))
    ran: list[int] = []
    second = worker.submit("second", lambda _: ran.append(1))
    assert second.snapshot().state == "waiting"
    second.cancel()
    assert second.snapshot().state == "cancelled"
    gate.set()
    assert first.wait(10).state == "done"
    worker.submit("third", units).wait(10)
    assert ran == []


def test_jobs_of_one_worker_run_one_after_the_other(worker: Worker) -> None:
    running: list[str] = []
    overlap: list[str] = []

    def work(_: Job) -> None:
        overlap.extend(running)
        running.append("x")
        time.sleep(0.01)
        running.clear()

    for job in [worker.submit("one", work) for _ in range(5)]:
        assert job.wait(10).state == "done"
    assert overlap == []


def test_an_error_raised_on_purpose_is_shown_as_it_is(worker: Worker) -> None:
    def work(_: Job) -> None:
        raise DataError("calib.npz", "holds no samples", "Give another")

    seen = worker.submit("calibrate", work).wait(10)
    assert (seen.state, seen.error) == ("failed", "calib.npz: holds no samples. Give another.")
    assert "DataError" in (seen.trace or "")


def test_any_other_error_is_named_with_the_job(worker: Worker) -> None:
    def work(_: Job) -> None:
        raise ZeroDivisionError("division by zero")

    seen = worker.submit("user metric", work).wait(10)
    assert seen.error == "user metric: ZeroDivisionError: division by zero"
    assert "in work" in (seen.trace or "")


def test_a_failed_job_does_not_stop_the_next_one(worker: Worker) -> None:
    worker.submit("bad", lambda _: 1 / 0)
    assert worker.submit("good", units).wait(10).result == "all"


def test_a_subscriber_sees_every_change_until_it_ends_the_subscription(worker: Worker) -> None:
    gate = threading.Event()
    job = worker.submit("count", lambda own: units(own, gate))
    until(lambda: job.snapshot().partial == [0])
    seen: list[Snapshot] = []
    end = job.subscribe(seen.append)
    gate.set()
    job.wait(10)
    assert seen[-1].state == "done"
    assert [s.version for s in seen] == sorted({s.version for s in seen})
    end()
    job.publish("late")
    assert seen[-1].partial != "late"


def test_a_job_is_found_by_its_id_and_busy_says_whether_one_is_active(worker: Worker) -> None:
    gate = threading.Event()
    job = worker.submit("count", lambda own: units(own, gate))
    assert worker.job(job.id) is job
    assert worker.job("other") is None
    assert worker.busy
    gate.set()
    job.wait(10)
    assert not worker.busy


def test_ctrl_c_ends_the_process_while_a_job_runs() -> None:
    code = (
        "import signal, time\n"
        "from qviz.jobs import Worker\n"
        # a shell that starts the tests in its background has Ctrl-C ignored, which is inherited
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "Worker().submit('long', lambda job: time.sleep(600))\n"
        "print('running', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0


def until(met: object) -> None:
    """Wait for a condition that another thread brings about."""
    deadline = time.monotonic() + 10
    assert callable(met)
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.001)
