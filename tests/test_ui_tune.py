"""The page Win back as a visitor uses it: run, see before and after, use, undo, keep, look back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from allocation_kit import W4, bench, losses
from networks import Residual, made
from page_kit import idle, shows, wait, workspace
from streamlit.testing.v1 import AppTest

from qviz.errors import Cancelled
from qviz.int8.timing_file import write_benches
from qviz.jobs import Job, Snapshot
from qviz.opening import _OPENING
from qviz.search.allocation_json import frontier_to
from qviz.search.allocation_problem import Problem
from qviz.search.frontier import frontier
from qviz.search.layers import layers_of
from qviz.search.widths import BASE, CostKind
from qviz.tune.result import Tuning
from qviz.ui import launch
from qviz.ui.export_words import plain
from qviz.ui.launch import MAIN, Start
from qviz.ui.tune_bits import Allocated
from qviz.ui.tune_frontier import Chosen
from qviz.ui.tune_words import OTHER_ALLOCATION


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with a residual add, and random images."""
    folder = tmp_path_factory.mktemp("files")
    batch = torch.export.Dim("batch", min=1)
    with _OPENING:  # another test's server may be tracing a model of its own
        program = torch.export.export(
            made(Residual()), (torch.zeros(4, 3, 8, 8),), dynamic_shapes=({0: batch},)
        )
    torch.export.save(program, folder / "net.pt2")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(192, 3, 8, 8)).astype("f4")
    labels = rng.integers(0, 5, 192)
    np.savez(folder / "few.npz", inputs=images[:32])
    np.savez(folder / "more.npz", inputs=images[32:160], labels=labels[32:160])
    np.savez(folder / "train.npz", inputs=images[160:], labels=labels[160:])
    return folder


@pytest.fixture(autouse=True)
def _runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where runs of these tests are kept; the model stays open from one to the next."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path_factory.getbasetemp() / "tune-runs"))
    monkeypatch.setattr(launch, "_start", Start())


def start(files: Path, **more: str) -> Start:
    given = {"evaluation": str(files / "more.npz")} | more
    return Start(str(files / "net.pt2"), str(files / "few.npz"), **given)


