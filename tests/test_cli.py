"""The command line: what the verbs print, write and return."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import Project, make_project, result
from fewer_samples import fewer_samples

from qviz import cli, cli_options, cli_print
from qviz.cli import main
from qviz.cli_progress import Meter, line
from qviz.digits import duration
from qviz.errors import Cancelled
from qviz.progress import Progress


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def done(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(project.words("run", out, "--quiet", "--max-drop", "5%")) == 0
    return out


def test_samples_are_a_list_of_objects_with_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples", "--json"]) == 0
    assert "resnet" in [one["name"] for one in json.loads(capsys.readouterr().out)]


def test_info_names_every_op_and_why_it_is_float(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, ["info", project.model, "--shape", "1,8,8"])
    status = {row["op"]: (row["status"], row["reason"]) for row in found["coverage"]}
    assert (found["ops"], found["quantizable"], found["macs"]) == (9, 5, 25664)
    assert status["block:add"] == ("int8", "")
    assert status["amax"] == ("float", "amax has no int8 arithmetic")
    assert found["folded"] == {"block.norm": "block.first"}


def test_info_reads_the_shape_from_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from torch import nn

    program = torch.export.export(
        nn.Sequential(nn.Linear(6, 3)),
        (torch.zeros(2, 6),),
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )
    torch.export.save(program, tmp_path / "model.pt2")
    assert result(capsys, ["info", str(tmp_path / "model.pt2")])["macs"] == 18


def test_run_gives_every_table_as_json_and_writes_the_recipe(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, project.words("run", done, "--max-drop", "5%"))
    assert found["float"] == 0.9
    assert [r["calibrator"] for r in found["calibrators"]][-1] == "max"
    assert [r["per_channel"] for r in found["calibrators"]].count(False) == 1
    assert [r["calibrator"] for r in found["calibrators"] if r["best"]] == [found["calibrator"]]
    assert len(found["sensitivity"]["rows"]) == 5
    assert found["search"]["reached"]
    assert found["search"]["curve"][0]["skipped"] == []
    assert found["evaluation"]["drop"] <= 0.05
    assert found["warnings"] == [
        "tensor x: evaluation reaches -26.9 to 50.52, calibration saw only -27.81 to 28.98. "
        "Calibrate with data like the evaluation's"
    ]
    recipe = json.loads((done / "recipe.json").read_text())
    assert [o["target"] for o in recipe["overrides"]] == found["search"]["skipped"]


def test_repeating_a_run_measures_nothing_again(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = ("sensitivity.jsonl", "evaluations.jsonl", "histograms.npz")
    before = {name: (done / name).read_bytes() for name in tables}
    result(capsys, project.words("run", done, "--max-drop", "5%"))
    assert {name: (done / name).read_bytes() for name in tables} == before


def test_the_report_tells_estimated_from_measured_and_says_what_is_next(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(project.words("run", done, "--max-drop", "5%")) == 0
    out = capsys.readouterr().out
    for expected in (
        "float        top1 90.0 %",
        "Accuracy by calibrator, measured with everything int8",
        "kl measured",
        "estimated rank",
        "estimated drop",
        "measured drop",
        "within the target of 5.00 %",
        f"next: qviz export {done} -o {done}-int8; then qviz verify {done}-int8",
    ):
        assert expected in out


def test_a_target_that_only_float_reaches_is_said_and_ends_with_1(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = project.words("search", done, "--weight-bits", "2", "--activation-bits", "2")
    assert main([*words, "--max-drop", "0", "--calibrator", "max"]) == 1
    assert "NOT within the target of 0 %. This is the best found." in capsys.readouterr().out


def test_skipped_ops_stay_float_in_every_verb(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--skip", "head", "--skip", "stem/weight", "--calibrator", "max")
    evaluated = result(capsys, project.words("evaluate", done, *common))
    ranked = result(capsys, project.words("sensitivity", done, *common))
    assert evaluated["skipped"] == ["head", "stem/weight"]
    assert "head" not in [row["name"] for row in ranked["rows"]]


def test_a_recipe_file_is_measured_as_it_was_found(
    project: Project, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = result(capsys, project.words("run", done, "--max-drop", "5%"))
    words = project.words("evaluate", done, "--recipe", str(done / "recipe.json"))
    assert result(capsys, words)["value"] == whole["evaluation"]["value"]


def test_calibrate_needs_no_evaluation_data_and_gives_all_candidates(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", project.model, "--calibration", project.calibration]
    found = result(capsys, [*words, "-o", str(tmp_path / "out")])
    assert found["samples"] == 40
    assert len(found["tensors"]["x"]["candidates"]) == 8
    assert found["tensors"]["x"]["values"] == 40 * 64


@pytest.mark.parametrize("name", ["metric", "whole"])
def test_a_metric_of_the_user_counts_per_sample_or_for_all(
    name: str, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = project.model.replace(":net", f":{name}")
    words = project.words("evaluate", tmp_path / "out", "--calibrator", "max", "--metric", spec)
    found = result(capsys, words)
    assert (found["metric"], found["float"]) == (name, pytest.approx(0.9))


@pytest.fixture(scope="module")
def exported(done: Path) -> Path:
    """The checkpoint of the run, written from another folder than it was made in."""
    out = done.parent / "int8"
    with contextlib.chdir(done):
        assert main(["export", str(done), "-o", str(out), "--quiet"]) == 0
    return out


def test_export_writes_a_checkpoint_that_is_verified_on_the_data_of_the_run(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, ["verify", str(exported)])
    assert found["passed"]
    (cpu,) = (one for one in found["backends"] if one["name"] == "cpu")
    assert (found["samples"], cpu["calls"]["more"]) == (120, 0)
    assert found["recorded"]["simulated"] == cpu["simulated"]


def test_a_sample_is_exported_in_one_command_with_its_run_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QVIZ_SAMPLES", str(fewer_samples(tmp_path, 100)))
    words = ["export", "sample:resnet", "-o", str(tmp_path / "int8"), "--formats", "ranges"]
    assert main([*words, "--quiet", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"ranges"}
    assert (tmp_path / "int8-run" / "recipe.json").exists()


def test_verify_takes_other_data(
    exported: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", str(exported), "--evaluation", project.calibration]
    assert result(capsys, words)["samples"] == 40


def test_a_failed_verification_ends_with_1_and_still_prints_what_was_found(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qviz.errors import ParityError
    from qviz.int8.certificate import Certificate

    def fail(self: Certificate) -> None:
        raise ParityError("stem", "is 3 steps off", "Report it")

    monkeypatch.setattr(Certificate, "check", fail)
    assert main(["verify", str(exported), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("certificate  passed: ")
    assert captured.err == "qviz: stem: is 3 steps off. Report it.\n"


def test_export_refuses_a_model_that_has_changed(
    project: Project, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = project.path / "model.py"
    before = code.read_text()
    try:
        # of another length, or Python may take what it compiled before within the same second
        code.write_text(before.replace("net(seed=0)", "net(seed=1234)"))
        assert main(["export", str(done), "-o", str(tmp_path / "int8"), "--quiet"]) == 2
    finally:
        code.write_text(before)
    assert f"{done}: it belongs to another model (" in capsys.readouterr().err
    assert not (tmp_path / "int8").exists()


def test_warnings_go_to_standard_error_after_the_result(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", project.model, "--calibration", project.evaluation]
    words += ["--evaluation", project.evaluation, "-o", str(tmp_path / "out"), "--json", "--quiet"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["warnings"]
    assert captured.err == (
        "qviz: warning: 120 of 120 evaluation samples are calibration samples too: the measured "
        "drop is too good for them. Use other data to evaluate\n"
    )


def test_a_cancelled_verb_ends_with_130_and_says_what_is_kept(
    project: Project,
    done: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(self: Meter, progress: Progress) -> None:
        raise Cancelled

    monkeypatch.setattr(Meter, "tell", stop)
    words = project.words("evaluate", done, "--calibrator", "percentile:99")
    assert main(words) == 130
    rows = (done / "sensitivity.jsonl").read_bytes().count(b"\n")
    evaluations = (done / "evaluations.jsonl").read_bytes().count(b"\n")
    assert capsys.readouterr().err == (
        f"qviz: stopped by Ctrl-C: the histograms, {evaluations} evaluations, {rows} sensitivity "
        f"rows kept in {done}. Run the same command again to go on.\n"
    )


def test_an_error_in_qviz_itself_is_one_line_and_a_traceback_in_a_file(
    project: Project,
    done: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: object, command: object) -> int:
        raise KeyError("a\nb")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(project.words("run", done)) == 70
    assert capsys.readouterr().err == (
        f"qviz: unexpected error: KeyError: 'a\\nb'. The traceback is in {done / 'error.txt'}; "
        "what was finished is kept.\n"
    )
    assert "Traceback (most recent call last)" in (done / "error.txt").read_text()


def test_who_closes_the_pipe_sees_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from qviz.cli import main; sys.exit(main(['samples']))"
    run = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


def test_help_and_mistakes_answer_without_torch() -> None:
    code = (
        "import sys; from qviz.cli import main; main(['--help']); main(['run']); main(['samples'])"
        "; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (-0.00999999, "-0.0100"),
        (9.999, "10.0"),
        (12345.6, "12300"),
        (1e-7, "1.00e-07"),
        (float("inf"), "inf"),
        (float("nan"), "-"),
        (None, "-"),
    ],
)
def test_a_number_has_three_significant_digits(value: float | None, text: str) -> None:
    assert cli_print.number(value) == text


def test_a_change_has_its_sign() -> None:
    assert cli_print.percent(0.00123, signed=True) == "+0.123 %"
    assert cli_print.percent(-0.5, signed=True) == "-50.0 %"
    assert cli_print.percent(-6e-16, signed=True) == "0 %"


def test_counts_have_prefixes() -> None:
    assert [cli_print.count(n) for n in (0, 940, 1234, 999_999, 4_090_000_000)] == [
        "0",
        "940",
        "1.23 k",
        "1.00 M",
        "4.09 G",
    ]


def test_sizes_are_read_in_both_kinds_of_units() -> None:
    assert cli_options.size("2GiB") == 2 << 30
    assert cli_options.size("1.5 MB") == 1_500_000
    assert cli_options.size("4096") == 4096


def test_progress_tells_the_time_left_from_the_pace_of_this_run() -> None:
    first = Progress("sensitivity", 60, 100, 1.0)
    assert line(Progress("sensitivity", 80, 100, 11.0), first) == (
        "sensitivity 80 %, 11 s, about 10 s left"
    )
    assert [duration(s) for s in (0.04, 9.99, 125, 4800)] == [
        "0.0 s",
        "10 s",
        "2 min 05 s",
        "1 h 20 min",
    ]


def test_without_a_terminal_a_line_comes_every_few_seconds() -> None:
    out, now = io.StringIO(), [0.0]
    with Meter(stream=out, clock=lambda: now[0]) as meter:
        meter.warn(["few samples"])
        for second in range(12):
            now[0] = float(second)
            meter.tell(Progress("evaluate", second, 20, float(second)))
    assert out.getvalue() == (
        "qviz: warning: few samples\n"
        "qviz: evaluate 25 %, 5.0 s, about 15 s left\n"
        "qviz: evaluate 50 %, 10 s, about 10 s left\n"
    )


def test_quiet_shows_no_progress_but_warnings() -> None:
    out = io.StringIO()
    with Meter(quiet=True, stream=out, clock=lambda: 99.0) as meter:
        meter.tell(Progress("evaluate", 1, 2, 1.0))
        meter.warn(["few samples", "few samples"])
        meter.flush()
    assert out.getvalue() == "qviz: warning: few samples\n"
