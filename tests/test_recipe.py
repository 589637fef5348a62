"""Recipes: plain data, and what it means for a graph."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, recipe

from qviz.errors import RangeError, RecipeError
from qviz.profiles import PROFILES, profile
from qviz.recipe import FUSED, Decision, Override, Recipe, TensorRange, resolve

GRAPH = network("residual")[1]


def decide(chosen: Recipe) -> dict[str, Decision]:
    return resolve(chosen, GRAPH)


def int8(chosen: Recipe) -> set[str]:
    return {name for name, d in decide(chosen).items() if d.int8}


def message(chosen: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(chosen, GRAPH)
    return str(caught.value)


# precedence

LEVELS = ("kind:weight", "type:conv2d", "conv2", "conv2/weight")


@pytest.mark.parametrize("level", range(4), ids=LEVELS)
def test_the_narrower_target_wins_whatever_the_order(level: int) -> None:
    overrides = [Override(t, int8=i % 2 == 0, bits=4 + i) for i, t in enumerate(LEVELS)]
    chosen = recipe("residual").override(*reversed(overrides[: level + 1]))
    decision = decide(chosen)["conv2/weight"]
    assert (decision.int8, decision.bits) == (level % 2 == 0, 4 + level)


def test_the_default_holds_where_nothing_else_is_said() -> None:
    chosen = replace(recipe("residual"), weight_bits=4, activation_bits=6)
    decisions = decide(chosen)
    assert decisions["conv1/weight"] == Decision(True, 4)
    assert decisions["conv1/input"] == Decision(True, 6)


def test_an_override_of_bits_alone_leaves_int8_as_it_is() -> None:
    chosen = replace(recipe("residual"), int8=False).override(Override("conv1", bits=5))
    decision = decide(chosen)["conv1/weight"]
    assert decision == Decision(False, 5, "float by choice", by_choice=True)


def test_a_kind_covers_all_operands_of_it() -> None:
    chosen = recipe("residual").skip("kind:activation")
    assert int8(chosen) == {n for n in GRAPH.operands if n.endswith("/weight")}


# switching


def test_skip_and_unskip_cancel() -> None:
    base = recipe("residual")
    assert base.skip("conv1", "fc/input").unskip("conv1", "fc/input") == base


def test_skipping_leaves_the_whole_op_in_float() -> None:
    chosen = recipe("residual").skip("conv1")
    assert int8(recipe("residual")) - int8(chosen) == {"conv1/input", "conv1/weight"}
    assert chosen.skipped == ("conv1",)


def test_skipping_and_back_keeps_the_bits() -> None:
    base = recipe("residual").override(Override("conv1", bits=4))
    skipped = base.skip("conv1")
    assert decide(skipped)["conv1/weight"].bits == 4
    assert skipped.unskip("conv1") == base


def test_only_makes_nothing_else_int8_and_keeps_the_bits() -> None:
    base = recipe("residual").override(Override("conv2", int8=False, bits=4)).skip("fc")
    alone = base.only("conv2")
    assert int8(alone) == {"conv2/input", "conv2/weight"}
    assert decide(alone)["conv2/weight"].bits == 4


def test_only_of_one_operand_leaves_its_op_s_others_in_float() -> None:
    assert int8(recipe("residual").only("fc/weight")) == {"fc/weight"}


def test_a_hand_set_range_replaces_one_tensor_s_alone() -> None:
    base = recipe("residual")
    chosen = base.with_range("conv3", -1, 2)
    assert chosen.range_of["conv3"] == TensorRange("conv3", -1.0, 2.0, "fixed")
    assert {t for t in base.range_of if base.range_of[t] != chosen.range_of[t]} == {"conv3"}
    assert Recipe().with_range("conv3", -1, 2).ranges == (TensorRange("conv3", -1, 2, "fixed"),)


@pytest.mark.parametrize(
    ("lo", "hi", "text"),
    [(1.0, -1.0, "1 to -1"), (float("nan"), 1.0, "nan to 1"), (0.0, float("inf"), "0 to inf")],
)
def test_a_hand_set_range_must_be_one(lo: float, hi: float, text: str) -> None:
    with pytest.raises(RangeError) as caught:
        Recipe().with_range("conv3", lo, hi)
    assert str(caught.value) == (f"range of conv3: {text} is none. Give two numbers, lower first.")


# what the profile and the data say


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_of_a_residual_add_gpus_quantize_the_identity_branch_only(name: str) -> None:
    decisions = decide(recipe("residual", name))
    assert decisions["add/0"] == Decision(False, 8, FUSED)
    assert decisions["add/1"] == Decision(True, 8)


def test_on_a_cpu_both_branches_of_an_add_are_quantized() -> None:
    decisions = decide(recipe("residual", "ort-cpu"))
    assert decisions["add/0"].int8
    assert decisions["add/1"].int8


def test_a_tensor_without_a_range_never_saw_data() -> None:
    chosen = replace(recipe("residual"), ranges=())
    assert decide(chosen)["conv1/input"] == Decision(False, 8, "never saw data: no range")
    assert decide(chosen)["conv1/weight"].int8


def test_what_the_user_leaves_in_float_is_told_from_what_the_engine_does() -> None:
    chosen = replace(recipe("residual"), ranges=()).skip("add")
    assert {n: d.by_choice for n, d in decide(chosen).items() if n.startswith(("add", "fc"))} == {
        "add/0": True,
        "add/1": True,
        "fc/input": False,
        "fc/weight": False,
    }


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        profile("tpu")
    assert str(caught.value) == (
        "profile 'tpu': there is no such profile. Choose one of cuda, tensorrt, ort-cpu."
    )
    assert set(PROFILES) == {"cuda", "tensorrt", "ort-cpu"}


def test_only_ort_cpu_has_zero_points() -> None:
    symmetric = {name: p.activation_grid(8).symmetric for name, p in PROFILES.items()}
    assert symmetric == {"cuda": True, "tensorrt": True, "ort-cpu": False}


# names that are not there


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (
            Recipe().skip("conv9/weight"),
            "conv9/weight: Residual has no such op or operand. "
            "Did you mean conv3/weight or conv2/weight or conv1/weight.",
        ),
        (Recipe().skip("zzzz"), "zzzz: Residual has no such op or operand. "
         "List the names with qviz info."),
        (
            Recipe().skip("type:conv3d"),
            "type:conv3d: Residual has no such op or operand. "
            "Did you mean type:conv2d or type:add or conv3.",
        ),
        (
            Recipe().skip("pool"),
            "pool: is not quantizable: it only moves values. Leave it out of the recipe.",
        ),
        (
            Recipe().skip("relu:relu"),
            "relu:relu: is not quantizable: relu has no int8 arithmetic. "
            "Leave it out of the recipe.",
        ),
        (
            Recipe().with_range("conv33", 0, 1),
            "conv33: Residual has no such tensor. Did you mean conv3 or conv2 or conv1.",
        ),
    ],
    ids=["operand", "nothing near", "type", "pass-through", "float op", "tensor"],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_near_ones(chosen: Recipe, text: str) -> None:
    assert message(chosen) == text


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_bits_outside_2_to_8_are_refused(bits: int) -> None:
    text = f"{bits} bits: not a width from 2 to 8. Choose 2 to 8."
    assert message(Recipe(weight_bits=bits)) == text
    assert message(Recipe(activation_bits=bits)) == text
    assert message(Recipe().override(Override("conv1", bits=bits))) == text


# JSON

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
RANGES = st.builds(
    lambda t, pair, c: TensorRange(t, min(pair), max(pair), c),
    TEXTS,
    st.tuples(FLOATS, FLOATS),
    TEXTS,
)
RECIPES = st.builds(
    Recipe,
    profile=TEXTS,
    calibrator=TEXTS,
    int8=st.booleans(),
    per_channel=st.booleans(),
    weight_bits=st.integers(2, 8),
    activation_bits=st.integers(2, 8),
    ranges=st.lists(RANGES, max_size=3, unique_by=lambda r: r.tensor).map(tuple),
    overrides=st.lists(
        st.builds(
            Override,
            TEXTS,
            int8=st.none() | st.booleans(),
            bits=st.none() | st.integers(2, 8),
        ),
        max_size=3,
        unique_by=lambda o: o.target,
    ).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(RECIPES)
def test_json_and_back_is_the_same_recipe(chosen: Recipe) -> None:
    again = Recipe.from_json(chosen.to_json())
    assert again == chosen
    assert hash(again) == hash(chosen)
    assert again.to_json() == chosen.to_json()


def parsed(**changes: object) -> str:
    """What ``from_json`` says of a recipe with these fields changed."""
    text = json.dumps({**json.loads(recipe("residual").to_json()), **changes})
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(text, "my.json")
    return str(caught.value)


CURE = "Write it with recipe.to_json() or qviz run."
RANGE = {"tensor": "x", "lo": 0, "hi": 1, "calibrator": "max"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, 'not a recipe: "format" is not "qviz-recipe"'),
        ({"version": 2}, "version 2 is not 1, the one this qviz reads"),
        ({"version": None}, "version None is not 1, the one this qviz reads"),
        ({"colour": 1}, "there is no field colour"),
        ({"weight_bits": "8"}, "weight_bits is not a whole number"),
        ({"weight_bits": True}, "weight_bits is not a whole number"),
        ({"int8": 1}, "int8 is not true or false"),
        ({"profile": None}, "profile is not a text"),
        ({"ranges": None}, "ranges is not a list"),
        ({"ranges": [5]}, "ranges[0] is not an object"),
        ({"ranges": [{**RANGE, "lo": "0"}]}, "ranges[0].lo is not a number"),
        ({"ranges": [{"tensor": "x"}]}, "ranges[0].lo is missing"),
        ({"ranges": [{**RANGE, "lo": 2}]}, "the range of x is 2.0 to 1.0"),
        ({"ranges": [{**RANGE, "hi": float("nan")}]}, "the range of x is 0.0 to nan"),
        ({"ranges": [RANGE, RANGE]}, "x has more than one range"),
        ({"overrides": [{"int8": True}]}, "overrides[0].target is missing"),
        ({"overrides": [{"target": "fc", "int8": "no"}]},
         "overrides[0].int8 is not true, false or null"),
        ({"overrides": [{"target": "fc", "bits": 4.5}]},
         "overrides[0].bits is not a whole number or null"),
        ({"overrides": [{"target": "fc"}, {"target": "fc"}]}, "fc has more than one override"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_json_that_is_no_recipe_is_refused(changes: dict[str, object], reason: str) -> None:
    assert parsed(**changes) == f"my.json: {reason}. {CURE}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes in line 1"),
        ("[]", 'not a recipe: "format" is not "qviz-recipe"'),
    ],
)
def test_text_that_is_no_recipe_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(text, "my.json")
    assert str(caught.value) == f"my.json: {reason}. {CURE}"


def test_what_a_recipe_does_not_say_is_the_default() -> None:
    assert Recipe.from_json('{"format": "qviz-recipe", "version": 1}') == Recipe()
