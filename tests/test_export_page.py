"""The Export page as a visitor uses it, on the residual sample."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fewer_samples import fewer_samples
from streamlit.testing.v1 import AppTest

from qviz import reproduce
from qviz.errors import ParityError
from qviz.export import EXPORTERS, Exporter, Format, Request
from qviz.recipe import Recipe
from qviz.ui import visit as visiting
from qviz.ui.export_folder import Target, target, written
from qviz.ui.export_formats import missing_packages
from qviz.ui.export_words import about, plain
from qviz.ui.launch import MAIN
from qviz.ui.workspace import Workspace


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where runs are kept; the sample stays open from one test to the next."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("QVIZ_RUNS", str(folder / "kept"))
        patch.setenv("QVIZ_SAMPLES", str(fewer_samples(folder, 400)))
        yield folder


@pytest.fixture
def at(runs: Path) -> AppTest:
    """A visit of one's own."""
    assert runs.is_dir()
    made = AppTest.from_file(str(MAIN), default_timeout=120)
    made.query_params["sample"] = "resnet"
    made.run()
    made.switch_page("../../pages/export.py")
    deadline = time.monotonic() + 120
    while "export_start" not in [button.key for button in made.run().button]:
        assert time.monotonic() < deadline, "the model did not open"
        assert not made.exception
        assert not made.error
    return made


def workspace(at: AppTest) -> Workspace:
    found = visiting.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def finished(at: AppTest, kind: str) -> AppTest:
    """The page once a job has ended."""
    shown = workspace(at).jobs[kind].wait(120)
    assert not shown.active
    at.run()
    assert not at.exception
    return at


def into(at: AppTest, folder: Path | str) -> AppTest:
    """Another folder typed."""
    at.text_input(key=f"export_folder_{workspace(at).id}").set_value(str(folder)).run()
    assert not at.exception
    return at


def said(found: Iterable[Any]) -> list[str]:
    """Texts as a visitor reads them."""
    return [str(one.value).replace("\\", "") for one in found]


def codes(at: AppTest) -> list[str]:
    return [one.value for one in at.code]


def calls(at: AppTest) -> pd.DataFrame:
    """The table of integer calls."""
    (found,) = (frame.value for frame in at.dataframe if "largest" in frame.value)
    return found


@pytest.mark.usefixtures("runs")
def test_without_a_model_the_page_offers_the_sample() -> None:
    made = AppTest.from_file(str(MAIN), default_timeout=60).run()
    made.switch_page("../../pages/export.py")
    made.run()
    assert said(made.info) == ["No model is open yet."]
    (button,) = made.button
    assert button.label.startswith("Open the sample ")


def test_the_recipe_is_shown_as_it_would_be_written(at: AppTest) -> None:
    assert workspace(at).recipe.to_json().strip() in codes(at)
    assert "The same as all int8 with mse ranges." in said(at.markdown)


def test_what_was_decided_is_a_table_of_differences(at: AppTest) -> None:
    found = workspace(at)
    found.apply(found.recipe.skip("fc").with_range("relu", -3.0, 3.0), "test")
    at.run()
    (table,) = (frame.value for frame in at.dataframe if "before" in frame.value)
    assert table.to_numpy().tolist() == [
        ["fc", "float", "int8 like the rest"],
        ["range of relu", "±3 (drawn by hand)", "±3.65"],
    ]


def test_a_variant_can_be_compared_with(at: AppTest) -> None:
    found = workspace(at)
    found.keep("careful", found.recipe.skip("conv1"))
    at.run()
    key = f"export_base_{found.id}"
    assert at.selectbox(key=key).options == [
        "all int8 with mse ranges",
        "all int8 with max ranges",
        "variant careful",
    ]
    at.selectbox(key=key).select("variant careful").run()
    (table,) = (frame.value for frame in at.dataframe if "before" in frame.value)
    assert table.to_numpy().tolist() == [["conv1", "int8 like the rest", "float"]]


def written_by(function: Exporter) -> Format:
    """A format that a function of the test writes."""
    module = types.ModuleType("written_by")
    vars(module)["export"] = function
    sys.modules[module.__name__] = module
    return Format("other", "Other", "Nothing", module.__name__)


