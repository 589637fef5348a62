"""The Ranges page as a visitor uses it, on the residual sample."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from qviz.recipe import Recipe
from qviz.ui import ranges_view as views
from qviz.ui import ranges_words as words
from qviz.ui import visit as visiting
from qviz.ui.launch import MAIN
from qviz.ui.models import Opened
from qviz.ui.workspace import Workspace


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppTest]:
    """The page with the sample open; the model stays open for the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QVIZ_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield page("layer1.0.conv1")


@pytest.fixture
def at(first: AppTest) -> AppTest:
    """A visit of one's own to the op layer1.0.conv1, which reads the tensor relu."""
    assert not first.exception
    return page("layer1.0.conv1")


def page(layer: str) -> AppTest:
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    at.query_params["sample"] = "resnet"
    at.query_params["layer"] = layer
    at.run()
    at.switch_page("../../pages/ranges.py")
    deadline = time.monotonic() + 120
    while not at.run().get("bidi_component") and not at.error:
        assert time.monotonic() < deadline, "the model did not open"
        assert not at.exception
    return at


def workspace(at: AppTest) -> Workspace:
    found = visiting.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def recipe(at: AppTest) -> Recipe:
    return workspace(at).recipe


def data(at: AppTest, at_place: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(at.get("bidi_component")[at_place].proto.json)
    return found


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def test_the_histogram_has_every_candidate_and_limits_at_the_range_of_the_draft(
    at: AppTest,
) -> None:
    shown = data(at)
    names = [trace["name"] for trace in json.loads(shown["figure"])["data"]]
    assert names == [
        "values",
        "max",
        "entropy",
        "percentile:99.9",
        "percentile:99.99",
        "percentile:99.999",
        "percentile:99.9999",
        "mse",
        "sqnr",
    ]
    assert shown["limits"]["hi"] == recipe(at).range_of["relu"].hi
    assert (shown["limits"]["mirrored"], shown["limits"]["left"]) == (True, False)
    assert shown["alt"].startswith("Histogram of relu: 1,605,632 values from 0 to ")


def test_what_stands_under_the_picture_is_what_stands_in_the_table(at: AppTest) -> None:
    cost = data(at)["limits"]["cost"]
    table = at.dataframe[0].value
    (row,) = table[table["note"].str.contains("in use")].to_dict("records")
    assert cost["sqnr_db"] == row["sqnr_db"]
    assert cost["mse"] == row["mse"]
    assert 100 * cost["clipped_fraction"] == row["clipped_percent"]


def test_a_typed_limit_is_a_range_of_the_draft_and_can_be_taken_back(at: AppTest) -> None:
    before = recipe(at)
    at.number_input(key="ranges_hi_relu").set_value(2.5).run()
    found = recipe(at).range_of["relu"]
    assert (found.lo, found.hi, found.calibrator) == (-2.5, 2.5, "fixed")
    assert [trace["name"] for trace in json.loads(data(at)["figure"])["data"]][-1] == "custom"
    assert workspace(at).history.undoes == "relu: range ±2.5"
    press(at, "ranges_undo")
    assert recipe(at) == before
    assert at.number_input(key="ranges_hi_relu").value == before.range_of["relu"].hi
    press(at, "ranges_redo")
    assert recipe(at).range_of["relu"].hi == 2.5


def test_reset_goes_back_to_the_range_of_the_calibrator(at: AppTest) -> None:
    before = recipe(at)
    at.number_input(key="ranges_hi_relu").set_value(2.5).run()
    press(at, "ranges_reset")
    assert recipe(at) == before


def test_a_candidate_is_used_for_one_tensor_for_those_alike_and_for_all(at: AppTest) -> None:
    def users() -> int:
        return sum(one.calibrator == "max" for one in recipe(at).ranges)

    at.selectbox(key="ranges_calibrator").set_value("max").run()
    press(at, "ranges_use_this")
    assert (users(), recipe(at).range_of["relu"].calibrator) == (1, "max")
    press(at, "ranges_use_alike")
    graph = workspace(at).opened.session.graph
    convolutions = [op for op in graph.quantizable if op.type == "conv2d"]
    assert users() == len({o.tensor for op in convolutions for o in op.operands[:1]})
    press(at, "ranges_use_all")
    assert users() == len(graph.observed)
    assert recipe(at).calibrator == "max"


def test_what_is_float_stays_float_when_all_ranges_are_replaced(at: AppTest) -> None:
    found = workspace(at)
    found.apply(found.recipe.skip("fc"), "fc in float")
    at.run()
    press(at, "ranges_use_all")
    assert recipe(at).skipped == ("fc",)


def type_calibrator(at: AppTest, text: str) -> None:
    box = at.selectbox(key="ranges_calibrator")
    box.options.append(text)  # AppTest knows no typed option
    box.set_value(text)
    at.run()


def test_a_field_that_hands_back_the_rounded_limit_it_shows_changes_nothing(at: AppTest) -> None:
    shown = at.number_input(key="ranges_hi_relu").value
    at.number_input(key="ranges_hi_relu").set_value(float(f"{shown:.5g}")).run()
    assert workspace(at).history.undoes is None


def test_any_calibrator_can_be_typed_and_a_wrong_one_is_said(at: AppTest) -> None:
    type_calibrator(at, "percentile:99.5")
    press(at, "ranges_use_this")
    assert recipe(at).range_of["relu"].calibrator == "percentile:99.5"
    assert json.loads(data(at)["figure"])["data"][-1]["name"] == "percentile:99.5"
    before = recipe(at)
    type_calibrator(at, "percentil")
    press(at, "ranges_use_this")
    assert recipe(at) == before
    (error,) = at.error
    assert error.value.startswith("calibrator 'percentil': does not exist")


def test_the_metric_is_measured_on_the_live_samples_and_then_on_all(at: AppTest) -> None:
    at.number_input(key="ranges_hi_relu").set_value(0.25).run()
    meter = workspace(at).opened.meter
    assert meter is not None
    assert meter.wait(recipe(at), 120, full=True).full is not None
    at.run()
    said = [one.value for one in at.caption]
    assert any(text.startswith("measured on all 2,000 samples; float 92.15 %") for text in said)
    assert any(" relative to float (95 % interval " in one.value for one in at.markdown)
    at.number_input(key="ranges_hi_relu").set_value(0.26).run()
    said = [one.value for one in at.caption]
    assert any("measuring" in text or "measured on" in text for text in said)


def test_the_next_op_is_a_key_away(at: AppTest) -> None:
    press(at, "ranges_step_1")
    assert at.session_state["layer"] == "layer1.0.conv2"
    press(at, "ranges_step_-1")
    assert at.session_state["layer"] == "layer1.0.conv1"


def test_a_weight_is_shown_with_both_ways_to_scale_it(at: AppTest) -> None:
    at.segmented_control(key="ranges_operand").set_value("weight").run()
    assert not at.exception
    assert [data(at, i)["limits"] for i in (0, 1)] == [None, None]
    assert any("with one scale for all 16 channels" in one.value for one in at.markdown)


def test_shape_is_diagnosed_with_the_remedy_offered(at: AppTest) -> None:
    (info,) = at.info
    assert info.value.startswith("Entropy would cut at 0.3965 what reaches 3.955 and lose 28.6 dB")
    assert at.button(key="ranges_remedy_0").label == "mse is in use"
    at.selectbox(key="ranges_calibrator").set_value("max").run()
    press(at, "ranges_use_this")
    press(at, "ranges_remedy_0")
    assert recipe(at).range_of["relu"].calibrator == "mse"


@pytest.fixture
def opened(at: AppTest) -> Opened:
    return workspace(at).opened


def test_both_limits_can_be_dragged_where_the_engine_has_a_zero_point(opened: Opened) -> None:
    affine = opened.session.recipe("mse", profile="ort-cpu")
    operand = opened.session.graph.operands["layer1.0:add/1"]
    shown = views.view(opened, affine, operand)
    limits = views.limits(opened, shown)
    assert limits is not None
    assert not limits.mirrored
    assert views.custom(shown.histogram, 0.5, 2.0, shown.grid).range.lo == 0.0


def test_other_bits_have_candidates_of_their_own(opened: Opened, at: AppTest) -> None:
    from qviz.recipe import Override

    operand = opened.session.graph.operands["layer1.0.conv1/input"]
    coarse = recipe(at).override(Override("layer1.0.conv1/input", bits=4))
    shown = views.view(opened, coarse, operand)
    assert shown.grid.bits == 4
    assert shown.candidates != opened.calibration.candidates["relu"]
    changed = views.with_calibrator(opened, coarse, "mse", ["relu"])
    best = shown.best
    assert best is not None
    assert changed.range_of["relu"].hi == best.range.hi


def test_a_range_of_a_known_calibrator_that_is_not_its_range_is_custom(
    opened: Opened, at: AppTest
) -> None:
    operand = opened.session.graph.operands["layer1.0.conv1/input"]
    foreign = recipe(at).with_range("relu", -1.0, 1.0, "entropy")
    current = views.view(opened, foreign, operand).current
    assert current is not None
    assert current.calibrator == "fixed"


def test_a_tensor_that_never_saw_data_has_no_range_and_says_why(
    opened: Opened, at: AppTest
) -> None:
    blind = replace(opened, calibration=replace(opened.calibration, histograms={}), _memo={})
    operand = opened.session.graph.operands["layer1.0.conv1/input"]
    shown = views.view(blind, recipe(at), operand)
    assert (shown.current, shown.shown, views.limits(blind, shown)) == (None, (), None)
    assert [one.kind for one in views.findings(blind, shown)] == ["never saw data"]
    assert words.picture(shown) == (
        "Histogram of relu: 0 values. The table below lists the candidate ranges."
    )
