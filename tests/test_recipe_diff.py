"""What one recipe decides otherwise than another, in words."""

from __future__ import annotations

from dataclasses import replace

from qviz.recipe import Override, Recipe, TensorRange
from qviz.recipe_diff import Difference, differences, sentence

BASE = Recipe(
    calibrator="mse",
    ranges=(TensorRange("x", -2.0, 2.0, "mse"), TensorRange("relu", -4.1, 4.1, "mse")),
)


def texts(recipe: Recipe, base: Recipe = BASE) -> list[str]:
    return [one.text for one in differences(recipe, base)]


def test_a_recipe_does_not_differ_from_itself() -> None:
    assert differences(BASE, BASE) == ()


def test_a_range_drawn_by_hand_is_said_with_the_one_it_replaces() -> None:
    assert differences(BASE.with_range("relu", -3.2, 3.2), BASE) == (
        Difference(
            kind="range",
            target="relu",
            now="±3.2 (drawn by hand)",
            before="±4.1",
            text="range of relu: ±3.2 (drawn by hand) instead of ±4.1",
        ),
    )


def test_a_range_of_another_calibrator_names_it() -> None:
    assert texts(BASE.with_range("relu", -1.0, 3.2, "entropy")) == [
        "range of relu: -1 to 3.2 (entropy) instead of ±4.1"
    ]


def test_ranges_that_differ_late_are_said_with_more_digits() -> None:
    assert texts(BASE.with_range("relu", -4.10001, 4.10001, "mse")) == [
        "range of relu: ±4.10001 instead of ±4.1"
    ]


def test_a_range_that_only_one_of_them_has_is_said() -> None:
    fewer = replace(BASE, ranges=BASE.ranges[:1])
    assert texts(fewer) == ["range of relu: none instead of ±4.1"]
    assert texts(BASE, fewer) == ["range of relu: ±4.1 instead of none"]


def test_another_calibrator_is_one_difference_however_many_ranges_it_moves() -> None:
    moved = (TensorRange("x", -3.0, 3.0, "max"), TensorRange("relu", -9.0, 9.0, "max"))
    assert texts(BASE, replace(BASE, calibrator="max", ranges=moved)) == [
        "calibrator: mse instead of max"
    ]


def test_a_hand_drawn_range_is_said_beside_another_calibrator() -> None:
    moved = (TensorRange("x", -3.0, 3.0, "max"), TensorRange("relu", -9.0, 9.0, "max"))
    assert texts(
        BASE.with_range("x", -1.0, 1.0), replace(BASE, calibrator="max", ranges=moved)
    ) == [
        "calibrator: mse instead of max",
        "range of x: ±1 (drawn by hand) instead of ±3",
    ]


def test_ops_left_in_float_are_said_one_by_one() -> None:
    assert texts(BASE.skip("fc", "type:conv2d")) == [
        "fc left in float",
        "all conv2d ops left in float",
    ]


def test_an_op_that_only_the_other_leaves_in_float_is_int8_like_the_rest() -> None:
    assert texts(BASE, BASE.skip("fc")) == ["fc: int8 like the rest instead of float"]


def test_an_exception_from_a_wider_one_is_said() -> None:
    recipe = BASE.override(Override("kind:activation", int8=False), Override("fc/0", int8=True))
    assert texts(recipe) == [
        "all activations left in float",
        "fc/0: int8 instead of int8 like the rest",
    ]


def test_bits_are_said_for_the_whole_and_for_one_op() -> None:
    recipe = replace(BASE, weight_bits=4).override(Override("fc/weight", bits=6))
    assert texts(recipe) == [
        "weights: 4 bit instead of 8 bit",
        "fc/weight: 6 bit instead of the default bits",
    ]


def test_profile_scales_and_the_default_are_said() -> None:
    assert texts(replace(BASE, profile="ort-cpu", per_channel=False, int8=False)) == [
        "profile: ort-cpu instead of cuda",
        "weights: one scale per tensor instead of one scale per output channel",
        "what is not named: float instead of int8",
    ]


def test_the_number_of_differences_is_a_sentence() -> None:
    found = differences(BASE.skip("fc"), BASE)
    assert sentence(found, "all int8") == "1 difference from all int8."
    assert sentence((*found, *found), "all int8") == "2 differences from all int8."
    assert sentence((), "all int8") == "The same as all int8."
