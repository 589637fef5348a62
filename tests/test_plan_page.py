"""The plan page as a visitor uses it: tick, estimate, measurement, undo, presets, variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fewer_samples import fewer_samples
from streamlit.testing.v1 import AppTest

from qviz.search.skip import SearchResult
from qviz.ui import launch, visit
from qviz.ui.compare_result import Comparison
from qviz.ui.launch import MAIN, Start
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_editor import Sheet
from qviz.ui.plan_state import state_of
from qviz.ui.workspace import Workspace


@pytest.fixture(scope="module", autouse=True)
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder for all tests: the model stays open from one to the next."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("QVIZ_RUNS", str(folder / "kept"))
        patch.setenv("QVIZ_SAMPLES", str(fewer_samples(folder, 400)))
        yield


def wait(at: AppTest, ready: Callable[[], object]) -> None:
    """Run the page until something holds."""
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        assert not at.exception, at.exception
        time.sleep(0.05)
        at.run()


def open_plan(**query: str) -> AppTest:
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    at.switch_page("../../pages/plan.py").run()
    wait(at, lambda: "plan_sheet" in at.session_state)
    return at


def workspace_of(at: AppTest) -> Workspace:
    found = visit.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


@pytest.fixture
def at() -> AppTest:
    """The page with estimates and with all int8 measured."""
    page = open_plan(sample="resnet")
    wait(page, lambda: "measured on all 400 samples" in captions(page))
    wait(page, lambda: table(page)["divergence"].notna().all())
    # nothing more is learned, which would make a new table under a tick
    jobs = state_of(workspace_of(page)).learning.values()
    wait(page, lambda: not any(job.snapshot().active for job in jobs))
    page.run()
    return page


def captions(at: AppTest) -> list[str]:
    return [one.value for one in at.caption]


def metrics(at: AppTest) -> dict[str, str]:
    return {one.label: one.value for one in at.metric}


def table(at: AppTest) -> pd.DataFrame:
    """The rows as they were when the table was made."""
    sheet = at.session_state["plan_sheet"]
    assert isinstance(sheet, Sheet)
    return sheet.frame


def tick(at: AppTest, **rows: bool) -> None:
    """Tick rows of the present table: ``_0=True`` ticks the first."""
    edits = {int(name[1:]): {"float": value} for name, value in rows.items()}
    at.session_state[at.session_state["plan_sheet"].key] = {
        "edited_rows": edits,
        "added_rows": [],
        "deleted_rows": [],
    }
    at.run()
    assert not at.exception


def test_a_tick_is_estimated_at_once_and_measured_soon(at: AppTest) -> None:
    worst = table(at)["name"].iloc[0]
    assert metrics(at)["In float"] == "0 of 22 ops"
    tick(at, _0=True)
    assert metrics(at)["In float"] == "1 of 22 ops"
    assert metrics(at)["Drop of top1, estimated"].startswith("≈ ")
    assert workspace_of(at).recipe.skipped == (worst,)
    wait(at, lambda: "measured on all 400 samples" in captions(at))
    assert "Drop of top1, measured" in metrics(at)


def test_a_measured_draft_becomes_a_point_of_the_curve(at: AppTest) -> None:
    tick(at, _3=True)
    wait(at, lambda: "measured on all 400 samples" in captions(at))
    ws = workspace_of(at)
    point = state_of(ws).point(Choice.of(ws.recipe, ws.opened.session.graph))
    assert point is not None
    assert point.skipped == ws.recipe.skipped


def test_ticks_add_up_and_can_be_taken_back_in_the_table(at: AppTest) -> None:
    names = table(at)["name"].tolist()
    key = at.session_state["plan_sheet"].key
    tick(at, _0=True)
    tick(at, _0=True, _2=True)
    assert set(workspace_of(at).recipe.skipped) == {names[0], names[2]}
    tick(at, _2=True)
    assert workspace_of(at).recipe.skipped == (names[2],)
    assert at.session_state["plan_sheet"].key == key  # a new table would lose clicks


def test_undo_and_redo_say_what_they_do_and_show_it_in_the_table(at: AppTest) -> None:
    worst = table(at)["name"].iloc[0]
    tick(at, _0=True)
    assert f"Last change: {worst} to float" in captions(at)
    assert at.button(key="plan_undo").help == f"Takes back: {worst} to float"
    at.button(key="plan_undo").click().run()
    assert workspace_of(at).recipe.skipped == ()
    assert not table(at)["float"].any()
    at.button(key="plan_redo").click().run()
    assert table(at)["float"].tolist()[0]


def test_after_a_visit_to_another_page_the_ticks_are_still_there(at: AppTest) -> None:
    tick(at, _1=True)
    chosen = workspace_of(at).recipe
    at.switch_page("../../pages/export.py").run()
    at.switch_page("../../pages/plan.py").run()
    assert workspace_of(at).recipe == chosen
    assert table(at)["float"].sum() == 1


def test_operands_can_be_ticked_by_themselves(at: AppTest) -> None:
    at.segmented_control(key="plan_by").set_value("Operands").run()
    name = table(at)["name"].iloc[0]
    assert "/" in name
    tick(at, _0=True)
    assert workspace_of(at).recipe.skipped == (name,)
    assert metrics(at)["In float"] == "1 of 22 ops"


def test_rows_are_found_by_name_or_type_and_sorted(at: AppTest) -> None:
    at.text_input(key="plan_find").set_value("linear").run()
    assert table(at)["name"].tolist() == ["fc"]
    at.text_input(key="plan_find").set_value("").run()
    at.selectbox(key="plan_order").set_value("Network order").run()
    graph = workspace_of(at).opened.session.graph
    assert table(at)["name"].tolist() == [op.name for op in graph.quantizable]


def test_presets_are_one_step_each(at: AppTest) -> None:
    ws, names = workspace_of(at), table(at)["name"].tolist()

    def skipped() -> set[str]:
        return set(ws.recipe.skipped)

    at.number_input(key="plan_k").set_value(2).run()
    at.button(key="plan_preset_worst").click().run()
    assert skipped() == set(names[:2])
    at.button(key="plan_preset_clear").click().run()
    assert skipped() == set()
    at.selectbox(key="plan_type").set_value("linear").run()
    at.button(key="plan_preset_type_float").click().run()
    assert skipped() == {"fc"}
    at.text_input(key="plan_pattern").set_value("layer1.*").run()
    at.button(key="plan_preset_pattern_float").click().run()
    assert len(skipped()) == 7
    assert ws.history.undoes == "layer1.* to float"
    at.button(key="plan_preset_ends").click().run()
    assert {"conv1", "fc"} <= skipped()
    assert ws.history.at == 5


def test_a_wrong_pattern_is_one_line(at: AppTest) -> None:
    at.checkbox(key="plan_regex").check()
    at.text_input(key="plan_pattern").set_value("layer[").run()
    assert not at.exception
    assert at.error[0].value.startswith("layer[: is not a regular expression: ")


def test_variants_are_kept_loaded_and_deleted(at: AppTest) -> None:
    ws = workspace_of(at)
    tick(at, _0=True)
    chosen = ws.recipe
    at.text_input(key="variant_name").set_value("one").run()
    at.button(key="variant_save").click().run()
    assert ws.variants == {"one": chosen}
    at.button(key="plan_undo").click().run()
    at.selectbox(key="variant_chosen").set_value("one").run()
    at.button(key="variant_load").click().run()
    assert ws.recipe == chosen
    assert table(at)["float"].sum() == 1
    at.button(key="variant_delete").click().run()
    assert ws.variants == {}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("float", "float: is always there. Choose another name."),
        ("  ", "variant: it has no name. Type one."),
    ],
)
def test_a_name_that_cannot_be_used_is_said(at: AppTest, name: str, problem: str) -> None:
    at.text_input(key="variant_name").set_value(name).run()
    at.button(key="variant_save").click().run()
    assert [one.value for one in at.error] == [problem]


def test_two_variants_are_compared_as_they_are_now(at: AppTest) -> None:
    tick(at, _0=True)
    ws = workspace_of(at)
    at.selectbox(key="compare_b").set_value("float").run()
    at.button(key="compare_go").click().run()
    wait(at, lambda: "From A to B" in metrics(at))
    found = ws.jobs["compare"].snapshot().result
    assert isinstance(found, Comparison)
    assert found.a.recipe == ws.recipe
    assert found.b.recipe is None
    assert found.of_b.change == 0.0
    assert "Both measured on the same 400 samples." in captions(at)
    shown = [one for one in captions(at) if one.startswith("#")]
    assert len(shown) == min(24, len(found.differing("a and b")))
    first = found.differing("a and b")[0]
    assert shown[0].startswith(f"#{first} **")


def test_a_search_puts_its_points_on_the_curve_and_its_result_into_the_draft(at: AppTest) -> None:
    ws = workspace_of(at)
    low = replace(ws.recipe, weight_bits=3, activation_bits=3)
    ws.apply(low, "3 bits")
    at.run()
    wait(at, lambda: "measured on all 400 samples" in captions(at))
    wait(at, lambda: table(at)["divergence"].notna().all())
    at.number_input(key="plan_target").set_value(8.0).run()
    assert state_of(ws).target == 0.08
    at.selectbox(key="plan_method").set_value("Bisection").run()
    at.button(key="plan_search").click().run()
    job = ws.jobs["search"]
    wait(at, lambda: not job.snapshot().active and at.success)
    result = job.snapshot().result
    assert isinstance(result, SearchResult)
    assert result.reached
    points = state_of(ws).points[Choice.of(low, ws.opened.session.graph).base]
    assert len(points) >= len({frozenset(one.skipped) for one in result.curve})
    assert any(" of 22 ops in float (" in one.value for one in at.success)
    at.button(key=f"plan_use_{job.id}").click().run()
    assert set(ws.recipe.skipped) == set(result.best.skipped)
    assert ws.history.undoes == (
        f"the search's result, {len(result.best.skipped)} "
        f"{'op' if len(result.best.skipped) == 1 else 'ops'} in float"
    )


def test_what_was_measured_in_an_earlier_visit_is_on_the_curve(at: AppTest) -> None:
    tick(at, _5=True)
    wait(at, lambda: "measured on all 400 samples" in captions(at))
    left = Choice.of(workspace_of(at).recipe, workspace_of(at).opened.session.graph).left
    later = open_plan(sample="resnet")
    ws = workspace_of(later)
    assert ws.id != workspace_of(at).id
    base = Choice.of(ws.recipe, ws.opened.session.graph).base
    assert left in state_of(ws).points[base]


MODEL = """
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
"""


def test_without_evaluation_data_ops_can_be_chosen_and_the_page_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.py").write_text(MODEL, encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", inputs=rng.normal(size=(32, 4)).astype("float32"))
    start = Start(model=f"{tmp_path / 'small.py'}:make", calibration=str(tmp_path / "c.npz"))
    monkeypatch.setattr(launch, "_start", start)
    page = open_plan()
    assert [one.value for one in page.warning if "evaluation data" in one.value][-1] == (
        "There are no evaluation data, so nothing can be estimated or measured: ops can be chosen, "
        "but not judged. Open the model again with evaluation data (--evaluation)."
    )
    tick(page, _0=True)
    assert metrics(page) == {"In float": "1 of 2 ops"}
    assert not page.exception


def test_a_recipe_in_a_file_becomes_a_variant(at: AppTest) -> None:
    recipe = workspace_of(at).recipe.skip("fc")
    content = recipe.to_json().encode()
    at.file_uploader(key="variant_file").set_value(("mine.json", content, "text/plain")).run()
    assert workspace_of(at).variants["mine"] == recipe
    assert at.selectbox(key="variant_chosen").value == "mine"
