"""What a report is made of: what the session and its folder know, and nothing measured twice."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from certificates import example
from torch import Tensor, nn

import qviz
from qviz import reproduce, run_results
from qviz.errors import InputError, RunFolderError
from qviz.int8.certificate_file import write_certificate
from qviz.int8.checkpoint import RECIPE
from qviz.progress import Progress
from qviz.recipe import Recipe
from qviz.report_content import Measured
from qviz.reporting import default_of, gather, proven, write_report
from qviz.session import Session


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return y


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    return x, torch.randint(0, 3, (count,), generator=generator)


def opened(run: Path | None = None) -> Session:
    torch.manual_seed(0)
    return qviz.open(Net().eval(), samples(40, 1), samples(120, 2), "top1", run_dir=run)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = opened(tmp_path / "run")
    made.calibrate()
    return made


def test_a_measurement_is_read_from_the_folder(session: Session, tmp_path: Path) -> None:
    recipe = session.recipe("max")
    assert run_results.measured(session, recipe) is None
    found = session.evaluate(recipe)
    assert run_results.measured(opened(tmp_path / "run"), recipe) == Measured.of(found)


def test_nothing_known_is_measured_again(session: Session, tmp_path: Path) -> None:
    recipe = session.recipe("mse")
    session.sensitivity(recipe)
    session.evaluate(recipe)
    again = opened(tmp_path / "run")
    seen: list[Progress] = []
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "run").glob("*.jsonl"))
    content = gather(again, recipe, progress=seen.append)
    # the float model's outputs are in no file: one pass
    assert [one.done for one in seen if one.verb == "evaluate"] == [32, 64, 96, 120]
    assert {one.verb for one in seen} == {"evaluate"}
    assert content.measured is not None
    assert content.sensitivity is not None
    assert {row.name for row in content.sensitivity.rows} == {"conv", "fc"}
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "run").glob("*.jsonl")) == before


def test_calibrators_are_those_measured_with_everything_int8(session: Session) -> None:
    session.best_calibrator()
    recipe = session.recipe("mse")
    session.evaluate(recipe.skip("fc"))
    session.evaluate(recipe.with_range("relu", -1.0, 1.0))
    found = run_results.calibrators(session, recipe.skip("conv"))
    assert [name for name, per_channel in found if per_channel] == list(session.calibrate().specs)
    assert ("max", False) in found
    assert found["mse", True] == Measured.of(session.evaluate(recipe))
    assert run_results.calibrators(session, replace(recipe, weight_bits=4)) == {}


def test_a_ranking_has_only_the_rows_that_are_measured(session: Session) -> None:
    recipe = session.recipe("max")
    whole = session.sensitivity(recipe)
    assert session.run is not None
    table = session.run.path / "sensitivity.jsonl"
    lines = [line for line in table.read_text().splitlines() if '"name":"fc"' in line]
    table.write_text("\n".join(lines) + "\n")
    found = run_results.ranking(session, recipe.skip("conv"))
    assert found is not None
    assert [(row.name, row.divergence) for row in found.rows] == [
        (row.name, row.divergence) for row in whole.rows if row.name == "fc"
    ]
    assert run_results.ranking(session, session.recipe("mse")) is None


def test_the_ranking_of_the_default_stands_in_and_is_said(session: Session) -> None:
    session.sensitivity(session.recipe("mse"))
    drawn = session.recipe("mse").with_range("relu", -1.0, 1.0)
    content = gather(session, drawn)
    assert content.sensitivity is not None
    assert content.ranked == "all int8 with mse ranges"


def test_a_search_is_read_as_it_was(session: Session) -> None:
    assert run_results.searched(session.run) is None
    made = session.search(session.recipe("max"), max_drop=0.5)
    found = run_results.searched(session.run)
    assert found == made or (found is not None and vars(found) == vars(made))
    assert found is not None
    assert any(point is found.best for point in found.curve)


def test_a_damaged_search_is_one_line(session: Session) -> None:
    assert session.run is not None
    session.run.write_json("search", {"curve": []})
    with pytest.raises(RunFolderError) as caught:
        run_results.searched(session.run)
    path = session.run.path / "search.json"
    assert str(caught.value) == f"{path}: it is damaged. Delete it and search again."


def test_ranges_come_with_the_lowest_sqnr_first_and_the_one_drawn_by_hand(
    session: Session,
) -> None:
    found = gather(session, session.recipe("mse").with_range("relu", -0.1, 0.1)).ranges
    assert [view.chosen.sqnr_db for view in found] == sorted(v.chosen.sqnr_db for v in found)
    worst = found[0]
    assert (worst.tensor, worst.selected) == ("relu", "fixed")
    assert (worst.chosen.range.lo, worst.chosen.range.hi) == (-0.1, 0.1)
    assert worst.readers == ("fc/input",)


def test_tensors_that_nobody_reads_as_int8_are_left_out(session: Session) -> None:
    found = gather(session, session.recipe("mse").skip("fc")).ranges
    assert [view.tensor for view in found] == ["x"]


def test_the_default_is_all_int8_with_the_recipes_calibrator(session: Session) -> None:
    recipe = session.recipe("entropy", weight_bits=4).skip("fc")
    assert default_of(session, recipe) == session.recipe("entropy")
    assert default_of(session, replace(recipe, calibrator="fixed")) == session.recipe("max")


def test_a_proof_counts_only_for_the_recipe_it_was_made_of(tmp_path: Path) -> None:
    recipe = Recipe().skip("fc")
    assert proven(tmp_path, recipe).certificate is None
    (tmp_path / RECIPE).write_text(recipe.to_json())
    files = {RECIPE: hashlib.sha256((tmp_path / RECIPE).read_bytes()).hexdigest()}
    made = example()
    made = replace(made, subject=replace(made.subject, files=files))
    write_certificate(tmp_path, made)
    assert proven(tmp_path, recipe).certificate == made
    assert proven(tmp_path, Recipe()).certificate is None
    (tmp_path / RECIPE).write_text(recipe.to_json() + "\n")
    found = proven(tmp_path, recipe)
    assert found.certificate is None
    assert "recipe.json has changed since" in found.problem


def test_a_report_is_written_into_the_run_folder(session: Session) -> None:
    assert session.run is not None
    path = write_report(session, session.recipe("max"))
    assert path == session.run.path.resolve() / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_session_without_a_run_folder_reports_to_a_file(tmp_path: Path) -> None:
    session = opened()
    recipe = session.recipe("max")
    path = write_report(session, recipe, tmp_path / "new" / "r.html")
    assert path == tmp_path / "new" / "r.html"
    with pytest.raises(InputError) as caught:
        write_report(session, recipe)
    assert str(caught.value) == "report: there is no run folder to write it to. Name a file."


def test_a_report_that_cannot_be_written_is_one_line(session: Session, tmp_path: Path) -> None:
    recipe = session.recipe("max")
    with pytest.raises(InputError) as caught:
        write_report(session, recipe, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: it is a folder, not a file. Name a file in it: report.html."
    )
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "r.html"
    with pytest.raises(InputError) as caught:
        write_report(session, recipe, target)
    assert str(caught.value) == (
        f"{target}: the report cannot be written (file exists). Name another file."
    )


def test_a_recipe_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    one, other = Recipe(), Recipe().skip("fc")
    paths = [reproduce.save_recipe(tmp_path, recipe) for recipe in (one, other, one)]
    assert paths[0] == paths[2] != paths[1]
    assert [Recipe.from_json(path.read_text()) for path in paths] == [one, other, one]


def test_without_evaluation_data_the_report_says_what_there_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = qviz.open(Net().eval(), samples(40, 1))
    session.calibrate()
    content = gather(session, session.recipe("max"))
    assert (content.measured, content.sensitivity, content.calibrators) == (None, None, {})
    page = write_report(session, session.recipe("max"), tmp_path / "r.html").read_text()
    assert "Not measured: there are no evaluation data." in page


def test_a_metric_that_is_zero_in_float_has_no_relative_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = qviz.open(Net().eval(), samples(40, 1), samples(60, 2), "kl")
    recipe = session.recipe("max")
    page = write_report(session, recipe, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "change not defined relative to float, measured on 60 samples." in page


def test_a_model_in_memory_has_no_command(session: Session) -> None:
    assert reproduce.opened_with(session) is None
    assert gather(session, session.recipe("max")).again == ""


def test_commands_are_one_option_a_line(tmp_path: Path) -> None:
    run, recipe, out = Path("/a run"), Path("/a run/r.json"), Path("/out")
    assert reproduce.commands(run, recipe, out) == (
        "qviz export '/a run' \\\n    --recipe '/a run/r.json' \\\n    -o /out\n"
        "qviz verify /out\n"
        "qviz report '/a run' \\\n    --recipe '/a run/r.json' \\\n    --checkpoint /out"
    )
    assert reproduce.commands(run, recipe, out, ["other"]) == (
        "qviz export '/a run' \\\n    --recipe '/a run/r.json' \\\n    --formats other \\\n"
        "    -o /out\n"
        "qviz report '/a run' \\\n    --recipe '/a run/r.json'"
    )


def test_the_snippet_names_files_by_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    (tmp_path / "val.npz").write_text("")
    options: dict[str, object] = {
        "model": "net.py:net",
        "calibration": "package.data:calibration",
        "evaluation": "val.npz",
        "profile": "ort-cpu",
        "seed": 0,
        "fold": True,
        "cwd": str(tmp_path),
    }
    text = reproduce.snippet(options, Path("/r.json"), Path("/out"))
    assert (
        f"""\
session = qviz.open(
    '{tmp_path}/net.py:net',
    calibration='package.data:calibration',
    evaluation='{tmp_path}/val.npz',
    profile='ort-cpu',
)
"""
        in text
    )
