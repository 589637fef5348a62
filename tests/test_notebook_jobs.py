"""Long verbs in a notebook: what is seen while they run, and what stays."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ipywidgets.widgets import widget as registry
from notebook_kit import Shell, figures, install

from qviz import notebook
from qviz.errors import Cancelled, DataError, QvizError
from qviz.jobs import Job, Worker
from qviz.notebook_live import WIDGET, Live, live_parts, partial_html, said
from qviz.opening import open as open_session
from qviz.progress import Progress
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return install(monkeypatch)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


class Gate:
    """Work that stops at a gate, and can be cancelled there."""

    def __init__(self, *published: object, result: object = None) -> None:
        self.published, self.result = published, result
        self.waiting, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> object:
        for value in self.published:
            job.publish(value)
        job.tell(Progress("sensitivity", 500, 2000, 3.0))
        self.waiting.set()
        while not self.open.wait(0.01):
            job.check()
        return self.result


def live_of(watch: notebook.Watch) -> Live:
    assert watch._live is not None
    return watch._live


def test_a_finished_job_leaves_its_plain_figure_and_table(
    shell: Shell, worker: Worker, ranking: Sensitivity
) -> None:
    gate = Gate(ranking, result=ranking)
    watch = notebook.watch(worker.submit("Sensitivity", gate))
    assert [WIDGET in output for output in shell.shown] == [True]
    box = live_of(watch)._box
    gate.open.set()
    assert watch.result() is ranking
    figure, rest = shell.shown
    assert figures([figure])
    assert WIDGET not in rest
    assert "Sensitivity: done after " in rest["text/html"]
    assert box.comm is None


def test_a_running_job_says_how_far_it_is_and_what_it_has(
    shell: Shell, worker: Worker, ranking: Sensitivity
) -> None:
    gate = Gate(replace(ranking, proxy={"conv": 0.3, "fc": 0.1}))
    watch = notebook.watch(worker.submit("Sensitivity", gate))
    gate.waiting.wait(10)
    watch._draw(watch.snapshot())
    live = live_of(watch)
    assert live._bar.value == 0.25
    assert live._text.value == "Sensitivity: sensitivity 500 of 2,000, 9.0 s left"
    assert "measured on 100 samples" in live._rows.value
    assert "estimated" in live._rows.value
    watch.cancel()
    watch.wait()


def test_the_button_cancels_and_what_was_found_is_kept(
    shell: Shell, worker: Worker, ranking: Sensitivity
) -> None:
    gate = Gate(ranking)
    watch = notebook.watch(worker.submit("Sensitivity", gate))
    gate.waiting.wait(10)
    live_of(watch)._button.click()
    assert watch.result() is ranking
    assert "Sensitivity: cancelled after " in shell.shown[-1]["text/html"]


def test_cancelled_before_it_found_anything_is_an_error(shell: Shell, worker: Worker) -> None:
    watch = notebook.watch(worker.submit("Calibrate", Gate()))
    watch.cancel()
    with pytest.raises(Cancelled) as caught:
        watch.result()
    assert str(caught.value) == "Calibrate: cancelled. Start it again to go on."


def test_a_failed_job_says_why_on_the_page_and_when_asked(shell: Shell, worker: Worker) -> None:
    def work(job: Job) -> object:
        raise DataError("val/", "is empty", "Put images there")

    watch = notebook.watch(worker.submit("Evaluate", work))
    with pytest.raises(QvizError) as caught:
        watch.result()
    assert str(caught.value) == (
        "Evaluate: val/: is empty. Put images there. `.snapshot().trace` has the traceback."
    )
    html = shell.shown[-1]["text/html"]
    assert "<b>Evaluate: failed after " in html
    assert "val/: is empty. Put images there." in html
    assert "Traceback" not in html


def test_interrupting_the_kernel_cancels(
    shell: Shell, worker: Worker, ranking: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(ranking)
    watch = notebook.watch(worker.submit("Sensitivity", gate))
    gate.waiting.wait(10)
    wait = watch.job.wait

    def interrupted(seconds: float | None = None) -> object:
        monkeypatch.setattr(watch.job, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.job, "wait", interrupted)
    assert watch.wait().state == "cancelled"


def test_a_page_that_is_gone_does_not_end_the_job(
    shell: Shell, worker: Worker, ranking: Sensitivity
) -> None:
    gate = Gate(result=ranking)
    watch = notebook.watch(worker.submit("Sensitivity", gate))
    gate.waiting.wait(10)
    shell.display_pub.error = RuntimeError("no connection")
    gate.open.set()
    assert watch.job.wait().state == "done"


def test_a_job_that_has_ended_is_shown_at_once(
    shell: Shell, worker: Worker, found: SearchResult
) -> None:
    job = worker.submit("Search", lambda _: found)
    job.wait()
    notebook.watch(job)
    assert "Search: done after " in shell.shown[-1]["text/html"]
    assert len(figures(shell.shown)) == 1


def test_a_watch_as_the_result_of_a_cell_is_not_shown_twice(
    shell: Shell, worker: Worker, found: SearchResult
) -> None:
    watch = notebook.watch(worker.submit("Search", lambda _: found))
    watch.wait()
    assert shell.run(watch) == []
    assert repr(watch) == "<Watch of Search: done>"


def test_without_widgets_the_cell_waits_and_then_shows_the_result(
    shell: Shell, worker: Worker, found: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    watch = notebook.watch(worker.submit("Search", lambda _: found))
    assert watch.snapshot().state == "done"
    assert watch.result() is found
    assert len(figures(shell.shown)) == 1
    assert "Search: done after " in shell.shown[-1]["text/html"]


def test_outside_of_a_notebook_one_line_is_printed(
    worker: Worker, found: SearchResult, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.watch(worker.submit("Search", lambda _: found))
    assert capsys.readouterr().out == (
        "Search: 1 of 2 ops in float (25.0% of MACs): drop 0.50%, target 1.00%\n"
    )


def test_the_verbs_of_a_session_run_in_the_background_one_after_the_other(shell: Shell) -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = (x, torch.arange(40) % 2)
    session = open_session(torch.nn.Linear(4, 2), data, data)
    verbs = notebook.start(session)
    assert verbs._worker is notebook.start(session)._worker
    assert len(verbs.calibrate().result().histograms) == 1
    recipe = session.recipe(calibrator="max")
    watches = (verbs.evaluate(recipe), verbs.sensitivity(recipe), verbs.best_calibrator())
    measured, scores, compared = (watch.result() for watch in watches)
    assert measured.scores.count == 40
    assert [row.name for row in scores.rows] == ["linear"]
    assert sum(row.best for row in compared) == 1
    result = verbs.search(recipe, max_drop=0.5, sensitivity=scores).result()
    assert result.reached
    assert verbs.run("Own", lambda job: 42).result() == 42


def test_an_export_takes_what_a_search_found(
    shell: Shell, found: SearchResult, tmp_path: Path
) -> None:
    class Known:
        """Of a session what an export asks for."""

        def export(self, recipe: object, folder: object, **_: object) -> object:
            return recipe, folder

    written: Any = notebook.start(Known()).export(found, tmp_path).result()  # type: ignore[arg-type]
    assert written == (found.recipe, tmp_path)


def test_each_point_of_a_search_is_a_row(found: SearchResult) -> None:
    html = partial_html(found.curve)
    assert "<td>0</td><td>+2.00%</td><td>add</td>" in html
    assert "<td>1</td><td>+0.50%</td><td>add</td>" in html


def test_rows_without_an_estimate_wait_until_they_are_measured(ranking: Sensitivity) -> None:
    html = partial_html(replace(ranking, mode="all_but_this"))
    assert "conv" in html
    assert "fc" not in html


def test_before_its_first_unit_a_job_says_what_it_waits_for(worker: Worker) -> None:
    first, second = Gate(), Gate()
    running, waiting = worker.submit("A", first), worker.submit("B", second)
    assert said(waiting.snapshot()) == "waiting for another job"
    first.waiting.wait(10)
    running.cancel()
    running.wait()
    assert said(replace(waiting.snapshot(), state="running", progress=None)) == "starting"
    assert said(replace(waiting.snapshot(), cancelling=True)) == "cancelling"
    waiting.cancel()


def test_closing_takes_every_widget_away() -> None:
    before = set(registry._instances)
    live = live_parts(Job("A", Gate()))
    assert live is not None
    assert set(registry._instances) > before
    live.close()
    assert set(registry._instances) == before
