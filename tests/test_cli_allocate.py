"""``qviz allocate`` on the command line: the frontier, the recipe, what is kept and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import Project, make_project, result

from qviz.cli import main
from qviz.digits import percent
from qviz.errors import TuneError
from qviz.evaluate import Evaluation
from qviz.recipe import Recipe
from qviz.search import frontier
from qviz.search.allocation_json import frontier_from
from qviz.search.checking import Check
from qviz.tune import adaquant, statistics
from qviz.tune.step import Step, Subject
from qviz.weights import with_bias

SMALL = ("--calibrator", "max", "--points", "3", "--quiet")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("allocate") / "out"
    words = ("--size", "0.15", "--bits", "4,2", "--activations", "same", "--pipeline", "light")
    assert main(project.words("allocate", out, *words, *SMALL)) == 0
    return out


def found(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "allocate-result.json").read_text())
    return value


def test_the_recipe_gives_the_bits_and_first_and_last_keep_8(run: Path) -> None:
    widths = found(run)["allocation"]["widths"]
    assert widths.keys() == {"stem", "block.first", "block.second", "head"}
    assert widths["stem"] == widths["head"] == "W8A8"
    assert widths["block.first"] != "W8A8"
    recipe = Recipe.from_json((run / "recipe.json").read_text())
    bits = {o.target: o.bits for o in recipe.overrides}
    assert f"W{bits['block.first']}A{bits['block.first']}" == widths["block.first"]
    assert found(run)["allocation"]["costs"]["size"] <= 0.15
    assert (run / "recipe-allocated.json").read_text() == (run / "recipe.json").read_text()


def test_the_frontier_is_kept_and_measured(run: Path) -> None:
    frontier = frontier_from(json.loads((run / "frontier.json").read_text()))
    assert all(point.measured for point in frontier.points)
    assert (frontier.loss_samples, frontier.samples) == (40, 120)
    assert len(frontier.points) == 3
    assert frontier.spearman is not None


def test_every_stage_has_its_numbers(run: Path) -> None:
    stages = found(run)["stages"]
    assert [stage["name"] for stage in stages] == ["allocation", "statistics"]
    assert all(stage["divergence"] >= 0 for stage in stages)
    assert stages[0]["value"] is not None
    row = json.loads((run / "allocations.jsonl").read_text())
    assert row["samples"] == {"losses": 40, "calibration": 40, "held_out": 10, "evaluation": 120}
    assert row["seed"] == 0


def test_the_table_says_what_was_predicted_and_measured(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ("--size", "0.15", "--bits", "4,2", "--activations", "same")
    assert main(project.words("allocate", run, *words, *SMALL)) == 0
    said = capsys.readouterr().out
    heads = ["size", "bit", "ops", "predicted", "measured", "drop", "95", "%", "interval", "greedy"]
    assert [*heads, "widths"] in [line.split() for line in said.splitlines()]
    assert "Spearman of predicted loss with measured divergence" in said
    assert "losses       kl of 4 layers at W4A4, W2A2, 40 calibration samples" in said
    assert f"next: qviz export {run} -o {run}-int8" in said


def test_losses_are_written_for_calibtip_and_measured_once(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "per_layer_accuracy.A4.W4.csv").read_text()
    assert text.startswith("base precision,replaced precision,replaced layer,accuracy,loss,")
    rows = len((run / "layer_losses.jsonl").read_text().splitlines())
    words = ("--max-loss", "0.5", "--bits", "4,2", *SMALL[:-1])
    again = result(capsys, project.words("allocate", run, *words))
    assert len((run / "layer_losses.jsonl").read_text().splitlines()) == rows
    assert again["allocation"]["increase"] <= 0.5
    assert again["allocation"]["method"] == "integer programme"


def test_losses_of_a_file_are_not_measured(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "base precision,replaced precision,replaced layer,accuracy,loss,Parameters Size "
        "[Elements],MACs\n8,4,-,90,0.1,-,-\n8,4,block.first,80,0.9,576,-\n8,4,block.second,80,0.2,64,-\n"
    )
    (tmp_path / "per_layer_accuracy.A8.W4.csv").write_text(text)
    words = ("--losses", str(tmp_path / "per_layer_accuracy.A8.W4.csv"), "--size", "0.2")
    made = result(capsys, project.words("allocate", tmp_path / "out", *words, *SMALL[:-1]))
    assert made["allocation"]["widths"]["block.first"] == "W4A8"
    assert not (tmp_path / "out" / "layer_losses.jsonl").exists()


def test_a_limit_in_bytes_counts_what_no_file_has(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = ("--losses", str(run / "per_layer_accuracy.A4.W4.csv"), "--activations", "same")
    words = (*losses, "--size", "700B", *SMALL[:-1])
    made = result(capsys, project.words("allocate", tmp_path / "out", *words))
    biases = 4 * (8 + 8 + 8 + 4)
    assert made["losses"]["rest"] == found(run)["losses"]["rest"] == biases / 4
    weights = {"stem": 72, "block.first": 576 / 2, "block.second": 64, "head": 32}
    assert made["allocation"]["costs"]["bytes"] == sum(weights.values()) + biases


def test_an_option_of_a_method_of_the_pipeline_is_read_as_a_number(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--size", "0.2", "--pipeline", "light", "--option", "statistics.samples=8")
    made = result(capsys, project.words("allocate", tmp_path / "out", *words, *SMALL[:-1]))
    assert [stage["name"] for stage in made["stages"]] == ["allocation", "statistics"]


def test_an_allocation_of_calibtip_is_measured_as_it_is(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = tmp_path / "configs.txt"
    configs.write_text("Compression thr\tLayers in int4\n0.15\t['block.first', 'head']\n")
    words = ("--allocation", str(configs), "--size", "0.15", *SMALL[:-1])
    made = result(capsys, project.words("allocate", tmp_path / "out", *words))
    assert made["allocation"]["widths"] == {
        "stem": "W8A8", "block.first": "W4A4", "block.second": "W8A8", "head": "W4A4",
    }  # fmt: skip
    assert made["allocation"]["method"] == "given"
    assert made["frontier"] is None


def test_without_a_limit_the_cheapest_within_the_drop_is_taken(
    project: Project, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = project.words("allocate", run, "--max-drop", "0.9", "--bits", "4,2", *SMALL[:-1])
    made = result(capsys, words)
    assert made["reached"]
    sizes = [p["allocation"]["costs"]["size"] for p in made["frontier"]["points"]]
    assert made["allocation"]["costs"]["size"] == min(sizes)


def overfitted(one: Subject, **_: object) -> Step:
    """Statistics that make every sample the first class."""
    bias = torch.tensor([1000.0, 0.0, 0.0, 0.0])
    return Step(one.recipe, with_bias(one.graph, "head", bias), ())


def test_the_drop_counts_that_is_measured_after_the_last_stage(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nearer = iter([0.2, 0.1])  # each stage seems better than the one before
    monkeypatch.setattr(Check, "__call__", lambda *_: next(nearer))
    monkeypatch.setattr(statistics, "apply", overfitted)
    words = ("--max-drop", "0.2", "--pipeline", "light", *SMALL)
    assert main(project.words("allocate", tmp_path / "out", *words)) == 1
    made = found(tmp_path / "out")
    assert made["stages"][0]["drop"] <= 0.2 < made["drop"]
    assert not made["reached"]
    said = (
        f"After the last stage the drop is {percent(made['drop'])}, more than the 20.0 % asked for"
    )
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("drop", "code", "said"),
    [
        (
            0.01,
            0,
            "No allocation measured keeps to the drop asked for: everything is at 8 bits, which "
            "does after the last stage",
        ),
        (0.03, 1, "No allocation measured keeps to the drop asked for: everything is at 8 bits"),
    ],
)
def test_where_no_allocation_keeps_to_the_drop_8_bits_may_after_the_last_stage(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    drop: float,
    code: int,
    said: str,
) -> None:
    def none(*_: object) -> None:
        raise TuneError("drop", "no allocation measured keeps to it", "Allow more")

    monkeypatch.setattr(frontier, "cheapest", none)
    monkeypatch.setattr(Evaluation, "drop", drop)
    words = ("--max-drop", "0.02", "--pipeline", "light", *SMALL)
    assert main(project.words("allocate", tmp_path / "out", *words)) == code
    assert found(tmp_path / "out")["reached"] is (code == 0)
    assert set(found(tmp_path / "out")["allocation"]["widths"].values()) == {"W8A8"}
    assert said in capsys.readouterr().out.splitlines()


def test_labelled_calibration_data_can_allocate_by_the_metric(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--calibration", project.evaluation, "--evaluation", project.evaluation)
    words = ["allocate", project.model, *data, "-o", str(tmp_path / "out"), "--by", "metric"]
    made = result(capsys, [*words, "--size", "0.15", *SMALL[:-1]])
    assert made["losses"]["metric"] == "top1"
    assert made["frontier"]["loss"] == "top1 drop"
    assert made["allocation"]["loss"] == made["allocation"]["increase"]


def test_a_run_is_gone_on_with_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs.txt").write_text("Compression thr\tLayers in int4\n0.2\t['head']\n")
    monkeypatch.chdir(tmp_path)
    made = result(capsys, ["allocate", str(run), "--allocation", "configs.txt", "--name", "given"])
    assert made["allocation"]["widths"]["head"] == "W4A4"
    assert (run / "recipe-given.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--size", "0.1"),
            "qviz: size limit 0.1: cannot be met: the smallest is 0.1425 of the float32 weights, "
            "with first and last ops at 8 bits. Raise it, or offer fewer bits.",
        ),
        (
            ("--size", "1.5"),
            "qviz: qviz allocate: argument --size: '1.5' is not a share such as 0.15 or 15%. See "
            "qviz allocate --help.",
        ),
        (
            ("--size", "0.2", "--bops", "0.2"),
            "qviz: qviz allocate: argument --bops: not allowed with argument --size. See qviz "
            "allocate --help.",
        ),
        (
            ("--bits", "4,9"),
            "qviz: qviz allocate: argument --bits: '9' is not a number of bits from 2 to 8. See "
            "qviz allocate --help.",
        ),
        (
            ("--weight-bits", "4"),
            "qviz: qviz allocate: starts from 8 bits, whatever --weight-bits and --activation-bits "
            "say. Leave them out and name what is offered with --bits.",
        ),
        (
            ("--latency", "1"),
            "qviz: --latency: takes the times of each width. Add --times W8A8=DIR ....",
        ),
        (
            ("--cost", "latency"),
            "qviz: --cost latency: takes the times of each width. Add --times W8A8=DIR ....",
        ),
        (
            ("--size", "0.2", "--cost", "bops"),
            "qviz: --cost and --size: a cost is made least under --max-loss or --max-drop alone. "
            "Leave one of them out.",
        ),
        (
            ("--allocation", "configs.txt", "--size", "100kB"),
            "qviz: --allocation and --size: its rows have shares, not bytes. Name one as 0.15.",
        ),
        (
            ("--size", "0.2", "--option", "statistics.samples=8"),
            "qviz: option statistics.samples: the plain pipeline does not run that method. Take "
            "the light or advanced pipeline.",
        ),
        (
            ("--size", "0.2", "--pipeline", "light", "--option", "statistics.samples=few"),
            "qviz: option samples: few is no whole number from 2 to inf. Leave it out for 512.",
        ),
        (
            ("--size", "0.2", "--keep", "relu"),
            "qviz: relu: gets no width of its own. Name ops with multiply-accumulates.",
        ),
        (
            ("--size", "0.2", "--by", "metric"),
            "qviz: top1: needs labels, CALIBRATION has none. Measure the divergence alone, or "
            "give labelled calibration data.",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    project: Project,
    run: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert main(project.words("allocate", run, *words, *SMALL)) == 2
    said = said.replace("CALIBRATION", project.calibration)
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.parametrize(
    "words",
    [
        ("--bops", "0.2"),
        ("--latency", "1"),
        ("--max-loss", "0.1"),
        ("--max-drop", "0.1"),
        ("--cost", "bops"),
        ("--keep", "stem"),
        ("--greedy",),
    ],
)
def test_what_a_given_allocation_would_pass_over_is_refused(
    project: Project, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = project.words("allocate", tmp_path / "out", "--allocation", "configs.txt", *words)
    assert main(out) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"qviz: --allocation and {words[0]}: an allocation of a file is taken as it is. Leave one "
        "of them out."
    )


def unexpected(one: Subject, **_: object) -> Step:
    raise AssertionError("AdaQuant was run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--size", "0.1"),
            "qviz: size limit 0.1: cannot be met: the smallest is 0.1425 of the float32 weights, "
            "with first and last ops at 8 bits. Raise it, or offer fewer bits.",
        ),
        (
            ("--max-drop", "0.1", "--keep", "relu"),
            "qviz: relu: gets no width of its own. Name ops with multiply-accumulates.",
        ),
        (
            ("--by", "metric"),
            "qviz: top1: needs labels, CALIBRATION has none. Measure the divergence alone, or "
            "give labelled calibration data.",
        ),
        (
            ("--by", "metric", "--activations", "same", "--losses", "CSV"),
            "qviz: losses by metric: the metric was not measured beside the loss. Measure the "
            "losses again with the metric, on labelled calibration data.",
        ),
        (
            ("--allocation", "CONFIGS", "--losses", "CSV"),
            "qviz: head at W3A3: its loss is not among those of per_layer_accuracy.A4.W4.csv. Name "
            "a file that has it with --losses, or give the op another width.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_tuned(
    project: Project,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(adaquant, "apply", unexpected)
    configs = tmp_path / "configs.txt"
    configs.write_text("Compression thr\tConfiguration\n0.15\t{'head': [3, 3]}\n")
    paths = {"CSV": str(run / "per_layer_accuracy.A4.W4.csv"), "CONFIGS": str(configs)}
    words = tuple(paths.get(word, word) for word in words)
    capsys.readouterr()
    assert main(project.words("allocate", run, "--pipeline", "advanced", *words, *SMALL)) == 2
    said = said.replace("CALIBRATION", project.calibration)
    assert capsys.readouterr().err.splitlines()[-1] == said
