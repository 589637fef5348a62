"""A command that was killed or stopped goes on where it was, and ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Project, make_project, result

from qviz.cli import main

#: Starts the command line with an ordinary Ctrl-C, whatever the shell that runs the tests ignores.
#: Every finished row waits a moment, so that there is a middle to stop in.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from qviz import records
from qviz.cli import main
write = records.write_part
def slow(*args):
    write(*args)
    time.sleep(0.15)
records.write_part = slow
sys.exit(main(sys.argv[1:]))
"""
ROWS = "sensitivity.jsonl"
Ranking = dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def uninterrupted(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Ranking:
    """The ranking of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([*sweep(project, out), "--quiet", "--json"]) == 0
    return ranking(out)


def sweep(project: Project, out: Path) -> list[str]:
    # 60 KiB hold 10 samples' values: the sweep has several shards, each with one row per operand.
    more = ("--calibrator", "max", "--granularity", "operand", "--memory-budget", "60KiB")
    return project.words("sensitivity", out, *more)


def ranking(out: Path) -> Ranking:
    found: Ranking = json.loads((out / "sensitivity-result.json").read_text())
    return {k: v for k, v in found.items() if k != "run"}


def stopped_in_the_middle(project: Project, out: Path, how: int) -> tuple[int, str]:
    """Start a sweep and send it a signal after three rows; exit code and standard error.

    A fourth row in the file says that the third is whole: a signal may take back the last one.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *sweep(project, out), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / ROWS).exists() and (out / ROWS).read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


@pytest.mark.skipif(os.name == "nt", reason="kill -9 and Ctrl-C are signals")
def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(
    project: Project, uninterrupted: Ranking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, _ = stopped_in_the_middle(project, out, signal.SIGKILL)
    before = (out / ROWS).read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert code == -signal.SIGKILL
    assert whole.count(b"\n") >= 3

    found = result(capsys, sweep(project, out))
    after = (out / ROWS).read_bytes()
    rows = [json.loads(line) for line in after.splitlines()]
    assert after.startswith(whole)
    assert whole.count(b"\n") < len(rows)
    assert len({(row["name"], row["start"]) for row in rows}) == len(rows)
    assert len(found["rows"]) == 9
    assert ranking(out) == uninterrupted


@pytest.mark.skipif(os.name == "nt", reason="kill -9 and Ctrl-C are signals")
def test_ctrl_c_keeps_the_rows_and_says_how_to_go_on(
    project: Project, uninterrupted: Ranking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said = stopped_in_the_middle(project, out, signal.SIGINT)
    count = (out / ROWS).read_bytes().count(b"\n")
    assert (code, said) == (
        130,
        f"qviz: stopped by Ctrl-C: the histograms, {count} sensitivity rows kept in {out}. Run "
        "the same command again to go on.\n",
    )
    assert count >= 3
    result(capsys, sweep(project, out))
    assert ranking(out) == uninterrupted


@pytest.fixture
def begun(project: Project, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    words = ["calibrate", project.model, "--calibration", project.calibration, "-o", str(out)]
    assert main([*words, "--quiet"]) == 0
    return out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 2
    return capsys.readouterr().err


def test_a_folder_of_another_model_is_refused_by_name(
    project: Project, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = project.words("calibrate", begun)
    words[1] = project.model.replace(":net", ":other")
    said = refused(words, capsys)
    assert said.startswith(f"qviz: {begun}: it belongs to another model (")
    assert said.endswith(
        "). Name another run folder, or give what it was made with; the order of the data counts.\n"
    )


def test_a_folder_of_other_data_is_refused_by_name(
    project: Project, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", project.model, "--calibration", project.evaluation, "-o", str(begun)]
    assert "it belongs to another calibration data (" in refused(words, capsys)


def test_evaluation_data_can_come_later(
    project: Project, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (begun / "histograms.npz").read_bytes()
    result(capsys, project.words("evaluate", begun, "--calibrator", "max"))
    assert (begun / "histograms.npz").read_bytes() == before


def test_a_pass_is_not_mixed_with_one_of_another_graph(
    project: Project, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(project.words("evaluate", begun, "--no-fold-batch-norm"), capsys) == (
        f"qviz: {begun}: what is in histograms.npz was measured with batch norm folding True, now "
        "False. Repeat that, or name another run folder.\n"
    )
