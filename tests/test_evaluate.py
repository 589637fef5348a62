"""Evaluation: the same samples through both models, scored one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import batch, inputs, made, network, program, recipe
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import as_data
from qviz.errors import MetricError, NotFiniteError
from qviz.evaluate import Evaluation, Flip, Outputs, compare, divergence_metric, outputs
from qviz.execute import Program
from qviz.metrics import METRICS, Metric, metric
from qviz.progress import Progress
from qviz.simulate import Simulator

LABELS = torch.tensor([0, 1, 2, 0])


def predict(*classes: int, count: int = 3) -> Tensor:
    """Class scores that predict these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def evaluated(
    quantized: Tensor,
    values: Tensor,
    targets: Tensor | None = None,
    spec: str | Metric = "top1",
) -> Evaluation:
    return compare(quantized, Outputs(values, targets), metric(spec))


# change and direction


def test_change_is_relative_to_the_float_model_and_a_loss_is_a_positive_drop() -> None:
    found = evaluated(predict(0, 1, 0, 1), predict(0, 1, 2, 0), LABELS)
    assert (found.value, found.reference.value, found.change, found.drop) == (0.5, 1.0, -0.5, 0.5)


def test_a_gain_is_a_negative_drop() -> None:
    found = evaluated(predict(0, 1, 2, 0), predict(0, 1, 0, 1), LABELS)
    assert (found.change, found.drop) == (1.0, -1.0)


def test_where_lower_is_better_a_rise_is_a_positive_drop() -> None:
    def error(out: Tensor, targets: Tensor) -> Tensor:
        return (out[:, 0] - targets).abs()

    error.higher_is_better = False  # type: ignore[attr-defined]
    targets = torch.zeros(4)
    found = compare(
        torch.full((4, 1), 3.0), Outputs(torch.full((4, 1), 2.0), targets), metric(error)
    )
    assert (found.value, found.reference.value) == (3.0, 2.0)
    assert (found.change, found.drop) == (0.5, 0.5)


def test_equal_outputs_have_no_change_no_flips_and_no_divergence() -> None:
    values = torch.randn(4, 3)
    found = evaluated(values, values, LABELS)
    assert (found.change, found.drop, found.divergence, found.flips) == (0.0, 0.0, 0.0, ())
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)
    assert found.p_value == 1.0


def test_the_interval_holds_the_change_and_depends_on_nothing_but_the_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 3, generator=generator)
    quantized = values + torch.randn(60, 3, generator=generator)
    targets = values.argmax(1)
    first, again = (evaluated(quantized, values, targets) for _ in range(2))
    assert first.change in first.interval
    assert first.interval == again.interval
    assert first.interval.low < first.interval.high


def test_a_reference_of_zero_has_no_relative_change() -> None:
    found = evaluated(predict(0, 1, 2, 0), predict(1, 2, 0, 1), LABELS)
    assert math.isnan(found.change)
    assert found.value == 1.0


# flips


def test_flips_are_listed_with_both_predictions_and_the_label() -> None:
    found = evaluated(predict(0, 0, 2, 1), predict(0, 1, 1, 0), LABELS)
    assert found.flips == (Flip(1, 1, 1, 0), Flip(2, 2, 1, 2), Flip(3, 0, 0, 1))


def test_without_labels_flips_have_no_target_and_there_is_no_test() -> None:
    found = evaluated(predict(0, 0), predict(0, 1), None, "agreement")
    assert found.flips == (Flip(1, None, 1, 0),)
    assert found.p_value is None
    assert found.value == 0.5


def test_mcnemar_counts_flips_to_right_against_flips_to_wrong() -> None:
    # four flips from right to wrong, none back: 2 * (1/2)^4
    found = evaluated(predict(1, 0, 0, 1), predict(0, 1, 2, 0), LABELS)
    assert found.p_value == 0.125
    # one each way
    found = evaluated(predict(1, 1, 2, 0), predict(0, 0, 2, 0), LABELS)
    assert found.p_value == 1.0


def test_labels_in_one_column_are_labels() -> None:
    found = evaluated(predict(1, 0, 0, 1), predict(0, 1, 2, 0), LABELS[:, None])
    assert (found.p_value, found.change) == (0.125, -1.0)
    assert [f.target for f in found.flips] == LABELS.tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
