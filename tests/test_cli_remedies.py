"""``qviz remedies`` on the command line: what helps the worst ops, kept as a variant."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_kit import Project, make_project, result

from qviz.cli import main
from qviz.recipe import Recipe

BITS = ("--calibrator", "max", "--weight-bits", "4", "--activation-bits", "4")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


def test_the_worst_op_gets_what_helps_it_and_the_result_is_kept(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("--ops", "stem,head", "--method", "more_bits", "--method", "weight_range", *BITS)
    found = result(capsys, project.words("remedies", out, *words, "--quiet", "--json"))
    assert found["sites"] == ["stem", "head"]
    rows = found["rows"]
    assert {r["method"] for r in rows} == {"float", "more_bits", "weight_range"}
    for row in rows:
        assert row["interval"][0] <= row["gain"] <= row["interval"][1]
        assert row["fall"] == pytest.approx(1 - row["divergence_after"] / row["divergence_before"])
    assert any(r["best"] for r in rows)
    assert found["recipe"] == str(out / "recipe-remedied.json")
    kept = Recipe.from_json((out / "recipe-remedied.json").read_text())
    assert (kept.weights != "") or kept.overrides


def test_the_table_names_luck_noise_and_the_yardstick(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--ops", "head", "--method", "more_bits", "--method", "calibrator", *BITS, "--quiet")
    assert main(project.words("remedies", tmp_path / "out", *words)) == 0
    said = capsys.readouterr().out
    for expected in (
        "120 evaluation samples, seed 0",
        "left in float",
        "yardstick",
        "More bits",
        "luck is what rounding the op another way does to kl by itself",
        "remedies tried, one helps on ",
        "Ranges by another calibrator: max: the same as it is",
    ):
        assert expected in said


def test_an_unknown_method_is_named_before_anything_is_opened(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(project.words("remedies", tmp_path / "out", "--method", "magic")) == 2
    assert "method 'magic': does not exist. Use one of " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