def test_the_formats_are_those_of_the_registry(
    at: AppTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def other(request: Request) -> dict[str, Any]:
        request.folder.mkdir(parents=True)
        (request.folder / "other.bin").write_bytes(b"1234")
        return {"files": {"other.bin": 4}}

    monkeypatch.setitem(EXPORTERS, "other", written_by(other))
    into(at.run(), tmp_path / "out")
    assert at.pills(key="export_formats").options == list(EXPORTERS)
    at.pills(key="export_formats").set_value(["other"]).run()
    at.button(key="export_start").click().run()
    finished(at, "export")
    (table,) = (frame.value for frame in at.dataframe if "bytes" in frame.value)
    assert ["other/other.bin", 4] in table.to_numpy().tolist()
    assert "Verify" not in [one.label for one in at.button]


def results(at: AppTest) -> list[list[str]]:
    """What became of each format."""
    (found,) = (frame.value for frame in at.dataframe if "result" in frame.value)
    return [[str(cell) for cell in row] for row in found.to_numpy()]


def test_a_format_that_cannot_express_the_recipe_gets_the_nearest_if_asked(
    at: AppTest, tmp_path: Path
) -> None:
    into(at, tmp_path / "out")
    at.pills(key="export_formats").set_value(["amct"]).run()
    assert any("Cannot express this recipe. The nearest: int8 add" in t for t in said(at.caption))
    at.button(key="export_start").click().run()
    finished(at, "export")
    ((name, result, _, note),) = results(at)
    assert (name, result) == ("amct", "not written")
    assert note.startswith("Huawei AMCT: cannot express the recipe: int8 add (")

    at.toggle(key="export_nearest").set_value(True).run()
    assert any("Will be written as: int8 add" in text for text in said(at.caption))
    at.button(key="export_start").click().run()
    finished(at, "export")
    ((name, result, _, note),) = results(at)
    assert (name, result) == ("amct", "written, nearest recipe")
    assert note.startswith("int8 add (")


def test_all_formats_are_chosen_at_once(at: AppTest) -> None:
    at.button(key="export_all").click().run()
    assert at.pills(key="export_formats").value == list(EXPORTERS)
    assert not at.exception
    told = said(at.caption)
    assert all(any(text.startswith(f"**{name}**") for text in told) for name in EXPORTERS)
    at.button(key="export_first").click().run()
    assert at.pills(key="export_formats").value == ["checkpoint"]


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2.0", "onnx>=1.18; extra == 'onnx'", "nosuch>=1; extra == 'onnx'"]
    monkeypatch.setattr(metadata, "requires", lambda package: wanted)
    assert missing_packages("onnx") == ("nosuch",)
    assert missing_packages("app") == ()


def test_an_export_is_written_and_proven(at: AppTest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    into(at, folder)
    at.button(key="export_start").click().run()
    finished(at, "export")
    (success,) = said(at.success)
    assert success.startswith(
        "Parity passed. Int8 on the CPU computes what was simulated: 18 calls compared on "
        "400 samples"
    )
    assert [one.label for one in at.metric][:3] == ["Int8 program", "Simulation", "Size of weights"]
    (files,) = (frame.value for frame in at.dataframe if "bytes" in frame.value)
    assert set(files["file"]) >= {"checkpoint.json", "model.safetensors", "certificate.json"}
    (backends,) = (frame.value for frame in at.dataframe if "verdict" in frame.value)
    assert list(backends["verdict"])[:3] == ["reference", "reference", "passed"]
    assert len(calls(at)) == 18
    at.text_input(key="export_filter").set_value("conv").run()
    assert 0 < len(calls(at)) < 18
    assert str(folder) in codes(at)
    # as the command line leaves it, so that either goes on with the other
    assert (folder / "options.json").is_file()
    run = workspace(at).opened.session.run
    assert run is not None
    kept = Recipe.from_json((run.path / "recipe.json").read_text())
    assert kept == workspace(at).recipe

    at.button(key="export_verify").click().run()
    finished(at, "verify")
    assert len(at.success) == 1

    at.button(key="export_report").click().run()
    finished(at, "report")
    report = workspace(at).jobs["report"].snapshot().result.path
    assert str(report) in codes(at)
    assert "parity passed" in report.read_text(encoding="utf-8").replace("\u00a0", " ")

    found = workspace(at)
    found.apply(found.recipe.skip("fc"), "test")
    at.run()
    assert "The draft has changed since: fc left in float." in said(at.info)
    assert "It is about an earlier draft: write it again for this one." in said(at.info)


def test_a_proof_that_fails_is_said_in_words(
    at: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_: Request) -> dict[str, Any]:
        raise ParityError("fc", "its integer kernel is 3 steps off", "Report the op")

    monkeypatch.setitem(EXPORTERS, "checkpoint", written_by(wrong))
    into(at, tmp_path / "out")
    at.button(key="export_start").click().run()
    finished(at, "export")
    assert said(at.error) == ["fc: its integer kernel is 3 steps off. Report the op."]


def test_a_folder_that_cannot_be_is_said_before_anything_is_done(
    at: AppTest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    into(at, tmp_path / "file" / "out")
    assert said(at.error) == [
        f"{tmp_path / 'file'}: it is a file, not a folder. Name another folder."
    ]
    assert at.button(key="export_start").disabled


def test_the_page_says_how_to_do_it_again(at: AppTest) -> None:
    session = workspace(at).opened.session
    assert session.run is not None
    run = session.run.path.resolve()
    file = reproduce.save_recipe(run, workspace(at).recipe)
    folder = run / "export"
    options = reproduce.opened_with(session)
    assert options is not None
    assert codes(at)[-2:] == [
        reproduce.commands(run, file, folder),
        reproduce.snippet(options, file, folder).strip(),
    ]


def test_a_folder_is_looked_at_before_it_is_written_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine").mkdir()
    for name in ("a", "b", "c", "d"):
        (run / "mine" / name).write_text("")
    (run / "made").mkdir()
    (run / "made" / "checkpoint.json").write_text("{}")
    assert target("new", run) == Target(run / "new")
    assert target(f" {tmp_path}/x/../y ", run) == Target(tmp_path / "y")
    assert target("", run) == Target(run, "Name a folder to write to.")
    for text, path in ((str(run), run), (str(tmp_path), tmp_path), (".", run)):
        assert target(text, run) == Target(
            path, f"{path}: the run itself is in it. Name a folder of its own."
        )
    assert target("made", run) == Target(
        run / "made", note="There is an earlier export in it, which will be replaced."
    )
    assert target("mine", run) == Target(
        run / "mine",
        note="There is something else in it (a, b, c …). That stays, but for files of the same "
        "name.",
    )
    assert target("a\0b", run).error == "Name a folder to write to: a path has no null bytes."
    assert (target("x" * 300, run).error or "").endswith(": it is no path (file name too long).")


def test_a_folder_nobody_exported_to_holds_nothing(tmp_path: Path) -> None:
    assert written(tmp_path) is None
    assert written(tmp_path / "none") is None


def test_a_damaged_proof_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    (tmp_path / "recipe.json").write_text("{")
    (tmp_path / "certificate.json").write_text("[]")
    found = written(tmp_path)
    assert found is not None
    assert (found.recipe, found.certificate) == (None, None)
    assert found.stale == (
        f'{tmp_path / "certificate.json"}: it is no certificate: "format" is not '
        '"qviz-certificate". Make it again with qviz verify.'
    )
    assert found.files == {"checkpoint.json": 2, "certificate.json": 2, "recipe.json": 1}


def test_a_format_is_described_by_its_title_and_what_it_carries() -> None:
    assert about(EXPORTERS["checkpoint"]) == (
        "**checkpoint**: int8 checkpoint. The integers, the recipe and a program that runs in "
        "PyTorch on CPU and CUDA int8 kernels."
    )


def test_names_are_shown_as_they_are() -> None:
    assert plain("layer1.0:add_*[x]") == "layer1.0\\:add\\_\\*\\[x\\]"
