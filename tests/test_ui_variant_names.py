"""Names of variants in the app: its own three are refused, a taken one is never overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_kit import shows, wait
from streamlit.testing.v1 import AppTest

from qviz.errors import RecipeError
from qviz.ui import launch, variant_names, visit
from qviz.ui.export_words import plain
from qviz.ui.launch import MAIN, Start
from qviz.ui.plan_choice import all_int8
from qviz.ui.plan_variants import all_of
from qviz.ui.variant_names import DRAFT, FIXED, INT8
from qviz.ui.workspace import Workspace

MODEL = """
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
"""
TAKEN = "one: is a variant already. Choose another name, or delete that one on the page Plan."


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Two layers and a run folder of their own."""
    (tmp_path / "small.py").write_text(MODEL, encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", inputs=rng.normal(size=(32, 4)).astype("f4"))
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path / "runs"))
    made = Start(model=f"{tmp_path / 'small.py'}:make", calibration=str(tmp_path / "c.npz"))
    monkeypatch.setattr(launch, "_start", made)
    return made


@pytest.fixture
def workspace(start: Start) -> Workspace:
    made = visit.workspaces().create(start)
    seen = made.opening.wait(120)
    assert seen.state == "done", seen.error
    return made


def page(name: str, key: str, workspace: Workspace) -> AppTest:
    """A page of a visit, drawn as far as a button."""
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    at.query_params["w"] = workspace.id
    at.run()
    return turn(at, name, key)


def turn(at: AppTest, name: str, key: str) -> AppTest:
    at.switch_page(f"../../pages/{name}.py").run()
    return wait(at, lambda: shows(at, key))


def tuned(workspace: Workspace) -> AppTest:
    """The page Win back with a result."""
    at = page("tune", "tune_run_bias_correction", workspace)
    at.button(key="tune_run_bias_correction").click().run()
    return wait(at, lambda: shows(at, "tune_last_keep"))


def keep(at: AppTest, name: str) -> list[str]:
    """Keep the result under a name; the errors shown."""
    at.text_input(key="tune_last_name").set_value(name).run()
    at.button(key="tune_last_keep").click().run()
    return errors(at)


def errors(at: AppTest) -> list[str]:
    return [box.value for box in at.error]


def successes(at: AppTest) -> list[str]:
    return [box.value for box in at.success if box.value.startswith("Kept as variant")]


@pytest.mark.parametrize("name", FIXED)
def test_no_variant_gets_a_name_that_is_always_there(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        variant_names.check(name, ())
    assert str(caught.value) == f"{name}: is always there. Choose another name."


def test_a_variant_that_was_kept_under_such_a_name_elsewhere_is_shown_under_another() -> None:
    assert variant_names.shown(("one", "draft", "draft (kept)")) == {
        "one": "one",
        "draft (kept) (kept)": "draft",
        "draft (kept)": "draft (kept)",
    }


def test_a_taken_name_is_refused_and_free_again_after_a_deletion(workspace: Workspace) -> None:
    first, other = workspace.recipe, workspace.recipe.skip("0")
    workspace.keep("one", first)
    with pytest.raises(RecipeError) as caught:
        workspace.keep("one", other)
    assert str(caught.value) == TAKEN
    assert workspace.variants == {"one": first}
    workspace.keep("one", None)
    workspace.keep("one", other)
    assert workspace.variants == {"one": other}


def test_the_draft_and_all_int8_are_the_true_ones_whatever_the_run_folder_holds(
    workspace: Workspace,
) -> None:
    session, kept = workspace.opened.session, workspace.recipe.skip("0")
    for name in FIXED:
        session.keep(name, kept)
    found = all_of(workspace)
    assert found[DRAFT].recipe == workspace.recipe
    assert found[INT8].recipe == all_int8(workspace.recipe)
    assert found["float"].recipe is None
    assert found["draft (kept)"].recipe == kept
    workspace.keep("draft (kept)", None)
    assert list(session.variants) == [INT8, "float"]


def test_win_back_refuses_a_name_and_says_why_until_the_page_is_left(workspace: Workspace) -> None:
    before = workspace.recipe.skip("0")
    workspace.keep("one", before)
    at = tuned(workspace)
    assert keep(at, "draft") == [plain("draft: is always there. Choose another name.")]
    assert keep(at, "one") == [plain(TAKEN)]
    assert workspace.variants == {"one": before}
    workspace.keep("one", None)
    turn(at, "plan", "variant_save")
    turn(at, "tune", "tune_last_keep")
    assert errors(at) == []


def test_what_was_kept_is_said_as_long_as_the_variant_exists(workspace: Workspace) -> None:
    at = tuned(workspace)
    assert keep(at, "one") == []
    assert successes(at) == ["Kept as variant one: compare and load it on the page Plan."]
    turn(at, "plan", "variant_save")
    turn(at, "tune", "tune_last_keep")
    assert len(successes(at)) == 1
    turn(at, "plan", "variant_save")
    at.selectbox(key="variant_chosen").set_value("one").run()
    at.button(key="variant_delete").click().run()
    turn(at, "tune", "tune_last_keep")
    assert successes(at) == []


def test_plan_refuses_a_taken_name_and_numbers_a_file_of_that_name(workspace: Workspace) -> None:
    alien = workspace.recipe.skip("of another model")  # in the folder, and not in the list
    workspace.keep("one", alien)
    at = page("plan", "variant_save", workspace)
    at.text_input(key="variant_name").set_value("one").run()
    at.button(key="variant_save").click().run()
    assert TAKEN in errors(at)
    content = workspace.recipe.to_json().encode()
    for file in ("one.json", "draft.json"):
        at.file_uploader(key="variant_file").set_value((file, content, "text/plain")).run()
    assert workspace.variants == {
        "one": alien,
        "one 2": workspace.recipe,
        "draft 2": workspace.recipe,
    }