def test_flips_are_the_samples_whose_prediction_differs(
    rows: list[tuple[int, int, int]],
) -> None:
    before, after, labels = zip(*rows, strict=True)
    found = evaluated(predict(*after), predict(*before), torch.tensor(labels))
    assert found.flips == tuple(
        Flip(i, label, b, a)
        for i, (b, a, label) in enumerate(zip(before, after, labels, strict=True))
        if a != b
    )
    assert found.p_value is not None
    assert 0 < found.p_value <= 1


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 5), (4,)], ids=str)
def test_models_that_do_not_classify_have_no_flips(shape: tuple[int, ...]) -> None:
    found = evaluated(torch.randn(shape), torch.randn(shape), None, "mse")
    assert (found.flips, found.p_value) == ((), None)


def test_float_targets_are_no_labels() -> None:
    found = evaluated(predict(0, 0), predict(0, 1), torch.tensor([0.5, 1.5]), "agreement")
    assert found.flips == (Flip(1, None, 1, 0),)
    assert found.p_value is None


# divergence


@pytest.mark.parametrize(
    ("shape", "name"),
    [((4, 3), "kl"), ((4, 2), "kl"), ((4, 1), "mse"), ((4,), "mse"), ((4, 3, 8, 8), "mse")],
    ids=str,
)
def test_divergence_is_kl_for_class_scores_and_squared_error_otherwise(
    shape: tuple[int, ...], name: str
) -> None:
    assert divergence_metric(torch.zeros(shape)).name == name


def test_divergence_is_the_mean_over_samples() -> None:
    values, quantized = torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])
    found = evaluated(quantized, values, None, "cosine")
    assert (found.divergence, found.divergence_name) == (5.0, "mse")


def test_a_metric_that_is_nan_for_the_float_model_is_refused() -> None:
    def undefined(out: Tensor, targets: Tensor) -> float:
        return math.nan

    with pytest.raises(NotFiniteError) as caught:
        compare(torch.zeros(2, 3), Outputs(torch.zeros(2, 3), LABELS[:2]), metric(undefined))
    assert str(caught.value) == (
        "undefined: is NaN for the float model. Check the labels and the model's outputs."
    )


# running a model


def test_outputs_are_those_of_one_large_batch() -> None:
    x = inputs("residual", 11)
    data = as_data((x[0], torch.arange(11)), "data")
    told: list[Progress] = []
    found = outputs(program("residual"), data, batch_size=4, progress=told.append)
    with torch.no_grad():
        torch.testing.assert_close(found.values, network("residual")[0](*x), rtol=1e-4, atol=1e-5)
    assert found.targets is not None
    assert found.targets.tolist() == list(range(11))
    assert [(p.done, p.total) for p in told] == [(4, 11), (8, 11), (11, 11)]


def test_data_without_labels_has_no_targets() -> None:
    data = as_data((inputs("residual", 3), None), "data")
    assert outputs(program("residual"), data, batch_size=2).targets is None


def test_a_simulated_model_diverges_the_more_the_fewer_its_bits() -> None:
    sim = Simulator(network("residual")[1])
    data = as_data((inputs("residual", 32, seed=3), None), "data")
    reference = outputs(sim.program, data, batch_size=8)
    found = []
    for bits in (8, 6, 4, 2):
        chosen = replace(recipe("residual"), weight_bits=bits, activation_bits=bits)
        quantized = outputs(sim.program, data, sim.edits(chosen), batch_size=8).values
        found.append(compare(quantized, reference, METRICS["agreement"]).divergence)
    assert found == sorted(found)
    assert found[0] > 0


class Several(nn.Module):
    """Class indices, one number for the whole batch, class scores."""

    def __init__(self, *, scores: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.scores = scores

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.fc(x)
        return (y.argmax(1), y.sum(), y) if self.scores else (y.argmax(1), y.sum())


def test_the_first_float_output_with_a_row_per_sample_is_scored() -> None:
    prog = Program(capture(made(Several(scores=True)), batch(torch.randn(2, 6))))
    data = as_data((torch.randn(3, 6), None), "data")
    assert outputs(prog, data, batch_size=2).values.shape == (3, 4)


def test_a_model_without_such_an_output_is_refused() -> None:
    prog = Program(capture(made(Several(scores=False)), batch(torch.randn(2, 6))))
    data = as_data((torch.randn(3, 6), None), "data")
    with pytest.raises(MetricError) as caught:
        outputs(prog, data, batch_size=2)
    assert str(caught.value) == (
        "Several: no output is a float tensor with one row per sample, so nothing can be scored. "
        "Wrap the model so that it returns such a tensor first."
    )
