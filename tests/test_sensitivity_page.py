"""The Sensitivity page as a visitor uses it, on a model of five ops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_kit import Project, make_project
from streamlit.testing.v1 import AppTest

from qviz.cli import main
from qviz.intervals import Interval
from qviz.jobs import Job
from qviz.progress import Progress
from qviz.ranking import Sensitivity, SensitivityRow
from qviz.recipe import Override, Recipe
from qviz.ui import launch
from qviz.ui import sensitivity_words as words
from qviz.ui import visit as visiting
from qviz.ui.launch import MAIN, Start
from qviz.ui.models import start_of_run
from qviz.ui.sensitivity_results import Kept, Rankings, Setting, kept
from qviz.ui.workspace import Workspace

PAGE = "../../pages/sensitivity.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QVIZ_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield make_project(tmp_path_factory.mktemp("project"))


def visit(start: Start, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """A visit of one's own, the model open."""
    monkeypatch.setattr(launch, "_start", start)
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.run()
    at.switch_page(PAGE)
    deadline = time.monotonic() + 60
    while not at.run().caption or at.main.get("progress"):
        assert time.monotonic() < deadline, "the model did not open"
        assert not at.exception
    return at


@pytest.fixture
def at(project: Project, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    return visit(start(project), monkeypatch)


def start(project: Project) -> Start:
    return Start(project.model, project.calibration, project.evaluation)


def workspace(at: AppTest) -> Workspace:
    found = visiting.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def measured(at: AppTest) -> AppTest:
    """The page once what runs has ended."""
    assert workspace(at).jobs["sensitivity"].wait(60).error is None
    at.run()
    assert not at.exception
    return at


def said(at: AppTest) -> list[str]:
    """What the page tells, without what is doubtful about the data."""
    doubts = workspace(at).opened.session.warnings
    return [one.value for one in (*at.info, *at.warning, *at.error) if one.value not in doubts]


def bars(at: AppTest) -> list[str]:
    data = json.loads(at.get("bidi_component")[0].proto.json)
    return list(json.loads(data["figure"])["layout"]["yaxis"]["categoryarray"])


def choose(at: AppTest, key: str, value: str) -> AppTest:
    at.button_group(key=key).set_value(value).run()
    assert not at.exception
    return at


def test_before_anything_is_measured_the_page_says_what_to_press(at: AppTest) -> None:
    workspace(at).rankings.setting = Setting(granularity="operand")
    fresh = AppTest.from_file(str(MAIN), default_timeout=60)
    fresh.query_params["w"] = at.session_state["w"]
    fresh.run()
    fresh.switch_page(PAGE).run()
    assert said(fresh) == [
        "Nothing is measured yet for: only this, weights and activations, per operand. Press Run."
    ]
    assert "Recipe: the draft, mse ranges. Data: 120 evaluation samples. Metric: top1." in [
        one.value for one in fresh.caption
    ]


def test_run_ranks_every_op_and_a_reload_finds_it_again(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    found = workspace(at).jobs["sensitivity"].snapshot().result
    names = [row.name for row in found.rows]
    assert bars(at) == names
    assert [one.value for one in at.subheader] == [words.headline(found, "op")]
    assert said(at) == []

    again = AppTest.from_file(str(MAIN), default_timeout=60)
    again.query_params["w"] = at.session_state["w"]
    again.run()
    again.switch_page(PAGE).run()
    assert bars(again) == names


def test_what_a_cancelled_job_measured_stays_and_run_goes_on(at: AppTest) -> None:
    rankings = workspace(at).rankings
    whole = measured(press(at, "sensitivity_run"))
    ((key, found),) = rankings.found.items()
    estimated = tuple(
        replace(row, exact=False, samples=0, divergence_interval=None, change=None)
        for row in found.rows[2:]
    )
    rankings.found[key] = replace(found, rows=found.rows[:2] + estimated)
    job = Job("Sensitivity", lambda own: None)
    job.cancel()
    workspace(at).jobs["sensitivity"] = job
    assert said(whole.run()) == [
        f"Cancelled. 2 of {len(found.rows)} ops are measured and can be used; Run goes on from "
        "there."
    ]
    assert bars(at) == [row.name for row in found.rows]
    measured(press(at, "sensitivity_run"))
    assert rankings.found[key].rows == found.rows
    assert said(at) == []


def test_a_failed_job_says_why_in_words(at: AppTest) -> None:
    def work(job: Job) -> None:
        raise RuntimeError("no room")

    job = workspace(at).submit("sensitivity", "Sensitivity: only this", work)
    job.wait(10)
    assert said(at.run())[-1] == "Sensitivity: only this: RuntimeError: no room"
    assert not at.exception


def test_a_run_of_the_command_line_is_shown_without_measuring(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(project.words("sensitivity", out, "--calibrator", "mse", "--quiet")) == 0
    rows = (out / "sensitivity.jsonl").read_text().splitlines()
    at = visit(start_of_run(out), monkeypatch)
    measured(at)
    printed = json.loads((out / "sensitivity-result.json").read_text())
    assert bars(at) == [row["name"] for row in printed["rows"]]
    assert (out / "sensitivity.jsonl").read_text().splitlines() == rows


def test_rows_of_an_interrupted_run_are_counted_before_run_is_pressed(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(project.words("sensitivity", out, "--calibrator", "mse", "--quiet")) == 0
    path = out / "sensitivity.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    at = visit(start_of_run(out), monkeypatch)
    assert said(at)[0] == "2 of 5 ops were measured before; Run goes on from there."
    measured(press(at, "sensitivity_run"))
    assert path.read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert len(path.read_text().splitlines()) == len(lines)


def test_the_worst_are_left_in_float_by_one_button_and_taken_back_by_another(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    worst = bars(at)[:2]
    at.number_input(key="sensitivity_worst_5").set_value(2).run()
    press(at, "sensitivity_skip")
    assert workspace(at).recipe.skipped == tuple(worst)
    assert workspace(at).history.undoes == "leave the worst 2 in float"
    assert [f"The draft leaves 2 in float: {worst[0]}, {worst[1]}."] == [
        one.value for one in at.caption if one.value.startswith("The draft leaves")
    ]
    press(at, "sensitivity_undo")
    assert workspace(at).recipe.skipped == ()


def test_a_draft_with_skips_is_ranked_without_them_unless_wanted(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    worst = bars(at)[0]
    workspace(at).apply(workspace(at).recipe.skip(worst), "one in float")
    assert worst in bars(at.run())
    at.checkbox(key="sensitivity_with_skips").check().run()
    measured(press(at, "sensitivity_run"))
    assert worst not in bars(at)


def test_a_draft_with_nothing_int8_says_so(at: AppTest) -> None:
    space = workspace(at)
    names = [op.name for op in space.opened.session.graph.quantizable]
    space.apply(space.recipe.skip(*names), "all in float")
    at.run()
    at.checkbox(key="sensitivity_with_skips").check().run()
    assert said(at) == ["recipe: leaves nothing int8 to measure. Quantize at least one op."]
    assert not at.exception


def test_rows_of_an_earlier_draft_are_shown_as_such(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    space = workspace(at)
    tensor = space.recipe.ranges[0].tensor
    space.apply(space.recipe.with_range(tensor, -1.0, 1.0), "a range by hand")
    assert said(at.run()) == [
        "The draft has changed since: these rows are of mse ranges. Run measures the present one."
    ]
    assert len(bars(at)) == 5


def test_weights_and_activations_side_by_side_name_the_cause(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    at.session_state["sensitivity_tab"] = "Weights or activations"
    at.run()
    measured(press(at, "sensitivity_missing"))
    table = next(one.value for one in at.dataframe if "cause" in one.value)
    assert set(table["name"]) == set(bars(at))
    assert not table["cause"].eq("not measured yet").any()
    assert "sensitivity_missing" not in [button.key for button in at.button]


def test_the_estimate_is_compared_with_the_measurement(at: AppTest) -> None:
    measured(press(at, "sensitivity_run"))
    at.session_state["sensitivity_tab"] = "Estimate against measurement"
    at.run()
    assert [one.value[:26] for one in at.markdown if "Spearman" in one.value] == [
        "Spearman rank correlation "
    ]
    choose(at, "sensitivity_mode", "all_but_this")
    measured(press(at, "sensitivity_run"))
    at.session_state["sensitivity_tab"] = "Estimate against measurement"
    at.run()
    assert said(at) == [
        "There is an estimate only for what each op costs by itself: choose Only this."
    ]


def test_a_row_of_an_operand_chooses_its_op(at: AppTest) -> None:
    choose(at, "sensitivity_grain", "operand")
    measured(press(at, "sensitivity_run"))
    rows = bars(at)
    assert {"head/input", "head/weight"} <= set(rows)
    at.sidebar.selectbox(key="layer").select("head").run()
    (line,) = (one.value for one in at.markdown if ": rank " in one.value)
    assert line.startswith(
        f"**{next(name for name in rows if name.startswith('head/'))}** (linear)"
    )


def test_a_metric_of_the_whole_corpus_works_too(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = f"{project.model.rpartition(':')[0]}:whole"
    at = visit(replace(start(project), metric=metric), monkeypatch)
    measured(press(at, "sensitivity_run"))
    assert len(bars(at)) == 5
    table = next(one.value for one in at.dataframe if "change_percent" in one.value)
    assert not table["change_percent"].isna().any()


def test_without_evaluation_samples_the_page_says_what_is_missing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = visit_without_data(project, monkeypatch)
    assert said(at) == [words.NO_DATA]
    assert "sensitivity_run" not in [button.key for button in at.button]
    assert not at.exception


def visit_without_data(project: Project, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(launch, "_start", Start(project.model, project.calibration))
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.run()
    at.switch_page(PAGE)
    deadline = time.monotonic() + 60
    while not at.run().info:
        assert time.monotonic() < deadline
    return at


def row(name: str, divergence: float, tie: int = 0) -> SensitivityRow:
    span = Interval(divergence, divergence)
    return SensitivityRow(name, "conv2d", divergence, span, 0.0, span, 0.9, 50, True, tie, tie)


def ranked(*values: float, ties: tuple[int, ...] | None = None) -> Sensitivity:
    groups = ties or tuple(range(len(values)))
    rows = tuple(row(f"op{i}", v, t) for i, (v, t) in enumerate(zip(values, groups, strict=True)))
    return Sensitivity(rows, "only_this", "both", "top1", "kl", {r.name: 1.0 for r in rows})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((4.0, 3.0, 2.0, 1.0), "The worst three of 4 ops explain 90 % of the loss."),
        (
            (6.0, 2.0, 1.0, 1.0),
            "op0 alone explains 60 % of the loss, the worst three of 4 ops 90 %.",
        ),
        ((2.0,), "There is one op, and it explains all of the loss."),
        ((0.0, 0.0), "No op changes the outputs on these samples."),
        (
            (1.0,) * 12,
            "No small set explains the loss: half of it takes 6 of 12 ops. Better ranges will "
            "help more than leaving a few in float.",
        ),
    ],
    ids=["three", "one bad op", "only one", "none", "flat"],
)
def test_the_headline_says_how_few_explain_the_loss(
    values: tuple[float, ...], expected: str
) -> None:
    assert words.headline(ranked(*values), "op") == expected


def test_a_headline_with_estimates_is_so_far() -> None:
    found = ranked(4.0, 3.0, 2.0, 1.0)
    partial = replace(found, rows=(*found.rows[:3], replace(found.rows[3], exact=False)))
    assert (
        words.headline(partial, "op")
        == "The worst three of 4 ops explain 90 % of the loss, so far."
    )
    assert words.basis_line(partial) == (
        "Loss: KL from float (nats), caused by each alone, summed over the rows. 3 of 4 are "
        "measured on 50 samples, the hollow ones estimated."
    )
    assert words.table_line(replace(partial, mode="all_but_this")) == (
        "Divergence: KL from float (nats). Metric change: top1 relative to all INT8, by this left "
        "in float. Choose a row to choose its op."
    )


def test_the_list_can_be_pasted_anywhere() -> None:
    names = ["layer1.0.conv1", "layer1.0:add/1", "odd name"]
    assert words.paste(names, "names") == "layer1.0.conv1\nlayer1.0:add/1\nodd name"
    assert words.paste(names, "cli") == (
        "--skip layer1.0.conv1 --skip layer1.0:add/1 --skip 'odd name'"
    )
    assert words.paste(names, "python") == '["layer1.0.conv1", "layer1.0:add/1", "odd name"]'


def test_a_cut_through_a_tie_is_said() -> None:
    found = ranked(5.0, 2.0, 2.0, 1.0, ties=(0, 1, 1, 2))
    assert words.cut_line(found, 1) == "They explain 50 % of the loss."
    assert words.cut_line(found, 2) == (
        "They explain 70 % of the loss. Ranks 2 to 3 are tied: these samples cannot say which of "
        "them belong in the list."
    )
    assert words.cut_line(found, 3) == "They explain 90 % of the loss."


@pytest.mark.parametrize(
    ("correlation", "meaning"),
    [
        (0.95, "the estimate alone would have given almost this order"),
        (
            0.8,
            "the estimate finds the bad ones, its order among neighbours is not to be trusted",
        ),
        (0.3, "the estimate misleads on this model: go by the measurement"),
    ],
)
def test_a_rank_correlation_is_given_its_meaning(correlation: float, meaning: str) -> None:
    assert words.spearman_line(ranked(3.0, 2.0, 1.0), correlation, 3) == (
        f"Spearman rank correlation {correlation:.2f} over 3 measured: {meaning}."
    )


def test_a_recipe_in_words() -> None:
    recipe = Recipe(calibrator="mse", overrides=(Override("conv", int8=False),))
    changed = recipe.with_range("relu", 0.0, 1.0)
    assert words.recipe_line(changed) == "mse ranges (1 otherwise), 1 left in float"
    assert words.recipe_line(replace(recipe, weight_bits=4, per_channel=False, overrides=())) == (
        "mse ranges, weights 4 bits, activations 8 bits, one scale per weight tensor"
    )


def test_progress_is_counted_in_ops_once_they_are_measured() -> None:
    step = Progress("sensitivity", 100, 400, 5.0, "conv")
    assert (
        words.progress_line(step, ranked(2.0, 1.0)) == "Measured 2 of 2, last conv, about 15 s left"
    )
    proxy = Progress("proxy", 8, 256, 1.0)
    assert words.progress_line(proxy, None) == (
        "Estimate by gradients: 8 of 256 samples, about 31 s left"
    )


def test_what_is_kept_is_counted_by_whole_and_begun() -> None:
    found = kept(("a", "b", "c"), {"a": 50, "b": 20, "z": 50}, 50)
    assert found == Kept(names=3, whole=1, begun=1)
    assert not found.complete
    assert words.before_line(found, "op", stopped=False) == (
        "1 of 3 ops were measured before, 1 more on some of the samples; Run goes on from there."
    )
    assert words.before_line(Kept(3, 0, 0), "op", stopped=False) == ""


def test_rankings_are_found_by_setting_and_recipe() -> None:
    rankings, found, setting = Rankings(), ranked(1.0), Setting()
    first, second = Recipe(), Recipe(calibrator="mse")
    job = Job("measure", lambda own: own.publish(found))
    rankings.follow(job, first, (setting,))
    job.run()
    assert rankings.of(setting, first) is found
    assert rankings.of(setting, second) is None
    assert rankings.earlier(setting, second) == (first,)
    assert rankings.parts(replace(setting, operands="weights"), first) == {"both": found}