def opened(begin: Start, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(launch, "_start", begin)
    at = AppTest.from_file(str(MAIN), default_timeout=120).run()
    at.switch_page("../../pages/tune.py").run()
    return wait(at, lambda: shows(at, "tune_run_bias_correction"))


@pytest.fixture
def at(files: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page with the network open, nothing running."""
    return idle(opened(start(files), monkeypatch))


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    return idle(at)


def tab(at: AppTest, name: str) -> AppTest:
    at.session_state["tune_tab"] = name
    return at.run()


def said(at: AppTest) -> str:
    boxes = [*at.success, *at.info, *at.warning, *at.error, *at.caption, *at.markdown]
    return "\n".join(box.value for box in boxes)


def test_every_method_says_where_it_applies_and_only_those_can_be_run(at: AppTest) -> None:
    assert "Applies to 4 sites · Nagel et al. 2019, Data-Free Quantization" in said(at)
    assert not at.button(key="tune_run_bias_correction").disabled
    assert at.button(key="tune_run_gelu_clip").disabled
    assert "Nothing here that it could change · Wu et al. 2020, GELU10" in said(at)


def test_a_result_stands_beside_what_was_before_and_is_used_and_taken_back(at: AppTest) -> None:
    before = workspace(at).recipe
    press(at, "tune_run_bias_correction")
    made = workspace(at).jobs["tune"].snapshot().result
    assert isinstance(made, Tuning)
    assert workspace(at).recipe == before
    assert "**Bias correction**: top1 " in said(at)
    assert "measured on 128 evaluation samples" in said(at)
    press(at, "tune_last_use")
    assert workspace(at).recipe == made.recipe
    assert workspace(at).recipe.weights
    assert at.button(key="tune_last_use").disabled
    press(at, "tune_undo")
    assert workspace(at).recipe == before


def test_a_gain_inside_the_interval_is_called_noise(at: AppTest) -> None:
    press(at, "tune_run_ifmr")
    made = workspace(at).jobs["tune"].snapshot().result
    assert made.noise
    (line,) = [box.value for box in at.info if "IFMR" in box.value]
    assert "inside the interval: noise" in line


def test_options_are_read_and_checked_by_the_method(at: AppTest) -> None:
    at.session_state["tune_options_bias_tuning"] = True
    at.run()
    at.number_input(key="tune_bias_tuning_epochs").set_value(1).run()
    press(at, "tune_run_bias_tuning")
    assert workspace(at).jobs["tune"].snapshot().result.options["epochs"] == 1


def test_a_result_is_kept_as_a_variant(at: AppTest) -> None:
    press(at, "tune_run_bias_correction")
    press(at, "tune_last_keep")
    assert "it has no name. Type one." in said(at)
    at.text_input(key="tune_last_name").set_value("corrected").run()
    press(at, "tune_last_keep")
    made = workspace(at).jobs["tune"].snapshot().result
    assert workspace(at).variants["corrected"] == made.recipe
    assert "Kept as variant corrected" in said(at)


def test_everything_tried_is_listed_and_can_be_used_again(at: AppTest) -> None:
    press(at, "tune_run_bias_correction")
    tab(at, "Tried")
    rows = workspace(at).opened.session.tunings()
    table = at.dataframe[0].value
    assert table["step"].tolist() == list(range(len(rows), 0, -1))
    assert table["title"].iloc[0] == "Bias correction"
    at.session_state["tune_tried"] = len(rows)
    at.run()
    press(at, "tune_old_use")
    assert workspace(at).recipe.to_json() == rows[-1]["recipe"]


def test_tuned_weights_are_seen_on_the_other_pages(at: AppTest) -> None:
    press(at, "tune_run_bias_correction")
    press(at, "tune_last_use")
    for page in ("overview", "ranges", "sensitivity", "plan", "export"):
        at.switch_page(f"../../pages/{page}.py").run()
        idle(at)
        assert not at.exception, page
        assert not at.error, page
    press(at, "export_start")
    assert "Parity passed" in said(at)
    at.switch_page("../../pages/ranges.py").run()
    at.session_state["ranges_operand"] = "weight"
    at.run()
    assert "The draft has tuned weights; this one is the model's own." in said(at)


def test_without_evaluation_data_methods_run_and_nothing_is_claimed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Start(str(files / "net.pt2"), str(files / "few.npz"), run=str(tmp_path / "run"))
    at = idle(opened(begin, monkeypatch))
    assert "There are no evaluation data" in said(at)
    press(at, "tune_run_bias_correction")
    assert "Not measured: there are no evaluation data." in said(at)
    assert not at.exception
    tab(at, "Guided")
    assert not at.exception


def test_a_cancelled_method_leaves_the_draft_as_it_was(at: AppTest) -> None:
    before = workspace(at).recipe
    at.session_state["tune_options_bias_tuning"] = True
    at.run()
    at.number_input(key="tune_bias_tuning_epochs").set_value(100_000)
    at.number_input(key="tune_bias_tuning_patience").set_value(100_000).run()
    at.button(key="tune_run_bias_tuning").click().run()
    job = workspace(at).jobs["tune"]
    job.cancel()
    idle(at)
    assert "Bias tuning: cancelled." in said(at)
    assert workspace(at).recipe == before
    at.number_input(key="tune_bias_tuning_epochs").set_value(1).run()


def test_remedies_come_op_by_op_and_one_of_them_is_used(at: AppTest) -> None:
    tab(at, "Op by op")
    at.multiselect(key="tune_sites").set_value(["conv2"]).run()
    press(at, "tune_remedies")
    found = workspace(at).jobs["remedies"].snapshot().result
    assert found.complete
    table = at.dataframe[0].value
    assert table["remedy"].tolist() == [row.title for row in found.rows]
    at.session_state["tune_remedy"] = 0
    at.run()
    press(at, "tune_remedy_use")
    assert workspace(at).recipe == found.rows[0].recipe


def test_one_width_for_all_is_a_step_of_the_draft(at: AppTest) -> None:
    tab(at, "Bit widths")
    at.selectbox(key="tune_uniform_w").set_value(4).run()
    press(at, "tune_uniform")
    assert workspace(at).history.undoes == "W4A8 everywhere, first and last at 8"
    assert workspace(at).recipe.weight_bits == 4
    weights = next(m for m in at.metric if m.label == "Weights")
    assert weights.value


def allocated(at: AppTest) -> Allocated:
    """What Allocate finds between 8 and 4 bits."""
    pytest.importorskip("scipy")
    tab(at, "Bit widths")
    at.multiselect(key="tune_bits_offered").set_value([4]).run()
    press(at, "tune_allocate")
    job = workspace(at).jobs["allocate"]
    assert job.snapshot().state == "done", job.snapshot().error
    found = job.snapshot().result
    assert isinstance(found, Allocated)
    return found


def test_an_allocation_is_used_where_the_slider_stands(at: AppTest) -> None:
    found = allocated(at)
    slider = at.slider(key="tune_limit")
    slider.set_value(slider.min).run()
    tightest = found.frontier.points[0].allocation
    assert f"**{tightest.summary}**" in said(at)
    loss = at.select_slider(key="tune_limit_loss")
    stood = loss.value
    assert isinstance(stood, float)
    assert stood >= 0.99 * tightest.loss
    loss.set_value(found.problem.base().loss).run()  # nothing may be lost: 8 bits everywhere
    assert at.slider(key="tune_limit").value == at.slider(key="tune_limit").max
    assert f"**{found.problem.base().summary}**" in said(at)
    at.slider(key="tune_limit").set_value(slider.min).run()
    assert at.select_slider(key="tune_limit_loss").value == stood
    press(at, "tune_allocated_use")
    assert workspace(at).history.undoes == f"allocation {tightest.summary}"


def test_a_pipeline_says_of_which_allocation_it_is(at: AppTest) -> None:
    found = allocated(at)
    slider = at.slider(key="tune_limit")
    slider.set_value(slider.min).run()
    tightest = found.frontier.points[0].allocation
    press(at, "tune_pipeline_light")
    assert f"**Light pipeline** within the size of {tightest.summary}, stage by stage:" in said(at)
    assert OTHER_ALLOCATION not in said(at)
    stages = workspace(at).jobs["pipeline"].snapshot().result.stages
    assert [result.stage.title for result in stages if plain(result.stage.title) in said(at)]
    # another tab of the same address chooses another one
    workspace(at).memo("tune_chosen", Chosen).allocation = found.problem.base()
    at.run()
    assert at.slider(key="tune_limit").value == at.slider(key="tune_limit").max
    assert OTHER_ALLOCATION in said(at)
    press(at, "tune_piped_use")
    assert str(workspace(at).history.undoes).startswith("Light pipeline, ")


def test_a_run_that_ends_with_nothing_leaves_the_result_before_it_standing(at: AppTest) -> None:
    own = workspace(at)

    def usable(shown: Snapshot) -> bool:
        return bool(shown.result or shown.partial)

    def stopped(job: Job) -> None:
        raise Cancelled

    def stopped_later(job: Job) -> None:
        job.publish("a part")
        raise Cancelled

    empty = own.submit("kind", "empty", lambda job: None)
    idle(at)
    assert own.standing("kind", usable) is empty  # it is done: nothing is what it found
    first = own.submit("kind", "first", lambda job: "all")
    idle(at)
    own.submit("kind", "second", stopped)
    idle(at)
    assert own.standing("kind", usable) is first
    third = own.submit("kind", "third", stopped_later)
    idle(at)
    assert own.standing("kind", usable) is third


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("bytes", "Size of all parameters at most (MB)"),
        ("latency", "Time of the layers at most (ms)"),
    ],
)
def test_a_frontier_that_a_command_line_left_is_shown_whatever_it_limits(
    at: AppTest, kind: CostKind, title: str
) -> None:
    pytest.importorskip("scipy")
    times = {name: {BASE: 2e-3, W4: 1e-3} for name in ("conv1", "conv2")}
    problem = Problem.of(losses({name: {W4: 0.1} for name in times}), times=times)
    run = workspace(at).opened.session.run
    assert run is not None
    run.write_json("frontier", frontier_to(frontier(problem, kind)))
    tab(at, "Bit widths")
    assert not at.exception
    (picture,) = at.get("bidi_component")
    assert f"kl from float against {title}: " in str(picture.proto)
    assert "An earlier frontier of this folder." in said(at)


def test_a_limit_on_time_takes_folders_that_were_timed(at: AppTest, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    tab(at, "Bit widths")
    at.multiselect(key="tune_bits_offered").set_value([4]).run()
    at.selectbox(key="tune_bits_kind").set_value("Measured time").run()
    press(at, "tune_allocate")
    assert plain("times at W8A8: are not given. Add a line W8A8=FOLDER.") in said(at)
    at.text_area(key="tune_times").set_value("here").run()
    press(at, "tune_allocate")
    assert plain("line 'here': is not a width and a folder. Write W4A8=FOLDER.") in said(at)
    at.text_area(key="tune_times").set_value("W8A8=~nobody-of-that-name/x").run()
    press(at, "tune_allocate")
    assert plain("folder ~nobody-of-that-name/x: has no such home. Write it in full.") in said(at)
    session = workspace(at).opened.session
    layers = layers_of(session.graph_of(workspace(at).recipe), workspace(at).recipe)
    ops = [op for layer in layers for op in layer.ops]
    for width, micros in (("W8A8", 2.0), ("W4A4", 1.0)):
        (tmp_path / width).mkdir()
        write_benches(tmp_path / width, [bench(1, **dict.fromkeys(ops, micros))])
    at.text_area(key="tune_times").set_value(f"W8A8={tmp_path}/W8A8\nW4A4={tmp_path}/W4A4").run()
    press(at, "tune_allocate")
    shown = workspace(at).jobs["allocate"].snapshot()
    assert shown.state == "done", shown.error
    assert shown.result.frontier.kind == "latency"
    slider = at.slider(key="tune_limit")
    assert slider.label == "Time of the layers at most (ms)"
    assert slider.max == pytest.approx(3e-3 * len(ops))  # and 1 us each around the kernel


def test_training_says_what_it_needs(at: AppTest) -> None:
    tab(at, "Training")
    assert "there are no training data" in said(at)
    assert "tune_train" not in [button.key for button in at.button]


def test_training_shows_the_loss_of_each_epoch_and_its_result(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = idle(opened(start(files, train=str(files / "train.npz")), monkeypatch))
    tab(at, "Training")
    at.number_input(key="tune_qat_schedule_epochs").set_value(20.0).run()
    press(at, "tune_train")
    job = workspace(at).jobs["qat"]
    assert job.snapshot().state == "done", job.snapshot().error
    assert [e.number for e in job.snapshot().partial] == [0, 1, 2]
    assert "trained on at most 32 training samples" in said(at)
    assert f"**{plain('Quantization-aware training (QAT)')}**: top1" in said(at)


def test_an_escalation_lists_its_steps_and_gives_its_best(at: AppTest) -> None:
    tab(at, "Guided")
    press(at, "tune_auto")
    job = workspace(at).jobs["auto"]
    assert job.snapshot().state == "done", job.snapshot().error
    found = job.snapshot().result
    assert plain(found.best.sentence) in said(at)
    press(at, "tune_best_use")
    assert workspace(at).recipe == found.recipe


def test_without_a_model_one_sentence_and_one_button() -> None:
    at = AppTest.from_file(str(MAIN), default_timeout=120).run()
    at.switch_page("../../pages/tune.py").run()
    assert not at.exception
    assert [info.value for info in at.info] == ["No model is open yet."]
    assert len(at.button) == 1
