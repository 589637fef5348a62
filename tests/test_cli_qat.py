"""``qviz qat`` on the command line: code of the user's own, and runs that stand for their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_kit import Project, make_project, result

CODE = """
import torch
def batches(seed):
    own = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 1, 8, 8, generator=own), torch.arange(16) % 4) for _ in range(2)]
def a(): return batches(1)
def b(): return batches(2)
def loss(outputs, targets): return {scale} * torch.nn.functional.cross_entropy(outputs, targets)
def slow(model): return torch.optim.SGD(model.weights.parameters(), 1e-4)
def fast(model): return torch.optim.SGD(model.weights.parameters(), 1e-1)
"""
FEW = ("--calibrator", "max", "--weight-bits", "4", "--schedule-epochs", "10")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("project"))
    for name, scale in (("own.py", 1), ("other.py", 2)):
        (made.path / name).write_text(CODE.format(scale=scale))
    return made


def trained(capsys: pytest.CaptureFixture[str], words: list[str]) -> Any:  # noqa: ANN401 - JSON
    """Weights, losses and seconds of the epochs."""
    found = result(capsys, words)
    return found["weights"], [(e["loss"], e["seconds"]) for e in found["epochs"]]


@pytest.mark.parametrize(
    "other",
    [
        ("--loader", "own.py:b", "--loss", "own.py:loss", "--optimizer", "own.py:fast"),
        ("--loader", "own.py:a", "--loss", "other.py:loss", "--optimizer", "own.py:fast"),
        ("--loader", "own.py:a", "--loss", "own.py:loss", "--optimizer", "own.py:slow"),
    ],
    ids=["loader", "loss", "optimizer"],
)
def test_other_code_trains_anew_and_the_same_is_found_again(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    other: tuple[str, ...],
) -> None:
    monkeypatch.chdir(project.path)
    asked = project.words("qat", tmp_path / "out", *FEW)
    own = ("--loader", "own.py:a", "--loss", "own.py:loss", "--optimizer", "own.py:fast")
    first = trained(capsys, [*asked, *own])
    assert trained(capsys, [*asked, *own]) == first
    second = trained(capsys, [*asked, *other])
    assert second[0] != first[0]
    assert trained(capsys, [*asked, *other]) == second


@pytest.mark.parametrize("option", ["--loader", "--loss", "--optimizer"])
def test_code_is_of_the_folder_that_the_command_is_given_in(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    name = {"--loader": "a", "--loss": "loss", "--optimizer": "fast"}[option]
    given = {"--loader": f"{project.path}/own.py:a", option: f"near.py:{name}"}
    words = [word for pair in given.items() for word in pair]
    monkeypatch.chdir(project.path)
    (project.path / "near.py").write_text("raise ValueError('of the folder of then')")
    result(capsys, project.words("evaluate", tmp_path / "out", *FEW[:4]))
    (tmp_path / "near.py").write_text(CODE.format(scale=1))
    monkeypatch.chdir(tmp_path)
    assert result(capsys, ["qat", "out", *FEW, *words])["record"]["steps"] == 2


def test_the_seed_of_training_is_the_runs_unless_another_is_said(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "out"
    loader = ("--loader", f"{project.path}/own.py:a")
    result(capsys, project.words("evaluate", run, *FEW[:4], "--seed", "5"))
    words = ["qat", str(run), *FEW, *loader]
    assert result(capsys, words)["options"]["seed"] == 5
    assert result(capsys, [*words, "--seed", "0"])["options"]["seed"] == 0
