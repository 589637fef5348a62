"""Metrics and how sure they are: hand-computed values, exact where exact is possible."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from qviz.errors import MetricError, NotFiniteError, QvizError
from qviz.metrics import (
    METRICS,
    SQNR_LIMIT,
    Interval,
    Metric,
    Scores,
    drop,
    mcnemar,
    metric,
    paired_bootstrap,
    relative_change,
    resampled,
    score,
    tie_groups,
)

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0], [9.0, 1.0, 2.0]])
LABELS = torch.tensor([0, 1, 1, 2])


def per_sample(name: str, *args: Tensor | None) -> list[float]:
    values = score(name, *args).per_sample  # type: ignore[arg-type]
    assert values is not None
    assert values.dtype == torch.float64
    return values.tolist()


# ---- built-in metrics ----


def test_top1_is_one_where_the_highest_score_is_the_label() -> None:
    assert per_sample("top1", LOGITS, LABELS) == [1.0, 1.0, 0.0, 0.0]
    assert score("top1", LOGITS, LABELS).value == 0.5


def test_top5_counts_the_five_highest() -> None:
    logits = torch.arange(7.0).expand(3, 7)
    assert per_sample("top5", logits, torch.tensor([1, 2, 6])) == [0.0, 1.0, 1.0]


def test_labels_may_have_an_axis_of_length_one() -> None:
    assert per_sample("top1", LOGITS, LABELS[:, None]) == [1.0, 1.0, 0.0, 0.0]


def test_dense_outputs_score_the_mean_over_positions() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0] = 1.0  # the upper row is class 1, the lower one class 0
    labels = torch.tensor([[[1, 0], [0, 0]]])
    assert per_sample("top1", logits, labels) == [0.75]


def test_positions_labelled_ignored_do_not_count() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0] = 1.0
    labels = torch.tensor([[[1, 0], [-100, -100]]])
    assert per_sample("top1", logits, labels) == [0.5]


def test_tokens_have_their_classes_on_the_last_axis() -> None:
    logits = LOGITS.reshape(2, 2, 3)
    assert per_sample("top1", logits, LABELS.reshape(2, 2)) == [1.0, 0.0]
    other = logits.clone()
    other[0, 1] = torch.tensor([1.0, 0.0, 0.0])
    assert per_sample("agreement", other, None, logits) == [0.5, 1.0]


def test_labels_decide_which_axis_has_the_classes() -> None:
    logits = LOGITS.reshape(2, 2, 3).transpose(1, 2)  # [n, C, T]
    assert per_sample("top1", logits, LABELS.reshape(2, 2)) == [1.0, 0.0]


def test_agreement_needs_no_labels() -> None:
    other = LOGITS.clone()
    other[0] = torch.tensor([0.0, 1.0, 0.0])
    assert per_sample("agreement", other, None, LOGITS) == [0.0, 1.0, 1.0, 1.0]


def test_kl_is_the_sum_over_classes_in_nats() -> None:
    f, q = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert per_sample("kl", q, None, f) == pytest.approx([expected], rel=1e-7)


def test_kl_takes_minus_infinity_as_probability_zero() -> None:
    f = torch.tensor([[0.0, -torch.inf]])
    assert per_sample("kl", f, None, f) == [0.0]
    assert per_sample("kl", torch.zeros(1, 2), None, f) == pytest.approx([math.log(2)])


def test_cosine_is_that_of_the_angle() -> None:
    f, q = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    assert per_sample("cosine", q, None, f) == [0.0, -1.0]


def test_mse_is_the_mean_squared_difference() -> None:
    assert per_sample("mse", torch.tensor([[1.0, 3.0]]), None, torch.zeros(1, 2)) == [5.0]


def test_sqnr_is_in_decibels() -> None:
    f, q = torch.tensor([[10.0, 0.0]]), torch.tensor([[10.0, 1.0]])
    assert per_sample("sqnr", q, None, f) == pytest.approx([20.0])


@pytest.mark.parametrize(
    ("name", "best"),
    [("agreement", 1.0), ("kl", 0.0), ("cosine", 1.0), ("mse", 0.0), ("sqnr", SQNR_LIMIT)],
)
@pytest.mark.parametrize("outputs", [LOGITS, torch.zeros(2, 3)], ids=["logits", "zeros"])
def test_a_model_compared_with_itself_is_perfect(name: str, best: float, outputs: Tensor) -> None:
    assert per_sample(name, outputs, None, outputs.clone()) == [best] * len(outputs)


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_scores_do_not_depend_on_the_other_samples(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, f = torch.randn(2, 5, 6, generator=generator)
    labels = torch.randint(0, 6, (5,), generator=generator)
    whole = per_sample(name, q, labels, f)
    apart = [per_sample(name, q[i : i + 1], labels[i : i + 1], f[i : i + 1])[0] for i in range(5)]
    assert whole == pytest.approx(apart, rel=1e-12)


def test_outputs_of_any_float_type_are_scored_in_float64() -> None:
    assert per_sample("mse", torch.ones(1, 2).half(), None, torch.zeros(1, 2).half()) == [1.0]


@pytest.mark.parametrize("what", METRICS.values(), ids=METRICS.keys())
def test_every_metric_says_what_it_is(what: Metric) -> None:
    assert METRICS[what.name] is what
    assert what.title
    assert what.description.endswith(".")
    assert what.needs_labels != what.needs_reference
    assert (what.name in ("kl", "mse")) is not what.higher_is_better


# ---- the user's own ----


def test_a_function_of_scores_per_sample() -> None:
    def margin(outputs: Tensor, targets: Tensor) -> Tensor:
        """How far the label is ahead."""
        return outputs.gather(1, targets[:, None])[:, 0]

    scores = score(margin, LOGITS, LABELS)
    assert scores.per_sample is not None
    assert scores.per_sample.tolist() == [3.0, 2.0, 0.0, 2.0]
    assert scores.value == 1.75
    assert metric(margin).name == "margin"
    assert metric(margin).description == "How far the label is ahead."
    assert metric(margin).higher_is_better


def test_a_function_of_the_corpus_is_resampled_as_a_whole() -> None:
    def spearman(outputs: Tensor, targets: Tensor) -> float:
        return float(stats.spearmanr(outputs, targets).statistic)

    x = torch.arange(40.0)
    noisy = score(spearman, x + 20 * torch.sin(x * 7), x)
    exact = score(spearman, x, x)
    assert exact.value == 1.0
    assert exact.per_sample is None
    interval = paired_bootstrap(noisy, exact, resamples=50)
    assert interval.low < relative_change(noisy.value, 1.0) < interval.high < 0


def test_a_function_may_say_its_direction_unit_and_need() -> None:
    def loss(outputs: Tensor, targets: Tensor | None) -> float:
        return float(outputs.mean())

    loss.higher_is_better = False  # type: ignore[attr-defined]
    loss.unit = "nats"  # type: ignore[attr-defined]
    loss.needs_labels = False  # type: ignore[attr-defined]
    made = metric(loss)
    assert (made.higher_is_better, made.unit, made.needs_labels) == (False, "nats", False)
    assert score(loss, LOGITS).value == pytest.approx(float(LOGITS.mean()))


def test_a_function_may_return_a_list_or_booleans() -> None:
    assert score(lambda o, t: [1, 2, 3, 4], LOGITS, LABELS).value == 2.5
    assert score(lambda o, t: o.argmax(1) == t, LOGITS, LABELS).value == 0.5


def test_metric_gives_a_metric_back() -> None:
    assert metric(METRICS["kl"]) is METRICS["kl"]


# ---- what is refused ----


def fail(outputs: Tensor, targets: Tensor | None) -> float:
    raise ZeroDivisionError("no samples")


def text(outputs: Tensor, targets: Tensor | None) -> object:
    return "good"


def pair(outputs: Tensor, targets: Tensor | None) -> object:
    return torch.ones(2)


WRONG: dict[str, tuple[object, Tensor, Tensor | None, Tensor | None, str]] = {
    "unknown name": (
        "top2",
        LOGITS,
        LABELS,
        None,
        "top2: is not a metric. "
        "Choose one of top1, top5, agreement, kl, cosine, mse, sqnr, or give a function.",
    ),
    "not callable": (
        3,
        LOGITS,
        LABELS,
        None,
        "3: an object of type int is not a metric. Give a name or a function (outputs, targets).",
    ),
    "no labels": (
        "top1",
        LOGITS,
        None,
        None,
        "top1: it needs labels, and the evaluation data has none. "
        "Give labelled data, or use agreement, which compares with the float model.",
    ),
    "no reference": (
        "kl",
        LOGITS,
        None,
        None,
        "kl: it needs the float model's outputs. Score the float model on the same samples first.",
    ),
    "other shape": (
        "kl",
        LOGITS,
        None,
        LOGITS[:2],
        "kl: outputs of shape (4, 3) and float outputs of (2, 3) cannot be compared. "
        "Score both models on the same samples.",
    ),
    "no outputs": (
        "top1",
        LOGITS[:0],
        LABELS[:0],
        None,
        "top1: there are no outputs. Give at least one sample.",
    ),
    "label too high": (
        "top1",
        LOGITS,
        torch.tensor([0, 1, 3, 7]),
        None,
        "top1: the label 3 of sample 2 is not one of the model's 3 classes. "
        "Number the classes from 0; give -100 to positions that do not count.",
    ),
    "negative label": (
        "top1",
        LOGITS,
        torch.tensor([0, -1, 0, 0]),
        None,
        "top1: the label -1 of sample 1 is not one of the model's 3 classes. "
        "Number the classes from 0; give -100 to positions that do not count.",
    ),
    "float labels": (
        "top1",
        LOGITS,
        LABELS.float(),
        None,
        "top1: the labels are float32, not class indices. Give whole numbers as labels.",
    ),
    "all ignored": (
        "top1",
        LOGITS,
        torch.tensor([0, -100, 0, 0]),
        None,
        "top1: every position of sample 1 is labelled -100. Leave that sample out.",
    ),
    "fewer labels": (
        "top1",
        LOGITS,
        LABELS[:3],
        None,
        "top1: 3 targets for 4 outputs. Give one target per sample.",
    ),
    "labels of another shape": (
        "top1",
        torch.zeros(4, 3, 2, 2),
        LABELS,
        None,
        "top1: labels of shape (4,) do not fit outputs of shape (4, 3, 2, 2). "
        "Give one class index per position: (4, 2, 2).",
    ),
    "few classes": (
        "top5",
        LOGITS,
        LABELS,
        None,
        "top5: the model has only 3 classes. Use top1 instead.",
    ),
    "no classes": (
        "top1",
        LOGITS[:, 0],
        LABELS,
        None,
        "top1: outputs of shape (4,) have no axis of class scores. "
        "Use a metric for numbers (mse, sqnr) or your own function.",
    ),
    "NaN": (
        "mse",
        LOGITS / torch.tensor([[1.0], [1.0], [0.0], [1.0]]),
        None,
        LOGITS,
        "mse: the output of sample 2 contains NaN. "
        "Find the op that makes it: run the float model on that sample.",
    ),
    "function that fails": (
        fail,
        LOGITS,
        LABELS,
        None,
        "fail: it raised ZeroDivisionError: no samples. "
        "Correct the function; it is called as (outputs, targets).",
    ),
    "function of text": (
        text,
        LOGITS,
        LABELS,
        None,
        "text: it returned a str for 4 samples. Return one number, or one number per sample.",
    ),
    "function of another length": (
        pair,
        LOGITS,
        LABELS,
        None,
        "pair: it returned values of shape (2,) for 4 samples. "
        "Return one number, or one number per sample.",
    ),
}


@pytest.mark.parametrize(
    ("what", "outputs", "targets", "reference", "message"), WRONG.values(), ids=WRONG.keys()
)
def test_what_cannot_be_scored_is_refused_by_name(
    what: object, outputs: Tensor, targets: Tensor | None, reference: Tensor | None, message: str
) -> None:
    with pytest.raises(QvizError) as caught:
        score(what, outputs, targets, reference)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert isinstance(caught.value, NotFiniteError if "NaN" in message else MetricError)


# ---- changes, intervals, tests ----


def test_relative_change_is_that_of_wu_et_al() -> None:
    assert relative_change(0.693, 0.7) == pytest.approx(-0.01)
    assert relative_change(0.5, 0.5) == 0.0
    assert relative_change(0.0, 0.0) == 0.0
    assert math.isnan(relative_change(0.1, 0.0))
    assert relative_change(-1.1, -1.0) == pytest.approx(-0.1)


def test_drop_is_positive_for_worse_in_either_direction() -> None:
    assert drop("top1", 0.693, 0.7) == pytest.approx(0.01)
    assert drop("mse", 0.22, 0.2) == pytest.approx(0.1)


def test_the_interval_of_equal_models_is_exactly_zero() -> None:
    scores = score("top1", LOGITS, LABELS)
    assert paired_bootstrap(scores, scores) == Interval(0.0, 0.0)


@given(q=st.lists(st.integers(0, 1), min_size=2, max_size=12), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_resampling_by_weights_is_resampling_by_index(q: list[int], seed: int) -> None:
    values = torch.tensor(q, dtype=torch.float64)
    fast = resampled(Scores("m", 0.0, len(q), values), seed=seed, resamples=20)
    slow = resampled(
        Scores("m", 0.0, len(q), resample=lambda i: float(values[i].mean())),
        seed=seed,
        resamples=20,
    )
    np.testing.assert_allclose(fast, slow, rtol=1e-15)


def test_resampling_in_pieces_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = score("mse", LOGITS, None, LOGITS.flip(0))
    whole = resampled(scores, seed=3, resamples=50)
    monkeypatch.setattr("qviz.intervals._WEIGHTS", 16)
    np.testing.assert_array_equal(resampled(scores, seed=3, resamples=50), whole)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        f = (torch.rand(200, generator=generator) < 0.8).double()
        q = f * (torch.rand(200, generator=generator) < 0.95)
        covered += -0.05 in paired_bootstrap(q, f, seed=trial, resamples=300)
    assert 180 <= covered <= 199  # 95 % of 200 is 190; the deviation of that is 3


def test_pairing_makes_the_interval_narrow() -> None:
    f = torch.tensor([1.0, 0.0] * 100)
    q = f.clone()
    q[0] = 0.0
    paired = paired_bootstrap(q, f)
    unpaired = paired_bootstrap(q.roll(1), f)
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


def test_a_reference_of_zero_has_no_interval() -> None:
    assert math.isnan(paired_bootstrap(torch.ones(4), torch.zeros(4)).low)


def test_scores_of_different_samples_cannot_be_paired() -> None:
    with pytest.raises(MetricError) as caught:
        paired_bootstrap(torch.ones(4), torch.ones(3))
    assert str(caught.value) == (
        "scores: scores of 4 and of 3 samples cannot be paired. "
        "Score both models on the same samples."
    )
    with pytest.raises(MetricError, match=r"^scores: there are no samples\. Give at least one\.$"):
        paired_bootstrap(torch.ones(0), torch.ones(0))


def test_scores_without_samples_cannot_be_resampled() -> None:
    with pytest.raises(MetricError) as caught:
        resampled(Scores("m", 1.0, 3))
    assert str(caught.value) == (
        "m: these scores cannot be resampled. Make them with metrics.score."
    )


def test_intervals_know_what_they_contain() -> None:
    assert 0.5 in Interval(0.0, 1.0)
    assert 1.5 not in Interval(0.0, 1.0)
    assert Interval(0.0, 1.0).overlaps(Interval(1.0, 2.0))
    assert not Interval(0.0, 1.0).overlaps(Interval(1.1, 2.0))


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (5, 1), (1, 5), (3, 3), (40, 20), (2000, 1900), (30000, 30001)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    a = torch.tensor([True] * only_a + [False] * only_b + [True, False])
    b = torch.tensor([False] * only_a + [True] * only_b + [True, False])
    flips = only_a + only_b
    expected = stats.binomtest(only_a, flips, 0.5).pvalue if flips else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_five_against_one() -> None:
    a = torch.tensor([1, 1, 1, 1, 1, 0])
    assert mcnemar(a, 1 - a) == 2 * (1 + 6) / 64


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(MetricError) as caught:
        mcnemar(torch.ones(3), torch.ones(4))
    assert str(caught.value) == (
        "mcnemar: 3 and 4 predictions cannot be paired. Score both models on the same samples."
    )


def test_ties_are_numbered_in_the_order_of_the_ranking() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 400, generator=generator)
    noise -= noise.mean(1, keepdim=True)
    levels = torch.tensor([0.0, 0.02, 1.0, 1.01])
    ranked = [level + 0.5 * row for level, row in zip(levels, noise, strict=True)]
    assert tie_groups(ranked) == (0, 0, 1, 1)
    assert tie_groups([]) == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_scores_are_one_group(count: int) -> None:
    assert tie_groups([torch.tensor([1.0, 0.0])] * count) == (0,) * count


def test_every_order_of_samples_gives_the_same_value() -> None:
    values = {
        score("top1", LOGITS[list(order)], LABELS[list(order)]).value
        for order in itertools.permutations(range(4))
    }
    assert values == {0.5}
