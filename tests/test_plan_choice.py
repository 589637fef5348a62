"""What is left in float as a set: to a recipe and back, presets, patterns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.errors import RecipeError
from qviz.estimate import Anchor
from qviz.graph import Graph
from qviz.intervals import Interval
from qviz.recipe import Override, Recipe, TensorRange
from qviz.ui.plan_choice import (
    Choice,
    all_int8,
    difference,
    first_and_last,
    matching,
    of_type,
    to_target,
    worst_first,
)


class Blocks(nn.Module):
    """conv, two linears and an add; 4 channels of 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.fc1 = nn.Linear(16, 16, bias=False)
        self.fc2 = nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).flatten(1)
        made: torch.Tensor = self.fc2(self.fc1(y).relu()) + y
        return made


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Blocks(), Batch((torch.zeros(2, 4, 2, 2),), {}, None, 2))


@pytest.fixture(scope="module")
def recipe(graph: Graph) -> Recipe:
    return Recipe(ranges=tuple(TensorRange(n, -1.0, 1.0, "max") for n in graph.observed))


@pytest.fixture
def choice(graph: Graph, recipe: Recipe) -> Choice:
    return Choice.of(recipe, graph)


def test_nothing_is_left_in_float_at_first(choice: Choice) -> None:
    assert choice.left == frozenset()
    assert choice.recipe == choice.base


@pytest.mark.parametrize(
    "skipped", [("conv",), ("fc1/input",), ("conv", "fc2/weight"), ("type:linear",)]
)
def test_a_recipe_and_its_choice_leave_the_same_in_float(
    graph: Graph, recipe: Recipe, skipped: tuple[str, ...]
) -> None:
    choice = Choice.of(recipe.skip(*skipped), graph)
    assert Choice.of(choice.recipe, graph).left == choice.left
    assert choice.left


def test_the_same_set_is_the_same_recipe_in_whatever_order_it_was_ticked(
    graph: Graph, recipe: Recipe
) -> None:
    one = Choice.of(recipe.skip("fc1", "conv"), graph).recipe
    other = Choice.of(recipe.skip("conv").skip("fc1/input", "fc1/weight"), graph).recipe
    assert one == other
    assert one.skipped == ("conv", "fc1")


def test_an_op_with_one_operand_in_float_runs_in_float(choice: Choice) -> None:
    half = choice.with_left(["fc1/input"])
    assert half.targets == ("fc1/input",)
    assert half.ops == ("fc1",)
    assert half.float_macs == pytest.approx(256 / (256 + 256 + 64))


def test_bits_survive_and_skips_do_not(recipe: Recipe) -> None:
    low = recipe.override(Override("fc1", bits=4)).skip("fc1", "conv")
    assert all_int8(low).overrides == (Override("fc1", bits=4),)


def test_an_operand_that_no_range_allows_cannot_be_chosen(graph: Graph, recipe: Recipe) -> None:
    unseen = Recipe(ranges=tuple(r for r in recipe.ranges if r.tensor != "x"))
    assert Choice.of(unseen, graph).operands["conv"] == ("conv/weight",)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((), ("fc1/input", "fc1/weight"), "fc1 to float"),
        (("fc1/input",), (), "fc1/input to int8"),
        ((), ("fc1/input", "fc1/weight", "conv/input", "conv/weight"), "2 ops to float"),
        (("fc1/input",), ("conv/input",), "conv/input to float, fc1/input to int8"),
    ],
)
def test_a_change_is_told_in_words(
    choice: Choice, before: tuple[str, ...], after: tuple[str, ...], words: str
) -> None:
    assert difference(frozenset(before), frozenset(after), choice) == words


def test_presets_find_types_and_ends(choice: Choice) -> None:
    assert of_type(choice, "linear") == ("fc1", "fc2")
    assert first_and_last(choice) == ("conv", "fc2")


@pytest.mark.parametrize(
    ("pattern", "regex", "found"),
    [
        ("fc", False, ("fc1", "fc2")),
        ("fc?", False, ("fc1", "fc2")),
        ("*1", False, ("fc1",)),
        ("^fc[12]$", True, ("fc1", "fc2")),
        ("nothing", False, ()),
        ("", False, ()),
    ],
)
def test_names_fit_a_part_a_glob_or_an_expression(
    choice: Choice, pattern: str, regex: bool, found: tuple[str, ...]
) -> None:
    assert matching(choice, pattern, regex=regex) == found


def test_a_wrong_expression_is_said(choice: Choice) -> None:
    with pytest.raises(RecipeError, match="is not a regular expression"):
        matching(choice, "fc[", regex=True)


def test_the_fewest_of_the_worst_meet_the_target(choice: Choice) -> None:
    divergence = {"conv": 0.6, "fc1": 0.3, "fc2": 0.05, "add": 0.05}
    assert worst_first(choice, divergence)[:2] == ("conv", "fc1")
    anchor = Anchor(0.1, Interval(0.05, 0.15), 1.0)  # 10 % drop per unit
    assert to_target(choice, divergence, anchor, 0.05) == ("conv",)
    assert to_target(choice, divergence, anchor, 0.2) == ()
    assert to_target(choice, divergence, Anchor(0.1, Interval(0, 1), 0.0), 0.05) is None
