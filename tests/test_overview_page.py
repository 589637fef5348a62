"""The overview: its numbers, its table, its picture, and the comparison of calibrators."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import Residual
from streamlit.testing.v1 import AppTest

from qviz import background
from qviz.capture import capture
from qviz.data import Batch
from qviz.opening import _OPENING
from qviz.recipe import Override, Recipe
from qviz.ui import launch, overview_data, visit
from qviz.ui.launch import MAIN, Start
from qviz.ui.overview_data import weight_bytes
from qviz.ui.workspace import Workspace


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A small network with residual add, on random images."""
    folder = tmp_path_factory.mktemp("files")
    batch = torch.export.Dim("batch", min=1)
    torch.manual_seed(0)
    example = (torch.zeros(4, 3, 8, 8),)
    with _OPENING:  # another test's server may be tracing a model of its own
        program = torch.export.export(Residual().eval(), example, dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(160, 3, 8, 8)).astype("f4")
    np.savez(folder / "few.npz", inputs=images[:32])
    np.savez(folder / "more.npz", inputs=images[32:], labels=rng.integers(0, 5, 128))
    return Start(str(folder / "net.pt2"), str(folder / "few.npz"), str(folder / "more.npz"))


@pytest.fixture(autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where runs of these tests are kept."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path_factory.getbasetemp() / "overview-runs"))
    monkeypatch.setattr(launch, "_start", Start())


def until(at: AppTest, ready: Callable[[], object]) -> AppTest:
    """Run the page until something is on it."""
    deadline = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < deadline, "it did not come"
        at.run()
        assert not at.exception
        assert not at.error
    return at


@pytest.fixture
def at(start: Start, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page with the network open."""
    monkeypatch.setattr(launch, "_start", start)
    found = AppTest.from_file(str(MAIN), default_timeout=120).run()
    found.switch_page("../../pages/overview.py").run()
    return until(found, lambda: found.metric)


def widget(at: AppTest, key: str) -> Any:  # noqa: ANN401 - of whatever kind
    return at.get_by_key(key)


def workspace(at: AppTest) -> Workspace:
    found = visit.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def cards(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def tab(at: AppTest, name: str) -> AppTest:
    at.session_state["overview_tab"] = name
    return at.run()


def test_without_a_model_one_sentence_and_one_button() -> None:
    at = AppTest.from_file(str(MAIN), default_timeout=120).run()
    at.switch_page("../../pages/overview.py").run()
    assert not at.exception
    assert [info.value for info in at.info] == ["No model is open yet."]
    assert len(at.button) == 1


def test_the_draft_is_summed_up_in_five_numbers(at: AppTest) -> None:
    assert list(cards(at)) == [
        "Ops in int8",
        "MACs in int8",
        "Float top1",
        "Draft top1",
        "Lowest SQNR",
    ]
    assert (cards(at)["Ops in int8"], cards(at)["MACs in int8"]) == ("10", "100 %")
    assert at.metric[0].delta == "of 10"


def test_the_metric_is_measured_first_on_some_samples_then_on_all(at: AppTest) -> None:
    def measured() -> bool:
        return any("Measured on all 128 evaluation samples" in c.value for c in at.caption)

    until(at, measured)
    assert cards(at)["Float top1"].endswith(" %")
    change = next(m.delta for m in at.metric if m.label == "Draft top1")
    assert change.endswith(" % relative")


def test_every_op_is_a_row_with_its_input_and_its_range(at: AppTest) -> None:
    table = at.dataframe[0].value
    row = table[table["op"] == "conv1"].iloc[0]
    recipe = workspace(at).recipe
    assert table["op"].tolist() == list(workspace(at).opened.session.graph.ops)
    assert (row["lo"], row["hi"]) == (recipe.range_of["x"].lo, recipe.range_of["x"].hi)
    assert len(row["histogram"]) == 24
    assert (row["type"], row["status"], row["shape"]) == ("conv2d", "int8", "4 × 8 × 8")


def test_an_op_left_in_float_is_float_by_choice_at_once(at: AppTest) -> None:
    mine = workspace(at)
    mine.apply(mine.recipe.skip("fc"), "fc in float")
    at.run()
    table = at.dataframe[0].value
    assert table[table["op"] == "fc"].iloc[0]["status"] == "float by choice"
    # max-pool and flatten, which passed codes on to it, have none to pass on either
    assert cards(at)["Ops in int8"] == "7"


def test_a_search_leaves_the_ops_that_fit(at: AppTest) -> None:
    widget(at, "overview_search").set_value("RELU.2").run()
    assert at.dataframe[0].value["op"].tolist() == ["relu:relu.2"]


def test_a_filter_that_nothing_fits_offers_to_show_all(at: AppTest) -> None:
    widget(at, "overview_search").set_value("no such op").run()
    assert [info.value for info in at.info] == ["No op fits the filter."]
    widget(at, "overview_reset").click().run()
    assert len(at.dataframe[0].value) == 10


def test_the_chosen_op_opens_in_ranges(at: AppTest) -> None:
    at.session_state[visit.LAYER] = "fc"
    at.run()
    widget(at, "overview_open_chosen").click().run()
    assert at.title[0].value == "Ranges"
    assert at.session_state[visit.LAYER] == "fc"


def test_the_network_is_drawn_with_every_op(at: AppTest) -> None:
    tab(at, "Network")
    (chart,) = at.get("bidi_component")
    figure = json.loads(json.loads(chart.proto.json)["figure"])
    drawn = [name for trace in figure["data"] for name in trace.get("customdata", ())]
    assert sorted(drawn) == sorted(workspace(at).opened.session.graph.ops)


def test_the_network_is_coloured_by_another_number(at: AppTest) -> None:
    tab(at, "Network")
    widget(at, "overview_colour").set_value("sqnr").run()
    (chart,) = at.get("bidi_component")
    figure = json.loads(json.loads(chart.proto.json)["figure"])
    titles = [
        t["marker"]["colorbar"]["title"]["text"] for t in figure["data"] if t["name"] == "ops"
    ]
    assert titles == ["dB"]


def test_once_sensitivity_is_measured_it_colours_the_network(at: AppTest) -> None:
    tab(at, "Network")
    assert "Run Sensitivity to colour the ops by what each one costs." in [
        c.value for c in at.caption
    ]
    mine = workspace(at)
    work = background.sensitivity(mine.opened.session, mine.recipe)
    mine.submit("sensitivity", "sensitivity", work).wait(60)
    at.run()
    widget(at, "overview_colour").set_value("sensitivity").run()
    assert widget(at, "overview_colour").value == "sensitivity"
    assert not at.exception


def test_a_network_without_evaluation_data_has_ranges_and_no_metric(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_start", replace(start, evaluation=None))
    at = AppTest.from_file(str(MAIN), default_timeout=120).run()
    at.switch_page("../../pages/overview.py").run()
    until(at, lambda: at.metric)
    assert [value for name, value in cards(at).items() if name.startswith("Draft")] == ["–"]
    assert "No evaluation data, so nothing is measured. Open the model again with some." in [
        c.value for c in at.caption
    ]
    tab(at, "Calibrators")
    assert [i.value for i in at.info] == [
        "Calibrators are compared on evaluation data, and there are none."
    ]


def test_calibrators_are_compared_and_the_best_is_taken_over(at: AppTest) -> None:
    tab(at, "Calibrators")
    mine = workspace(at)
    mine.apply(mine.opened.session.recipe("entropy").skip("fc"), "entropy ranges, fc in float")
    at.run()
    widget(at, "overview_measure").click().run()
    until(at, lambda: at.dataframe)
    table = at.dataframe[0].value
    best = table[table["best"]].iloc[0]["calibrator"]
    assert len(table) == len(mine.opened.calibration.specs) + 1
    widget(at, "overview_use").click().run()
    assert mine.recipe.calibrator == best
    assert mine.recipe.ranges == mine.opened.session.recipe(best).ranges
    assert mine.recipe.skipped == ("fc",)
    assert mine.history.undoes == f"{best} ranges everywhere"
    assert widget(at, "overview_use").disabled


def test_a_draft_is_made_once_for_all_who_look(at: AppTest) -> None:
    assert overview_data.draft(workspace(at)) is overview_data.draft(workspace(at))


def test_int8_weights_take_a_byte_each_and_a_scale_per_channel() -> None:
    graph = capture(Residual().eval(), Batch((torch.zeros(4, 3, 8, 8),), {}, None, 4))
    # 4 output channels each: conv1 108, conv2 144, conv3 144; fc 5 x 64; 17 biases
    weights, channels, biases = 108 + 144 + 144 + 320, 4 + 4 + 4 + 5, 17
    ranges = Recipe().with_range("x", -1, 1)
    for name in graph.observed:
        ranges = ranges.with_range(name, -1.0, 1.0)
    assert weight_bytes(graph, None) == 4 * (weights + biases)
    recipe = Recipe(ranges=tuple(r for r in ranges.ranges if r.tensor in graph.tensors))
    assert weight_bytes(graph, recipe) == weights + 4 * channels + 4 * biases
    assert weight_bytes(graph, recipe.skip("fc")) == (
        weights - 320 + 4 * 320 + 4 * (channels - 5) + 4 * biases
    )
    four = recipe.override(Override("kind:weight", bits=4))
    assert weight_bytes(graph, four) == weights // 2 + 4 * channels + 4 * biases
