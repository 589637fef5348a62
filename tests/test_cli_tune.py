"""``qviz tune`` on the command line: the list, a method applied, recipes handed on."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from cli_kit import Project, make_project, result

from qviz.cli import main
from qviz.tune.methods import METHODS

BITS = ("--calibrator", "max", "--weight-bits", "4", "--activation-bits", "4")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which bias correction was applied, kept as ``corrected``."""
    out = tmp_path_factory.mktemp("tune") / "out"
    words = ("--method", "bias_correction", "--name", "corrected", *BITS, "--quiet")
    assert main(project.words("tune", out, *words)) == 0
    return out


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_by_itself_what_its_options_say_by_default(name: str) -> None:
    given = inspect.signature(METHODS[name].module.apply).parameters
    for option in METHODS[name].module.OPTIONS:
        if option.name in given:
            assert given[option.name].default == option.default, option.name


def test_the_list_says_of_every_method_what_it_takes_and_where_it_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tune", "--list"]) == 0
    said = capsys.readouterr().out
    for name, method in METHODS.items():
        assert f"{name}: {method.title}. {method.what}\n" in said
        for option in method.module.OPTIONS:
            assert f"  --option {option.name}={option.default}" in said
    found = result(capsys, ["tune", "--list"])
    assert [m["name"] for m in found] == list(METHODS)


def test_a_method_is_measured_before_and_after_and_kept(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((run / "tune-result.json").read_text())
    made = json.loads((run / "recipe-corrected.json").read_text())
    assert made["weights"] == found["weights"] != ""
    assert (run / f"weights-{found['weights']}.npz").exists()
    assert found["variant"] == "corrected"
    assert found["before"] != found["after"] or found["divergence_before"] > 0
    assert found["interval"][0] <= found["gain"] <= found["interval"][1]
    assert found["noise"] is (found["interval"][0] <= 0 <= found["interval"][1])
    assert found["samples"] == {"calibration": 40, "training": 0, "evaluation": 120}
    assert len(found["changed"]) == found["changes"] == 4


def test_the_report_tells_noise_from_gain_and_what_changed(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--method", "weight_range", "--option", "samples=16", *BITS, "--quiet")
    assert main(project.words("tune", run, *words)) == 0
    said = capsys.readouterr().out
    for expected in (
        "Weight range search (",
        "samples 16): ",
        "calibration  40 samples it could fit on",
        "evaluation   120 samples it was measured on, and not fitted on",
        "float        top1 90.0 %",
        "gain ",
        "kept as variant weight_range: ",
        f"next: qviz export {run} --recipe {run / 'recipe-weight_range.json'} -o {run}-int8",
    ):
        assert expected in said
    assert ("noise: the interval contains 0" in said) != ("beyond noise" in said)


def test_a_recipe_of_one_run_is_the_start_of_another(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(run / "recipe-corrected.json")
    words = ("--method", "ifmr", "--from", start)
    found = result(capsys, project.words("tune", tmp_path / "out", *words))
    first = json.loads((run / "tune-result.json").read_text())
    before = json.loads((run / "recipe-corrected.json").read_text())
    assert found["weights"] == before["weights"]
    assert first["metric"] == found["metric"]
    assert (tmp_path / "out" / f"weights-{before['weights']}.npz").exists()


def test_a_run_stands_for_its_model_and_data(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    words = ["tune", run.name, "--method", "hfmg", "--from", f"{run.name}/recipe-corrected.json"]
    found = result(capsys, words)
    assert found["recipe"] == str(run / "recipe-hfmg.json")
    again = result(capsys, words)
    assert again["variant"] == "hfmg-2"


def test_a_search_and_an_evaluation_take_a_tuned_recipe(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(run / "recipe-corrected.json")
    found = result(capsys, project.words("search", run, "--from", start, "--max-drop", "90%"))
    assert found["skipped"] == []
    assert json.loads((run / "recipe.json").read_text()) == json.loads(Path(start).read_text())
    words = ("--recipe", start, "--skip", "stem", "--name", "skipped")
    measured = result(capsys, project.words("evaluate", run, *words))
    made = json.loads((run / "recipe-skipped.json").read_text())
    assert [o["target"] for o in made["overrides"]] == ["stem"]
    assert measured["recipe"] == str(run / "recipe-skipped.json")


def test_below_8_bits_the_ends_can_keep_8(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*BITS, "--ends-at-8", "--name", "ends")
    result(capsys, project.words("evaluate", tmp_path / "out", *words))
    made = json.loads((tmp_path / "out" / "recipe-ends.json").read_text())
    assert [(o["target"], o["bits"]) for o in made["overrides"]] == [("stem", 8), ("head", 8)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "qviz tune: no method is named. Give --method, one of --list."),
        (["--method", "magic"],
         f"method 'magic': does not exist. Use one of {', '.join(METHODS)}."),
        (["--method", "ifmr", "--option", "speed=2"],
         "option speed: the method has none of that name. Use max_percent, min_percent, start, "
         "stop, step."),
        (["--method", "ifmr", "--option", "speed"],
         "qviz tune: argument --option: 'speed' is not name=value. See qviz tune --help."),
        (["--method", "ifmr", "--name", "a/b"],
         "--name a/b: it is not a plain name. Use letters, digits, dots, - and _."),
        (["--method", "ifmr", "--from", "x.json", "--calibrator", "max"],
         "--from x.json: it brings its own calibrator and bits. Leave out --calibrator, "
         "--weight-bits, --activation-bits, --per-tensor, --ends-at-8."),
        (["--method", "ifmr", "--from", "x.json"],
         "x.json: no such file or directory. Name a recipe.json."),
        (["--method", "ifmr", "--ops", "nowhere", "--calibrator", "max"],
         "nowhere: Net has no such op. List the names with qviz info."),
        (["--method", "qat", "--calibrator", "max"],
         "Quantization-aware training (QAT): needs training data. Give some with training= or "
         "--train."),
    ],
    ids=["no method", "method", "option", "value", "name", "start", "file", "op", "training"],
)  # fmt: skip
def test_input_that_cannot_be_used_is_one_line(
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert main([*project.words("tune", tmp_path / "out", *words), "--quiet"]) == 2
    assert capsys.readouterr().err == f"qviz: {message}\n"


def test_a_run_goes_on_from_its_own_recipe_unless_another_is_said(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(project.words("search", out, *BITS, "--max-drop", "0.9", "--quiet")) == 0
    capsys.readouterr()
    own = json.loads((out / "recipe.json").read_text())
    words = ["tune", str(out), "--method", "calibrator", "--quiet"]
    assert result(capsys, words)["recipe"]
    made = json.loads((out / "recipe-calibrator.json").read_text())
    assert (made["weight_bits"], made["overrides"]) == (4, own["overrides"])
    result(capsys, [*words, "--calibrator", "max", "--name", "wide"])
    assert json.loads((out / "recipe-wide.json").read_text())["weight_bits"] == 8
