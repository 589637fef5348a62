"""``qviz auto`` on the command line: result, exit codes, and commands that repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import Project, images, make_project, result, write_data

from qviz.cli import main
from qviz.tune.methods import METHODS

#: 4 bits cost this model a quarter of its accuracy.
BITS = (
    "--weight-bits", "4", "--activation-bits", "4", "--no-ends-at-8", "--calibrator", "max",
)  # fmt: skip
#: 2 bits per weight, from the largest values: a better range for them helps beyond noise.
TWO_BITS = ("--weight-bits", "2", "--no-ends-at-8", "--calibrator", "max")


def only(*methods: str, bits: tuple[str, ...] = BITS) -> tuple[str, ...]:
    """Few bits, and no other methods than these tried."""
    return (*bits, *(w for n in METHODS if n not in methods for w in ("--without", n)))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


def test_a_target_that_is_met_ends_with_0(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(project.words("auto", tmp_path / "out", "--max-drop", "50%")) == 0
    said = capsys.readouterr()
    for expected in (
        "calibration  ", "40 samples: ranges and fits",
        "120 samples: measured, and chose among the variants",
        "target       a drop of at most 50.0 %, strategy guided",
        "  1. calibrator max: top1 ",
        "ended: the target of 50.0 % is met",
        "what repeats it, from nothing:\n  qviz evaluate ",
        f"next: qviz export {tmp_path / 'out'} -o {tmp_path / 'out'}-int8",
    ):  # fmt: skip
        assert expected in said.out
    assert "qviz: calibrator max: top1 " in said.err


@pytest.mark.parametrize(
    ("words", "drop", "code", "verbs"),
    [
        (only("weight_range", bits=TWO_BITS), "16%", 0, ["calibrate", "tune"]),
        (only("weight_range", bits=TWO_BITS), "10%", 0, ["calibrate", "tune", "search"]),
        (only("more_bits"), "10%", 0, ["calibrate", "tune"]),
        (only(), "0", 1, ["calibrate", "search"]),
    ],
    ids=["a fix", "a fix and a search", "more bits", "a search"],
)
def test_the_commands_handed_over_give_the_same_recipe(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    drop: str,
    code: int,
    verbs: list[str],
) -> None:
    out = tmp_path / "out"
    found = result(capsys, project.words("auto", out, *words, "--max-drop", drop), code)
    assert [action["verb"] for action in found["best"]["way"]] == verbs
    *commands, export = found["commands"]
    for command in commands:
        assert main([*shlex.split(command)[1:], "--quiet"]) in (0, 1), capsys.readouterr().err
    made = Path(shlex.split(export)[4])
    assert json.loads(made.read_text()) == found["best"]["recipe"]
    assert json.loads((out / "recipe.json").read_text()) == found["best"]["recipe"]


def test_a_target_that_is_missed_ends_with_1_and_the_best_so_far(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = project.words("auto", tmp_path / "out", *only(), "--max-drop", "0")
    found = result(capsys, words, code=1)
    assert not found["reached"]
    assert found["best"]["drop"] > 0
    assert (tmp_path / "out" / "recipe.json").exists()
    assert found["run"] == str(tmp_path / "out")


def test_amct_writes_its_three_files(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--strategy", "amct", "--weight-bits", "5", "--activation-bits", "5",
             "--no-ends-at-8", "--max-drop", "10%")  # fmt: skip
    found = result(capsys, project.words("auto", tmp_path / "out", *words))
    assert all((tmp_path / "out" / name).exists() for name in found["files"])
    assert len(found["files"]) == 3
    command, _ = found["commands"]
    assert main([*shlex.split(command)[1:], "--quiet"]) == 0
    made: dict[str, Any] = json.loads((tmp_path / "out-again" / "recipe-best.json").read_text())
    assert made == found["best"]["recipe"]


def test_a_run_stands_for_its_model_and_data(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*project.words("evaluate", out, "--calibrator", "max"), "--quiet"]) == 0
    found = result(capsys, ["auto", str(out), "--max-drop", "50%", "--calibrator", "max"])
    assert found["run"] == str(out)
    assert found["measured"] == 1


def test_the_result_is_confirmed_on_other_data(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = write_data(tmp_path / "fresh.npz", images(30, 9), np.zeros(30, dtype=np.int64))
    words = ("--max-drop", "50%", "--calibrator", "max", "--confirm", fresh)
    assert main([*project.words("auto", tmp_path / "out", *words), "--quiet"]) == 0
    assert f"confirmed on {fresh} (30 samples): top1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["auto", "{model}", "--calibration", "{calibration}", "-o", "{out}"],
         "evaluation data: are missing. Give some with --evaluation."),
        (["auto", "{model}"],
         "qviz auto: no run folder is named. Give one with -o."),
        (["auto", "-o", "{out}"],
         "qviz auto: no model is named. Give a model or a run."),
        (["auto", "{model}", "-o", "{out}", "--time-budget", "soon"],
         "qviz auto: argument --time-budget: 'soon' is not a duration such as 90s, 10min or "
         "1.5h. See qviz auto --help."),
        (["auto", "{model}", "-o", "{out}", "--option", "epochs=1"],
         "qviz auto: argument --option: 'epochs=1' is not method.name=value. See qviz auto "
         "--help."),
        (["auto", "{model}", "-o", "{out}", "--option", "statistics.samples=1"],
         "option samples: 1 is no whole number from 2 to inf. Leave it out for 512."),
        (["auto", "{model}", "--calibration", "{calibration}", "--evaluation", "{evaluation}",
          "-o", "{out}", "--confirm", "{evaluation}"],
         "{evaluation}: 120 of its 120 samples are evaluation samples too, so it confirms "
         "nothing. Give samples that nothing was chosen or fitted with."),
    ],
    ids=["no evaluation", "no folder", "no model", "duration", "option", "value", "confirmation"],
)  # fmt: skip
def test_input_that_cannot_be_used_is_one_line(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    names = {
        "model": project.model,
        "calibration": project.calibration,
        "evaluation": project.evaluation,
        "out": str(tmp_path / "out"),
    }
    assert main([*(w.format(**names) for w in words), "--quiet"]) == 2
    assert capsys.readouterr().err == f"qviz: {message.format(**names)}\n"
