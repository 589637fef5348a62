"""``qviz bench`` as text, with a clock that always says one microsecond."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_kit import Even
from cli_kit import Project, make_project, result
from int8_models import make

from qviz import cli_bench
from qviz.cli import main
from qviz.int8 import timing, timing_run
from qviz.int8.checkpoint import save_checkpoint
from qviz.int8.timing import Effort
from qviz.int8.timing_file import read_benches


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timing.stopwatch
    effort = Effort(warm_up=0, fewest=2, most=2, seconds=0.0)
    monkeypatch.setattr(timing, "stopwatch", lambda d: Even() if d == "cpu" else real(d))
    monkeypatch.setattr(timing, "device_name", lambda device: "a CPU")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(timing_run, "busy", lambda: ())
    how = cli_bench._how
    monkeypatch.setattr(cli_bench, "_how", lambda o: replace(how(o), effort=effort))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    save_checkpoint(make("residual CNN").lowered, path)
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[str]:
    assert main([*map(str, words), "--quiet"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def plain(line: str) -> str:
    """A line with single blanks."""
    return " ".join(line.split())


def row(lines: list[str], first: str) -> str:
    """The first row that begins so."""
    return next(plain(line) for line in lines if line.split()[:1] == [first])


def test_a_checkpoint_is_timed_whole_and_per_op(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "bench", folder)
    assert lines[0] == "measured on a CPU, 1 thread: int8 against float fp32"
    assert plain(lines[1]) == "batch whole model us quartiles speed-up runs"
    assert plain(lines[2]) == "1 float fp32 1.00 1.00 to 1.00 1.00 x 2"
    assert plain(lines[3]) == "1 int8 1.00 1.00 to 1.00 1.00 x 2"
    assert lines[4] == "ops at batch 1, 15 of 15 rows: slower in int8 first, then by time"
    assert row(lines, "point") == "point conv2d int8 conv + 2 fused 3.00 1.00 - 0.333"
    assert row(lines, "stem") == "stem conv2d int8 conv + 1 fused 2.00 1.00 1.00 1.00"
    assert row(lines, "x") == "x quantize quantize - 1.00 - -"
    assert lines[-1] == ("note: one thread: CPU time, without what other programs took in between")
    assert lines[-2] == (
        "  all calls one by one: int8 15.0 us, float 18.0 us; of int8 1.00 us are quantize and "
        "dequantize, 7.00 us moving codes and layouts"
    )


def test_an_estimate_for_a_gpu_is_added_and_says_so_in_every_heading(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "bench", folder, "--gpu", "l4", "--batch", "1,2", "--top", "3")
    start = lines.index("roofline estimate for L4, not measured: int8 against float fp16")
    assert sum("us measured" in line for line in lines[:start]) == 2
    assert sum("us estimated" in line for line in lines[start:]) == 2
    assert all("measured" not in line for line in lines[start + 1 : -1] if "note" not in line)
    assert lines[-1].endswith("no launch cost, no cache; not measured")


def test_what_was_found_is_kept_in_the_folder_and_printed_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, ["bench", str(folder), "--gpu", "T4"])
    assert [b["label"] for b in found["benches"]] == [
        "measured on a CPU, 1 thread", "roofline estimate for T4",
    ]  # fmt: skip
    kept = {b.label: b for b in read_benches(folder)}
    for one in found["benches"]:
        assert json.loads(json.dumps(kept[one["label"]].to_json())) == one


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--gpu", "A100"],
            "qviz: --gpu A100: there is no datasheet row of that name. Did you mean A100-40GB or "
            "A100-80GB.",
        ),
        (
            ["--batch", "0"],
            "qviz: qviz bench: argument --batch: '0' is not a whole number of at least 1. See qviz "
            "bench --help.",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["bench", str(folder), *words]) == 2
    assert capsys.readouterr().err.strip() == line


def test_without_a_gpu_cuda_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", str(folder), "--device", "cuda", "--quiet"]) == 2
    assert capsys.readouterr().err == (
        "qviz: device cuda: PyTorch sees no CUDA GPU on this machine. Time on the CPU, or name a "
        "GPU with --gpu to get a roofline estimate for it.\n"
    )


def test_a_folder_that_is_neither_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path}: it is no checkpoint, or writing it was interrupted: checkpoint.json is "
        "missing. Name a folder that qviz export wrote, or export again.\n"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A finished search at 4 bits, with ops that had to be left in float."""
    project = make_project(tmp_path_factory.mktemp("project"))
    out = project.path / "run"
    words = ["--calibrator", "max", "--weight-bits", "3", "--max-drop", "0.02", "--quiet"]
    assert main(project.words("search", out, *words)) in (0, 1)
    return project, out


def test_a_run_says_what_leaving_each_op_in_float_costs_and_gains(
    run: tuple[Project, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "bench", run[1])
    start = lines.index(
        "what leaving one op in float does at batch 1 (measured on a CPU, 1 thread): accuracy won "
        "back, time added"
    )
    assert plain(lines[start + 1]) == "op left in float type accuracy us measured"
    rows = lines[start + 2 : start + 7]
    assert {line.split()[0] for line in rows} == {
        "stem", "block.first", "block.second", "block:add", "head",
    }  # fmt: skip
    assert any(" measured " in line or " estimated " in line for line in rows)
    front = lines[start + 7]
    assert front == (
        "accuracy and latency of the recipes measured so far (latency added up from times "
        "measured); * is on the Pareto front"
    )
    assert any(line.split()[:1] == ["*"] for line in lines[start + 9 :])


def test_the_plan_of_a_run_is_in_its_json_for_every_source(
    run: tuple[Project, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, ["bench", str(run[1]), "--gpu", "L4"])["benches"]
    assert [b["estimated"] for b in found] == [False, True]
    for one in found:
        assert len(one["plan"]["trades"]) == 5
        assert any(point["front"] for point in one["plan"]["points"])
        assert sum(point["current"] for point in one["plan"]["points"]) == 1
