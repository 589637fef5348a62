"""What a format can express, and the nearest recipe that it can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from networks import network, recipe

from qviz.errors import FormatError
from qviz.export.limits import SYMMETRIC_INT8, Change, Limits, nearest
from qviz.graph import Graph
from qviz.recipe import Override, Recipe, resolve

GRAPH = network("residual")[1]
RECIPE = recipe("residual")


def changes(chosen: Recipe, limits: Limits) -> list[str]:
    return [str(change) for change in nearest(GRAPH, chosen, limits).changes]


def test_a_recipe_within_the_limits_stays_as_it_is() -> None:
    found = nearest(GRAPH, RECIPE, SYMMETRIC_INT8)
    assert found.recipe is RECIPE
    assert found.changes == ()


def test_a_format_without_limits_takes_everything() -> None:
    chosen = recipe("residual", "ort-cpu").override(Override("fc", bits=4))
    assert nearest(GRAPH, chosen, None).recipe is chosen


def test_zero_points_become_symmetric_with_the_same_limits() -> None:
    chosen = recipe("residual", "ort-cpu")
    found = nearest(GRAPH, chosen, SYMMETRIC_INT8)
    assert found.recipe == replace(chosen, profile="tensorrt")
    (change,) = found.changes
    assert change.ops == tuple(op.name for op in GRAPH.quantizable)
    assert change.reason == "activations have zero points"


def test_other_widths_become_8_bits_on_the_operands_that_have_them() -> None:
    chosen = RECIPE.override(Override("fc/weight", bits=4), Override("conv1", bits=6))
    found = nearest(GRAPH, chosen, SYMMETRIC_INT8)
    decisions = resolve(found.recipe, GRAPH)
    assert {d.bits for d in decisions.values() if d.int8} == {8}
    assert changes(chosen, SYMMETRIC_INT8) == ["4 and 6 bits (conv1, fc) → 8 bits"]


def test_a_type_that_the_format_lacks_stays_float() -> None:
    limits = Limits(types=("linear",))
    found = nearest(GRAPH, RECIPE, limits)
    decisions = resolve(found.recipe, GRAPH)
    assert {name for name, d in decisions.items() if d.int8} == {"fc/input", "fc/weight"}
    assert [c.becomes for c in found.changes] == ["float"]


def test_an_op_that_is_int8_in_part_stays_float_where_only_whole_ops_can_be_said() -> None:
    chosen = RECIPE.skip("conv1/weight")
    found = nearest(GRAPH, chosen, Limits(whole=True))
    decisions = resolve(found.recipe, GRAPH)
    assert not decisions["conv1/input"].int8
    assert decisions["fc/input"].int8
    assert changes(chosen, Limits(whole=True)) == ["int8 in some operands only (conv1) → float"]


def test_an_operand_chosen_by_name_stays_float_with_its_op() -> None:
    chosen = RECIPE.override(Override("conv1/input", int8=True))
    found = nearest(GRAPH, chosen, Limits(types=("linear",)))
    assert not resolve(found.recipe, GRAPH)["conv1/input"].int8


def test_each_rule_of_a_format_is_asked_after_the_one_before_was_obeyed() -> None:
    asked = []

    def rule(_: Graph, chosen: Recipe) -> dict[str, tuple[str, ...]]:
        asked.append(chosen.skipped)
        return {"no room": ("fc",)} if "fc" not in chosen.skipped else {}

    assert changes(RECIPE, Limits(rules=(rule, rule))) == ["no room (fc) → float"]
    assert asked == [(), ("fc",)]


def test_one_scale_per_weight_becomes_one_per_channel() -> None:
    chosen = replace(RECIPE, per_channel=False)
    found = nearest(GRAPH, chosen, Limits(per_channel=True))
    assert found.recipe == RECIPE


def test_the_nearest_recipe_needs_no_further_change() -> None:
    limits = Limits(True, (8,), ("linear", "conv2d"), whole=True, per_channel=True)
    chosen = replace(
        recipe("residual", "ort-cpu").override(Override("kind:weight", bits=4)).skip("fc/input"),
        per_channel=False,
    )
    found = nearest(GRAPH, chosen, limits)
    assert len(found.changes) == 5
    assert nearest(GRAPH, found.recipe, limits).changes == ()


def test_a_refusal_names_the_ops_and_the_way_out() -> None:
    chosen = RECIPE.override(Override("fc/weight", bits=4))
    with pytest.raises(FormatError) as caught:
        nearest(GRAPH, chosen, SYMMETRIC_INT8).check("TensorRT")
    assert str(caught.value) == (
        "TensorRT: cannot express the recipe: 4 bits (fc) → 8 bits. Export the nearest recipe that "
        "it can express, measured anew, with --nearest (nearest_recipe=True)."
    )


def test_of_many_ops_three_are_named() -> None:
    change = Change(("a", "b", "c", "d", "e"), "4 bits", "8 bits")
    assert str(change) == "4 bits (a, b, c and 2 more) → 8 bits"


def test_tuned_weights_become_the_models_own_where_the_format_goes_with_those() -> None:
    found = nearest(GRAPH, replace(RECIPE, weights="ab12"), Limits(own_weights=True))
    assert found.recipe.weights == ""
    assert [str(c) for c in found.changes] == ["the weights were tuned → the model's own weights"]
