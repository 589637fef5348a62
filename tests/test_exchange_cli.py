"""``qviz import``: another tool's file becomes a recipe of the run, measured beside its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import Project, make_project, result
from networks import network

import qviz
from qviz.cli import main
from qviz.recipe import Recipe


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Project) -> Path:
    """A calibrated run, and a file of ranges that leaves the head in float."""
    out = project.path / "out"
    assert main([*project.words("calibrate", out), "--quiet"]) == 0
    seen = json.loads((out / "calibrate-result.json").read_text())["tensors"]
    halves = {name: [t["min"] / 2, t["max"] / 2] for name, t in seen.items() if "amax" not in name}
    (project.path / "ranges.json").write_text(json.dumps(halves))
    return out


def test_the_recipe_is_written_and_both_are_measured(
    run: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project.path / "ranges.json"
    found = result(capsys, ["import", str(run), str(file)])
    made = Recipe.from_json((run / "imported.json").read_text())
    said = json.loads(file.read_text())
    assert made.skipped == ("head",)
    assert made.range_of["block:relu"].hi == said["block:relu"][1]
    assert found["recipe"] == str(run / "imported.json")
    assert found["format"] == "ranges"
    assert found["run"]["samples"] == found["imported"]["samples"] == 120
    assert found["run"]["divergence"] != found["imported"]["divergence"]


def test_what_was_taken_is_printed_with_the_step_that_comes_next(
    run: Path, project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, out = project.path / "ranges.json", tmp_path / "mine.json"
    capsys.readouterr()
    assert main(["import", str(run), str(file), "-o", str(out), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Ranges as JSON (ONNX Runtime, qviz) read from {file}"
    assert "  Ops in float: head" in lines
    assert "Measured on 120 samples:" in lines
    assert lines[-2:] == [
        f"written to {out}",
        f"next: qviz export {run} --recipe {out} -o {run}-imported",
    ]
    assert out.exists()


def test_a_recipe_is_compared_with_the_run_s_own(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, recipe, again = (str(p) for p in (run.parent / "ranges.json", run / "recipe.json", run))
    made, same = str(tmp_path / "made.json"), str(tmp_path / "same.json")
    assert result(capsys, ["import", again, file, "-o", made])["differences"]
    Path(recipe).write_text(Path(made).read_text())
    try:
        assert result(capsys, ["import", again, made, "-o", same])["differences"] == []
    finally:
        Path(recipe).unlink()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["none.json"], "{cwd}/none.json: there is no such file. Name a file that exists."),
        (
            ["ranges.json", "-o", "out/recipe.json"],
            "{cwd}/out/recipe.json: it is the run's own recipe. Name another file with -o.",
        ),
        (["ranges.json", "-o", "out"], "{cwd}/out: it is a folder. Name a file with -o."),
    ],
)
def test_what_cannot_be_done_is_one_line(
    more: list[str],
    reason: str,
    run: Path,
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project.path)
    capsys.readouterr()
    assert main(["import", str(run), *more, "--quiet"]) == 2
    assert capsys.readouterr().err == f"qviz: {reason.format(cwd=project.path)}\n"


def test_in_python_a_graph_or_a_session_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text('{"x": [-1, 1]}')
    graph = network("residual")[1]
    found = qviz.import_recipe(graph, path, base=Recipe(profile="tensorrt"))
    assert found.recipe.range_of["x"].hi == 1
    assert found.recipe.profile == "tensorrt"
