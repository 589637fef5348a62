"""Bad input: one line that names the thing, the reason and the cure, exit code 2, no traceback."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_kit import Project, images, make_project, write_data

from qviz.cli import main

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def done(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with something finished in it."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(project.words("evaluate", out, "--quiet", "--calibrator", "max")) == 0
    return out


def said(words: list[str], capsys: Output) -> str:
    """The one line on standard error of a command that must be refused."""
    capsys.readouterr()
    code = main(words)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.err.startswith("qviz: ")
    return captured.err.removeprefix("qviz: ").rstrip("\n")


def evaluation(project: Project, path: Path, *more: str) -> list[str]:
    """``qviz evaluate`` on other evaluation data."""
    words = ["evaluate", project.model, "--calibration", project.calibration]
    return [*words, "--evaluation", str(path), "-o", str(path.parent / "out"), *more]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["runn", "sample:resnet"],
            "qviz runn: there is no such command. Did you mean qviz run.",
        ),
        (
            ["run", "sample:resnet"],
            "qviz run: the following arguments are required: -o/--output. See qviz run --help.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--max-drop", "2"],
            "qviz run: argument --max-drop: '2' is not a drop such as 0.01 or 1%. See qviz run "
            "--help.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--memory-budget", "lots"],
            "qviz run: argument --memory-budget: 'lots' is not a size such as 2GiB or 500MB. See "
            "qviz run --help.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--bogus"],
            "qviz: unrecognized arguments: --bogus. See qviz --help.",
        ),
        (
            ["info", "sample:nothing"],
            "sample:nothing: there is no such sample model. Choose one of efficientnet, resnet, "
            "vit.",
        ),
        (
            ["info", "missing.pt2"],
            "missing.pt2: there is no such file. Check the path.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--calibrator", "maxx"],
            "calibrator 'maxx': does not exist. Use one of max, entropy, percentile, "
            "mse, sqnr, ifmr, hfmg, fixed.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--profile", "tpu"],
            "profile 'tpu': there is no such profile. Choose one of cuda, tensorrt, ort-cpu.",
        ),
        (
            ["run", "sample:resnet", "-o", "out", "--weight-bits", "9"],
            "--weight-bits 9: profile cuda has no such width. Choose one of 2, 3, 4, 5, 6, 7, 8.",
        ),
        (
            ["export", "nowhere", "-o", "out"],
            "nowhere: there is no run in it. Name the folder that a run was given.",
        ),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_refused_before_anything_is_made(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(words, capsys) == line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_metric_lists_those_there_are(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    line = said(project.words("evaluate", tmp_path / "out", "--metric", "top3"), capsys)
    assert line == (
        "top3: is not a metric. Choose one of top1, top5, agreement, kl, cosine, mse, sqnr, or "
        "give a function."
    )


def test_an_unknown_op_to_skip_names_the_nearest(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    line = said(project.words("evaluate", tmp_path / "out", "--skip", "block.frist"), capsys)
    assert line.startswith("block.frist: Net has no such op or operand. Did you mean block.first")


def test_missing_data_names_the_option(project: Project, tmp_path: Path, capsys: Output) -> None:
    words = ["evaluate", project.model, "-o", str(tmp_path / "out")]
    assert said(words, capsys) == "calibration data: are missing. Give some with --calibration."
    words += ["--calibration", project.calibration]
    assert said(words, capsys) == "evaluation data: are missing. Give some with --evaluation."


def test_the_shape_of_a_factory_model_must_be_said(project: Project, capsys: Output) -> None:
    assert said(["info", project.model], capsys) == (
        f"{project.model}: the shape of its input is not known. Give --shape 3,224,224 for one "
        "sample, or --calibration."
    )


class Evil:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was_run",)


def bad_weights(kind: str, path: Path) -> Path:
    """A checkpoint that must not be used."""
    file = path / "weights.pt"
    if kind == "code":
        file.write_bytes(pickle.dumps({"stem.weight": Evil()}))
    elif kind == "code in a zip":
        torch.save({"stem.weight": Evil()}, file)
    elif kind == "truncated":
        torch.save({"stem.weight": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:1500])
    elif kind == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(500))
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "wrong shapes":
        torch.save({"stem.weight": torch.zeros(3, 3)}, file)
    else:
        file = path / "weights.safetensors"
        file.write_bytes(b"\xff" * 100)
    return file


@pytest.mark.parametrize(
    "kind",
    ["code", "code in a zip", "truncated", "noise", "empty", "wrong shapes", "bad safetensors"],
)
def test_weights_that_cannot_be_used_are_named_and_nothing_of_them_runs(
    kind: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    file = bad_weights(kind, tmp_path)
    line = said(["info", project.model, "--weights", str(file), "--shape", "1,8,8"], capsys)
    assert str(file) in line
    assert not (tmp_path / "was_run").exists()
    assert line.endswith(".")
    assert line.count(". ") >= 1


@pytest.mark.parametrize("kind", ["truncated", "noise", "empty", "pickle", "another zip"])
def test_a_program_that_cannot_be_read_is_named(kind: str, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "model.pt2"
    if kind == "another zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("hello", "x")
    else:
        contents = {
            "truncated": b"PK\x03\x04" + bytes(100),
            "noise": np.random.default_rng(0).bytes(500),
            "empty": b"",
            "pickle": pickle.dumps(Evil()),
        }
        file.write_bytes(contents[kind])
    assert said(["info", str(file)], capsys).startswith(f"{file}: ")
    assert not Path("was_run").exists()


@pytest.mark.parametrize("kind", ["empty file", "no samples", "truncated", "objects", "missing"])
def test_data_that_cannot_be_read_is_named(
    kind: str, project: Project, tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "evaluation.npz"
    if kind == "empty file":
        file.write_bytes(b"")
    elif kind == "no samples":
        write_data(file, images(0, 0), np.zeros(0, np.int64))
    elif kind == "truncated":
        file.write_bytes(Path(project.evaluation).read_bytes()[:3000])
    elif kind == "objects":
        np.savez(file, x=np.array([Evil()], dtype=object))
    assert str(file) in said(evaluation(project, file), capsys)


def test_samples_of_another_shape_are_refused_before_calibration(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    write_data(tmp_path / "e.npz", np.zeros((4, 1, 9, 9), np.float32), np.zeros(4, np.int64))
    assert said(evaluation(project, tmp_path / "e.npz"), capsys) == (
        "input x: samples are float32 (1, 9, 9), the model takes float32 (1, 8, 8). Give data as "
        "the model was trained on, preprocessing included."
    )
    assert not (tmp_path / "out" / "histograms.npz").exists()


def test_samples_of_another_dtype_are_refused(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    write_data(tmp_path / "e.npz", np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64))
    assert said(evaluation(project, tmp_path / "e.npz"), capsys) == (
        "input x: samples are uint8 (1, 8, 8), the model takes float32 (1, 8, 8). Give data as "
        "the model was trained on, preprocessing included."
    )


def test_calibration_data_of_another_shape_are_refused(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    write_data(tmp_path / "c.npz", np.zeros((4, 3, 8, 8), np.float32), None)
    words = ["calibrate", project.model, "--calibration", str(tmp_path / "c.npz")]
    assert "channels" in said([*words, "-o", str(tmp_path / "out")], capsys)


def test_labels_out_of_range_are_named_with_the_sample(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    labels = np.zeros(40, np.int64)
    labels[7] = 4
    write_data(tmp_path / "e.npz", images(40, 1), labels)
    line = said(evaluation(project, tmp_path / "e.npz", "--calibrator", "max"), capsys)
    assert "label 4" in line
    assert "4 classes" in line


def test_a_metric_that_needs_labels_says_so(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    write_data(tmp_path / "e.npz", images(40, 1), None)
    line = said(evaluation(project, tmp_path / "e.npz", "--metric", "top1"), capsys)
    assert line == (
        f"top1: needs labels, {tmp_path / 'e.npz'} has none. Give targets, or measure agreement "
        "instead."
    )


def test_nan_in_the_data_is_named_with_the_sample(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    inputs = images(40, 1)
    inputs[5, 0, 0, 0] = np.nan
    write_data(tmp_path / "e.npz", inputs, np.zeros(40, np.int64))
    line = said(evaluation(project, tmp_path / "e.npz"), capsys)
    assert str(tmp_path / "e.npz") in line
    assert "sample 5" in line


def test_activations_that_overflow_are_named_with_the_tensor(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    words = project.words("calibrate", tmp_path / "out")
    words[1] = project.model.replace(":net", ":overflowing")
    assert said(words, capsys).startswith("tensor ")


def test_one_sample_is_enough_but_warned_of(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    file = write_data(tmp_path / "one.npz", images(1, 1), None)
    words = ["run", project.model, "--calibration", file, "--evaluation", file]
    assert main([*words, "-o", str(tmp_path / "out"), "--quiet"]) in (0, 1)
    err = capsys.readouterr().err.splitlines()
    assert all(line.startswith("qviz: warning: ") for line in err)
    assert len(err) == 3


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is writable")
def test_a_folder_that_may_not_be_written_is_named(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    line = said(project.words("evaluate", tmp_path / "locked" / "out"), capsys)
    assert "permission denied" in line


def test_a_folder_inside_a_file_is_refused(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "file").write_text("")
    line = said(project.words("evaluate", tmp_path / "file" / "out"), capsys)
    assert line == (
        f"{tmp_path / 'file' / 'out'}: it cannot be read or written (not a directory). Free some "
        "space or name another run folder; what was finished is kept."
    )


def test_a_folder_with_other_files_is_left_alone(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    line = said(project.words("evaluate", tmp_path), capsys)
    assert "there is no run in it, but other files (thesis.txt)" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_line_and_loses_nothing_finished(
    project: Project, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = ("histograms.npz", "evaluations.jsonl")
    before = {name: (done / name).read_bytes() for name in files}
    monkeypatch.setattr(os, "fsync", full)
    line = said(project.words("evaluate", done, "--calibrator", "entropy"), capsys)
    assert "it cannot be read or written (no space left on device). Free some space" in line
    assert {name: (done / name).read_bytes() for name in files} == before
    monkeypatch.undo()
    assert main(project.words("evaluate", done, "--quiet", "--calibrator", "entropy")) == 0


def test_a_format_that_does_not_exist_is_refused(done: Path, capsys: Output) -> None:
    words = ["export", str(done), "-o", str(done.parent / "int8"), "--formats", "checkpoint,gguf"]
    assert said(words, capsys).startswith("--formats gguf: there is no such format. Choose of ")


def test_a_run_without_a_recipe_cannot_be_exported(done: Path, capsys: Output) -> None:
    assert said(["export", str(done), "-o", str(done.parent / "int8")], capsys) == (
        f"{done / 'recipe.json'}: there is no such file. Finish the run with qviz run or qviz "
        "search, or name a recipe with --recipe."
    )


def test_a_run_folder_is_no_checkpoint(done: Path, capsys: Output) -> None:
    assert said(["verify", str(done)], capsys) == (
        f"{done}: it is no checkpoint, or writing it was interrupted: checkpoint.json is missing. "
        "Name a folder that qviz export wrote, or export again."
    )


def test_a_recipe_that_is_none_is_named(project: Project, done: Path, capsys: Output) -> None:
    (done.parent / "recipe.json").write_text("{")
    recipe = str(done.parent / "recipe.json")
    line = said(project.words("evaluate", done, "--recipe", recipe), capsys)
    assert line.startswith(f"{recipe}: not JSON")


def test_what_the_users_code_raises_is_one_line(
    project: Project, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "broken.py").write_text("def net():\n    return 1 / 0\n")
    line = said(["info", f"{tmp_path}/broken.py:net", "--shape", "1,8,8"], capsys)
    assert line == (
        f"{tmp_path}/broken.py:net: calling it raised ZeroDivisionError: division by zero "
        "(broken.py, line 2). Correct the code, or what it needs."
    )
