"""``qviz report``, and the commands and the Python that the app and the report print."""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Project, make_project, result

from qviz import reproduce, store_lock
from qviz.cli import main
from qviz.recipe import Recipe


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Project) -> Path:
    """A finished run."""
    folder = project.path / "out"
    words = project.words("run", folder, "--max-drop", "0.5", "--calibrator", "mse", "--quiet")
    with redirect_stdout(io.StringIO()):
        assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def recipe(run: Path) -> Recipe:
    """Another recipe than the run's: one op in float, one range drawn by hand."""
    own = Recipe.from_json((run / "recipe.json").read_text())
    return own.skip("head").with_range("relu", -1.5, 1.5)


def options(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "options.json").read_text())
    return found


def test_a_run_is_reported_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, ["report", str(run)])
    path = run.resolve() / "report.html"
    assert found == {"report": str(path), "bytes": path.stat().st_size}
    page = path.read_text(encoding="utf-8")
    for title in ("Calibrators", "Coverage", "Ranges", "Sensitivity", "Partial quantization"):
        assert f"<h2>{title} " in page or f"<h2>{title}<" in page


def test_nothing_is_measured_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ("evaluations.jsonl", "sensitivity.jsonl")
    before = [(run / name).read_bytes() for name in tables]
    result(capsys, ["report", str(run)])
    assert [(run / name).read_bytes() for name in tables] == before


def test_the_report_goes_where_it_is_told_to(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.html"
    assert main(["report", str(run), "-o", str(path), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"report written to {path} (")
    assert said.endswith("B); it opens in any browser, offline\n")


def test_a_run_without_a_recipe_is_one_line(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(project.words("calibrate", tmp_path / "out", "--quiet")) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out"), "--quiet"]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path / 'out' / 'recipe.json'}: there is no such file. Finish the run with "
        "qviz run or qviz search, or name a recipe with --recipe.\n"
    )


def test_a_folder_without_a_proof_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["report", str(run), "--checkpoint", str(tmp_path), "--quiet"]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path}: it holds no verified checkpoint of this recipe. Name a folder that "
        "qviz export wrote from it.\n"
    )


def test_a_folder_without_a_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path}: there is no run in it. Name the folder that a run was given.\n"
    )


def test_a_run_that_another_process_writes_to_is_read_from_a_copy(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is while the app is open."""
    parent = os.getppid()
    owner = {"pid": parent, "host": socket.gethostname(), "token": "theirs"}
    lock = run / store_lock.NAME
    lock.write_text(json.dumps(owner | {"started": None}))
    before = {p.name for p in run.iterdir()}
    try:
        path = tmp_path / "r.html"
        capsys.readouterr()
        assert main(["report", str(run), "-o", str(path), "--quiet"]) == 0
        assert capsys.readouterr().err.startswith(
            f"qviz: warning: {run.resolve()}: another process, perhaps the app, has it open; this "
            "works on a copy of it\n"
        )
        assert json.loads(lock.read_text())["token"] == "theirs"
        new = {p.name for p in run.iterdir()} - before
        assert {name.partition("-")[0] for name in new} <= {"recipe"}  # for the command in it
        assert str(run.resolve()) in path.read_text(encoding="utf-8")
    finally:
        lock.unlink()


def test_the_printed_commands_do_it_again(
    run: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = reproduce.save_recipe(run.resolve(), recipe)
    out = tmp_path / "int8 program"
    text = reproduce.commands(run.resolve(), file, out).replace("\\\n", "")
    for line in text.splitlines():
        verb, *words = shlex.split(line)
        assert verb == "qviz"
        assert main([*words, "--quiet"]) == 0, capsys.readouterr().err
    assert Recipe.from_json((out / "recipe.json").read_text()) == recipe
    assert json.loads((out / "certificate.json").read_text())["passed"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "head left in float" in page
    assert "Int8 on the CPU computes what was simulated" in page


def test_the_printed_python_does_it_again(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    file = reproduce.save_recipe(run.resolve(), recipe)
    out = tmp_path / "program"
    said = io.StringIO()
    with redirect_stdout(said):
        exec(reproduce.snippet(options(run), file, out), {"__name__": "snippet"})
    assert said.getvalue().startswith("top1 ")
    assert Recipe.from_json((out / "recipe.json").read_text()) == recipe
    assert json.loads((out / "certificate.json").read_text())["passed"]
