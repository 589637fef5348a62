"""Two variants compared: paired numbers, answers that differ, and how a sample is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qviz.data import as_data
from qviz.evaluate import Outputs, compare
from qviz.metrics import METRICS
from qviz.ui.compare_result import Comparison, Variant, compared, in_words, inputs_at, picture

LABELS = torch.tensor([0, 0, 1, 1])


def scores(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 2).float()


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Float is always right; A errs on sample 1, B on samples 1 and 2."""
    reference = Outputs(scores(0, 0, 1, 1), LABELS)
    a, b = scores(0, 1, 1, 1), scores(0, 1, 0, 1)
    top1 = METRICS["top1"]
    return compared(
        Variant("one", None),
        Variant("two", None),
        compare(a, reference, top1),
        compare(b, reference, top1),
        a,
        b,
        reference,
    )


def test_the_change_is_from_a_to_b(comparison: Comparison) -> None:
    assert comparison.of_a.value == 0.75
    assert comparison.of_b.value == 0.5
    assert comparison.change == pytest.approx(-1 / 3)
    assert comparison.change in comparison.interval
    assert comparison.p_value == 1.0  # one flip says nothing


def test_answers_differ_between_each_pair(comparison: Comparison) -> None:
    assert comparison.differing("a and b") == (2,)
    assert comparison.differing("a and float") == (1,)
    assert comparison.differing("b and float") == (1, 2)


def test_outputs_that_are_no_classes_come_by_how_far_they_are_apart() -> None:
    reference = Outputs(torch.zeros(3, 1), None)
    a, b = torch.tensor([[0.0], [1.0], [0.0]]), torch.tensor([[0.5], [1.0], [2.0]])
    mse = METRICS["mse"]
    found = compared(
        Variant("one", None),
        Variant("two", None),
        compare(a, reference, mse),
        compare(b, reference, mse),
        a,
        b,
        reference,
    )
    assert found.p_value is None
    assert found.differing("a and b") == (2, 0)


def test_inputs_are_found_by_their_place() -> None:
    data = as_data((torch.arange(100.0)[:, None], None), "evaluation data")
    found = inputs_at(data, [70, 3])
    assert {i: float(x) for i, x in found.items()} == {70: 70.0, 3: 3.0}


def test_a_picture_is_stretched_from_black_to_white_and_enlarged() -> None:
    x = torch.linspace(-2.0, 3.0, 64).reshape(1, 8, 8)
    pixels = picture(x)
    assert pixels is not None
    assert pixels.shape == (112, 112)
    assert pixels.dtype == np.uint8
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_colours_stay_and_an_even_picture_is_black() -> None:
    pixels = picture(torch.ones(3, 200, 100))
    assert pixels is not None
    assert pixels.shape == (200, 100, 3)
    assert pixels.max() == 0


@pytest.mark.parametrize("shape", [(5,), (4, 32, 32), (1, 4, 4), (2, 3, 8, 8)])
def test_what_is_no_picture_is_told_in_words(shape: tuple[int, ...]) -> None:
    assert picture(torch.zeros(shape)) is None


def test_values_are_shown_with_their_shape() -> None:
    assert in_words(torch.tensor([101, 7])) == "2: 101, 7"
    assert in_words(torch.full((4, 5), 0.5), most=2) == "4 × 5: 0.5, 0.5, …"
