"""Tables and pictures of what was tried, read from their own data."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qviz.evaluate import Evaluation
from qviz.figures_remedies import remedies_figure
from qviz.figures_tune import brief, changes_figure, epochs_figure, steps_figure
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.tables_tune import (
    changes_table,
    comparable,
    described,
    remedies_table,
    tried,
    tried_table,
)
from qviz.tune.qat_options import Epoch
from qviz.tune.remedy import Remedies, Remedy, Verdict
from qviz.tune.step import Change
from qviz.ui.tune_words import headline

NOW = Recipe(calibrator="mse")
ROW = {
    "method": "bias_correction",
    "title": "Bias correction",
    "options": {"samples": 512, "all": True},
    "ops": ["conv1"],
    "start": Recipe().to_json(),
    "recipe": NOW.to_json(),
    "metric": "top1",
    "float": 0.8,
    "before": 0.6,
    "after": 0.72,
    "divergence_before": 0.3,
    "divergence_after": 0.1,
    "gain": 0.2,
    "interval": [0.1, 0.3],
    "changes": 3,
    "notes": ["one op left alone"],
    "seconds": 1.5,
    "seed": 7,
    "samples": {"calibration": 512, "training": 0, "evaluation": 100},
}


def test_a_row_of_the_record_becomes_a_step_with_its_drops_from_float() -> None:
    (one,) = tried([ROW])
    assert (one.verdict, one.how) == ("better", "samples 512, all yes, only conv1")
    assert (one.drop_before, one.drop) == pytest.approx((0.25, 0.1))
    assert (one.recipe, one.seed, one.notes) == (NOW, 7, ("one op left alone",))


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"interval": [-0.1, 0.3]}, "noise"),
        ({"gain": -0.2, "interval": [-0.3, -0.1]}, "worse"),
        ({"gain": None, "interval": None, "after": None}, "not measured"),
    ],
    ids=["inside the interval", "below it", "without evaluation data"],
)
def test_the_verdict_is_the_intervals(changed: dict[str, object], verdict: str) -> None:
    (one,) = tried([ROW | changed])
    assert one.verdict == verdict


def test_for_a_metric_that_should_be_low_a_higher_value_is_a_drop() -> None:
    (one,) = tried([ROW | {"float": 0.5}], higher_is_better=False)
    assert one.drop == pytest.approx(0.44)


def test_a_row_that_cannot_be_read_whole_keeps_its_numbers() -> None:
    (one,) = tried([ROW | {"recipe": "of a later version", "start": None}])
    assert (one.recipe, one.start) == (None, None)
    assert one.after == 0.72


def test_the_table_marks_the_recipe_in_use_and_gives_shares_in_per_cent() -> None:
    steps = tried([ROW, ROW | {"recipe": Recipe().to_json()}])
    table = tried_table(steps, NOW, fraction=True)
    assert table["now"].tolist() == [True, False]
    row = table.iloc[0]
    assert row[["before", "after", "gain_percent", "low_percent", "drop_percent"]].tolist() == (
        pytest.approx([60.0, 72.0, 20.0, 10.0, 10.0])
    )
    assert row[["calibration", "training", "evaluation"]].tolist() == [512, 0, 100]


def test_an_empty_record_is_a_table_with_the_same_columns() -> None:
    assert tried_table(()).dtypes.to_dict() == tried_table(tried([ROW])).dtypes.to_dict()


def test_many_sites_are_counted_and_few_are_named() -> None:
    assert described({}, ["a", "b"]) == "only a, b"
    assert described({"rate": 0.5}, list("abcd")) == "rate 0.5, only 4 sites"


def test_a_change_without_a_number_has_none_in_the_table() -> None:
    table = changes_table([Change("conv1", "range", None, 2.0, "amax", "first seen")])
    assert math.isnan(table["before"].iloc[0])
    assert table.iloc[0][["target", "after", "unit", "note"]].tolist() == [
        "conv1", 2.0, "amax", "first seen",
    ]  # fmt: skip


def test_a_step_stands_at_its_drops_with_the_interval_of_what_it_changed() -> None:
    figure = steps_figure(tried([ROW]), target=0.01, metric="top1")
    before = next(t for t in figure.data if t.name == "before")
    after = next(t for t in figure.data if t.name == "better")
    assert [*before.x, *after.x] == pytest.approx([25.0, 10.0])
    # a gain of 0.1 more or less is 0.06 of 0.8 in the metric
    assert after.error_x.array == pytest.approx([7.5])
    assert after.error_x.arrayminus == pytest.approx([7.5])
    assert list(after.customdata) == [1]


def test_steps_that_were_not_measured_are_not_drawn() -> None:
    figure = steps_figure(tried([ROW | {"after": None, "gain": None}]), target=0.01)
    assert all(not len(t.y or ()) or t.y == (None,) for t in figure.data)


def test_only_changes_with_a_number_before_and_after_are_compared() -> None:
    a, b = Change("a", "weight", 4.0, 1.0, "mse"), Change("b", "weight", 2.0, 1.9, "mse")
    bits = Change("a", "bits", 8, 4, "bits")
    nothing = replace(a, before=None)
    assert comparable([a, b, bits, nothing]) == {"mse": [a, b]}


def test_the_largest_gain_of_a_fit_stands_on_top() -> None:
    a, b = Change("a", "weight", 2.0, 1.9, "mse"), Change("b", "weight", 4.0, 1.0, "mse")
    after = next(t for t in changes_figure([a, b], "mse").data if t.name == "after")
    assert list(after.y) == ["b", "a"]
    assert list(after.x) == [1.0, 1.9]


def test_the_loss_before_training_is_on_the_held_out_line_only() -> None:
    epochs = (
        Epoch(0, 0, 0, 0.1, None, 0.5, 0.0, best=True),
        Epoch(1, 10, 100, 0.1, 0.6, 0.4, 1.0, best=True),
        Epoch(2, 20, 200, 0.1, 0.5, 0.45, 2.0, best=False),
    )
    lines = {t.name: t for t in epochs_figure(epochs).data}
    assert list(lines["training"].x) == [1, 2]
    assert list(lines["held out"].y) == [0.5, 0.4, 0.45]
    assert (list(lines["best so far"].x), list(lines["best so far"].y)) == ([1], [0.4])


def test_a_long_name_keeps_its_end_and_a_title_its_beginning() -> None:
    assert brief("features.12.block.conv.depthwise") == "…block.conv.depthwise"
    assert brief("Statistics tuning (BN re-estimation)") == "Statistics tuning (BN…"


@pytest.mark.parametrize(
    ("after", "ends", "said"),
    [
        (0.1, Interval(0.5, 0.8), "a fall of 66.7 % (95 %: 50.0 % to 80.0 %): the outputs come"),
        (0.6, Interval(-1.5, -0.5), "a rise of 100 % (95 %: 50.0 % to 150 %): the outputs move"),
        (0.29, Interval(-0.1, 0.2), "a fall of 3.33 % (95 %: -10.0 % to 20.0 %): noise."),
    ],
    ids=["fall", "rise", "inside the interval"],
)
def test_a_divergence_that_rises_is_no_negative_fall(
    after: float, ends: Interval, said: str
) -> None:
    (one,) = tried([ROW | {"divergence_after": after}])
    assert said in headline(one, METRICS["top1"], ends)


def evaluation(value: float, divergence: float) -> Evaluation:
    scores = Scores("top1", value, 100)
    change = Interval(value - 0.9, value - 0.7)
    return Evaluation(
        METRICS["top1"], scores, scores, value - 0.8, change, divergence, "kl", (), None
    )


def remedy(title: str, fall: float, verdict: Verdict) -> Remedy:
    ends = Interval(fall - 0.1, fall + 0.1)
    before, after = evaluation(0.7, 0.2), evaluation(0.72, 0.2 * (1 - fall))
    return Remedy("conv1", "ifmr", {}, title, None, NOW, before, after, 0.02, Interval(0.0, 0.04),
                  fall, ends, 0.05, verdict)  # fmt: skip


def test_a_remedy_stands_at_how_far_the_divergence_falls() -> None:
    rows = (remedy("left in float", 0.9, "yardstick"), remedy("IFMR ranges", 0.5, "helps"))
    found = Remedies(NOW, rows[0].before, ("conv1",), rows)
    figure = remedies_figure(found)
    helps = next(t for t in figure.data if t.name == "helps")
    assert list(helps.x) == [50.0]
    assert list(helps.error_x.array) == pytest.approx([10.0])
    assert list(helps.customdata) == [1]
    table = remedies_table(found)
    assert table["fall_percent"].tolist() == pytest.approx([90.0, 50.0])
    assert table["luck_percent"].tolist() == pytest.approx([5.0, 5.0])
    assert table["seconds"].isna().all()


def test_one_very_bad_remedy_does_not_press_the_others_together() -> None:
    rows = (remedy("left in float", 0.9, "yardstick"), remedy("max", -40.0, "worse"))
    figure = remedies_figure(Remedies(NOW, rows[0].before, ("conv1",), rows))
    assert figure.layout.xaxis.range[0] == pytest.approx(-157.5)
