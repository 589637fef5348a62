"""Calibration: recipes from histograms, the best calibrator, and what is doubtful about data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qviz.affine import Grid
from qviz.calibration import (
    Calibration,
    compare_calibrators,
    data_warnings,
    make_recipe,
    range_warnings,
)
from qviz.data import as_data
from qviz.errors import RangeError, RecipeError
from qviz.evaluate import Evaluation
from qviz.histogram import collect, empty
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.recipe import Recipe, TensorRange

X = torch.tensor([[-1.0, 0.5, 0.25, 3.0]])


def calibration(*specs: str) -> Calibration:
    histograms = {"x": collect(X), "never": empty()}
    return Calibration(histograms, 1, Grid(), specs or ("max", "mse"))


def scored(values: list[float], divergence: float) -> Evaluation:
    scores = torch.tensor(values, dtype=torch.float64)
    mean = float(scores.mean())
    return Evaluation(
        metric=METRICS["top1"],
        scores=Scores("top1", mean, len(values), scores),
        reference=Scores("top1", 1.0, len(values), torch.ones(len(values))),
        change=mean - 1.0,
        interval=Interval(mean - 1.1, mean - 0.9),
        divergence=divergence,
        divergence_name="kl",
        flips=(),
        p_value=None,
    )


def test_max_takes_the_largest_magnitude_both_ways() -> None:
    recipe = make_recipe(calibration(), "max")
    assert recipe.ranges == (TensorRange("x", -3.0, 3.0, "max"),)


def test_the_unsigned_profile_keeps_both_ends() -> None:
    recipe = make_recipe(calibration(), "max", profile_name="ort-cpu")
    assert recipe.ranges == (TensorRange("x", -1.0, 3.0, "max"),)


def test_a_tensor_that_never_saw_data_has_no_range_and_no_candidates() -> None:
    found = calibration()
    assert "never" not in found.candidates
    assert "never" not in make_recipe(found, "max").range_of


def test_least_error_names_the_candidate_with_the_smallest_expected_error() -> None:
    found = calibration("max", "fixed:-100:100")
    assert found.least_error == {"x": "max"}


def test_unknown_calibrator_is_refused() -> None:
    with pytest.raises(RangeError, match="maximum"):
        make_recipe(calibration(), "maximum")


def test_unknown_profile_message() -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(calibration(), "max", profile_name="tpu")
    assert str(caught.value) == (
        "profile 'tpu': there is no such profile. Choose one of cuda, tensorrt, ort-cpu."
    )


def test_the_best_has_the_least_divergence_of_those_tied_by_the_metric() -> None:
    right, wrong = [1.0] * 100, [1.0] * 60 + [0.0] * 40
    results = {
        "max": scored([*right[:-1], 0.0], 0.5),
        "mse": scored(right, 0.9),
        "entropy": scored(wrong, 0.1),
    }
    rows = compare_calibrators(
        calibration(*results),
        lambda recipe: results[recipe.calibrator],
        lambda spec: Recipe(calibrator=spec),
    )
    by_name = {r.calibrator: r for r in rows if r.per_channel}
    assert by_name["max"].best
    assert by_name["mse"].tied
    assert not by_name["entropy"].tied
    assert not by_name["entropy"].best


def test_per_tensor_weights_stand_beside_for_comparison_and_are_never_chosen() -> None:
    rows = compare_calibrators(
        calibration("max"),
        lambda recipe: scored([1.0] * 10, 0.5 if recipe.per_channel else 0.0),
        lambda spec: Recipe(calibrator=spec),
    )
    assert [(r.calibrator, r.per_channel, r.best) for r in rows] == [
        ("max", True, True),
        ("max", False, False),
    ]


def test_evaluation_far_above_the_calibrated_range_is_named() -> None:
    assert range_warnings({"x": collect(X)}, {"x": (-1.0, 10.0)}) == [
        "tensor x: evaluation reaches -1 to 10, calibration saw only -1 to 3. "
        "Calibrate with data like the evaluation's"
    ]


def test_evaluation_a_little_outside_is_not_worth_a_warning() -> None:
    assert range_warnings({"x": collect(X)}, {"x": (-1.2, 3.9)}) == []


def test_enough_separate_data_is_not_warned_of() -> None:
    one = as_data(torch.arange(64.0).reshape(64, 1), "calibration data")
    two = as_data(torch.arange(64.0, 164.0).reshape(100, 1), "evaluation data")
    assert data_warnings(one, two) == []


def test_candidates_follow_the_grid() -> None:
    four = replace(calibration(), grid=Grid(4))
    eight = calibration()
    scale = {c.calibrator: c.scale for c in four.candidates["x"]}["max"]
    assert scale == pytest.approx(3.0 / 7)
    assert {c.calibrator: c.scale for c in eight.candidates["x"]}["max"] == pytest.approx(3.0 / 127)
