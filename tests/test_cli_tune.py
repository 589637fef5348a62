"""``qviz tune`` on the command line: the list, a method applied, recipes handed on."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from cli_kit import Project, images, make_project, result, write_data

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


def test_a_recipe_to_start_from_keeps_its_profile_and_that_is_said(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = str(run / "recipe-corrected.json"), tmp_path / "out"
    words = ("--method", "ifmr", "--from", start, "--profile", "ort-cpu", "--quiet")
    assert main(project.words("tune", out, *words)) == 0
    warning = f"qviz: warning: {start}: follows profile cuda, not ort-cpu\n"
    assert warning in capsys.readouterr().err
    assert json.loads((out / "recipe-ifmr.json").read_text())["profile"] == "cuda"


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


@pytest.fixture
def here(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run made in the project's folder with words of that folder, seen from a folder beside."""
    monkeypatch.chdir(project.path)
    words = ("--calibration", "calibration.npz", "--evaluation", "evaluation.npz")
    out = ("-o", str(tmp_path / "out"), "--quiet")
    assert main(["evaluate", "model.py:net", *words, *BITS, *out]) == 0
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    return tmp_path / "beside"


APPLIED = ("--method", "weight_range", "--option", "samples=16")


def test_what_is_said_goes_over_what_a_run_remembers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ("--seed", "9", "--batch-size", "7", "--profile", "ort-cpu", "--metric", "agreement")
    found = result(capsys, ["tune", "../out", *APPLIED, *BITS, *said])
    assert (found["seed"], found["metric"]) == (9, "agreement")
    assert json.loads(Path(found["recipe"]).read_text())["profile"] == "ort-cpu"
    stored = json.loads((here.parent / "out" / "options.json").read_text())
    assert (stored["seed"], stored["batch_size"], stored["profile"]) == (9, 7, "ort-cpu")
    again = result(capsys, ["tune", "../out", *APPLIED, *BITS, "--seed", "0", "--profile", "cuda"])
    assert again["seed"] == 0
    assert json.loads(Path(again["recipe"]).read_text())["profile"] == "cuda"


def test_what_is_not_said_is_as_in_the_run(
    project: Project, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ("--seed", "5", "--profile", "ort-cpu", *BITS, "--quiet")
    assert main([*project.words("tune", here / "made"), *APPLIED, *made]) == 0
    found = result(capsys, ["tune", "made", *APPLIED, *BITS])
    assert found["seed"] == 5
    assert json.loads(Path(found["recipe"]).read_text())["profile"] == "ort-cpu"


def test_a_run_goes_on_from_its_own_recipe_only_under_its_own_profile(
    project: Project, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here.parent / "out"
    start = result(capsys, ["tune", "../out", *APPLIED, *BITS])["recipe"]
    (run / "recipe.json").write_text(Path(start).read_text())
    words = ["tune", "../out", "--method", "ifmr"]
    own = result(capsys, [*words, "--profile", "cuda"])["recipe"]
    other = result(capsys, [*words, "--profile", "ort-cpu", "--calibrator", "max"])["recipe"]
    found = [json.loads(Path(path).read_text()) for path in (own, other)]
    assert [(r["profile"], r["weight_bits"]) for r in found] == [("cuda", 4), ("ort-cpu", 8)]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            ("--batch-size", "7"),
            "{run}: what is in sensitivity.jsonl was measured with batch size 32, now 7. Repeat "
            "that, or name another run folder.",
        ),
        (
            ("--no-fold-batch-norm",),
            "{run}: what is in histograms.npz was measured with batch norm folding True, now "
            "False. Repeat that, or name another run folder.",
        ),
        (
            ("--evaluation", "other.npz"),
            "{run}: it belongs to another evaluation data ({evaluation}, now {other}). Name another"
            " run folder, or give what it was made with; the order of the data counts.",
        ),
        (
            ("--calibration", "other.npz"),
            "{run}: it belongs to another calibration data ({calibration}, now {other}). Name "
            "another run folder, or give what it was made with; the order of the data counts.",
        ),
    ],
    ids=["batch size", "folding", "evaluation", "calibration"],
)
def test_what_contradicts_a_run_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], said: tuple[str, ...], message: str
) -> None:
    from qviz.loading import load_data

    run = here.parent / "out"
    (run / "sensitivity.jsonl").touch()
    other = load_data(write_data(here / "other.npz", images(20, 3), None), "calibration").digest
    known = json.loads((run / "manifest.json").read_text())
    digests = {role: known[role]["digest"][:8] for role in ("calibration", "evaluation")}
    before = (run / "options.json").read_text()
    assert main(["tune", "../out", *APPLIED, *BITS, *said, "--quiet"]) == 2
    expected = message.format(run=run, other=other[:8], **digests)
    assert capsys.readouterr().err == f"qviz: {expected}\n"
    assert (run / "options.json").read_text() == before


def test_data_that_are_not_the_runs_make_a_run_of_their_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(here / "other.npz", images(20, 3), None)
    words = ["tune", "../out", *APPLIED, *BITS, "--evaluation", "other.npz", "-o", "new"]
    found = result(capsys, words)
    assert (found["samples"]["evaluation"], found["run"]) == (20, str(here / "new"))


CODE = """
import torch
def samples():
    return torch.ones(20, 1, 8, 8)
def metric(outputs, targets):
    return outputs.argmax(1) * 0 + 1.0
"""


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--evaluation", "near.npz", "near.npz"),
        ("--calibration", "near.npz", "near.npz"),
        ("--evaluation", "near.py:samples", "near.py:samples"),
        ("--calibration", "near.py:samples", "near.py:samples"),
        ("--evaluation", "near:samples", "near.py:samples"),
        ("--metric", "near.py:metric", "near.py:metric"),
        ("--metric", "near:metric", "near.py:metric"),
        ("--preprocessing", "near.toml", "near.toml"),
    ],
)
def test_a_path_is_of_the_folder_that_the_command_is_given_in(
    project: Project,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    told: str,
) -> None:
    for folder in (here, project.path):  # of the same names where the run was made
        write_data(folder / "near.npz", images(20, 3), None)
        (folder / "near.py").write_text(CODE if folder == here else "raise ValueError('then')")
        (folder / "near.toml").write_text("mean = [0.0]\nstd = [1.0]\n")
    result(capsys, ["tune", "../out", *APPLIED, *BITS, option, value, "-o", "new"])
    stored = json.loads((here / "new" / "options.json").read_text())
    assert stored[option.removeprefix("--")] == str(here / told)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            ("--evaluation", "evaluation.npz"),
            "{here}/evaluation.npz: there is no such file. Check the path.",
        ),
        (
            ("--metric", "model.py:metric"),
            "{here}/model.py:metric: there is no file {here}/model.py. Check the path.",
        ),
    ],
    ids=["data", "code"],
)
def test_a_file_of_the_folder_that_a_run_was_made_in_does_not_stand_in(
    here: Path, capsys: pytest.CaptureFixture[str], said: tuple[str, ...], message: str
) -> None:
    assert main(["tune", "../out", *APPLIED, *BITS, *said, "--quiet"]) == 2
    assert capsys.readouterr().err == f"qviz: {message.format(here=here)}\n"
