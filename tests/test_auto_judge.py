"""Which variant is kept, and which is the best."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from auto_kit import step
from networks import network, recipe

from qviz.auto_judge import best_of, better, float_share, helped
from qviz.evaluate import Evaluation
from qviz.intervals import Interval

BETTER, NOISE, WORSE = Interval(0.01, 0.03), Interval(-0.01, 0.03), Interval(-0.03, -0.01)


def measured(drop: float, divergence: float) -> Evaluation:
    made = SimpleNamespace(drop=drop, divergence=divergence, divergence_name="kl")
    return cast(Evaluation, made)


@pytest.mark.parametrize(
    ("drop", "divergence", "interval", "kept", "why"),
    [
        (0.01, 0.5, BETTER, True, "it helps beyond noise"),
        (0.05, 0.1, WORSE, False, "the metric falls beyond noise"),
        (0.02, 0.3, NOISE, False,
         "the change is noise, and the divergence does not fall (kl 0.200 -> 0.300)"),
        (0.02, 0.1, NOISE, True,
         "the change of the metric is noise, but the divergence falls (kl 0.200 -> 0.100)"),
        (0.03, 0.1, NOISE, False,
         "the divergence falls (kl 0.200 -> 0.100), but the metric loses, if within noise"),
        (0.02, float("nan"), NOISE, False,
         "the change is noise, and the divergence does not fall (kl 0.200 -> -)"),
    ],
    ids=["beyond noise", "worse", "noise", "nearer to float", "nearer at a cost", "NaN"],
)  # fmt: skip
def test_a_fix_is_kept_if_it_helps_beyond_noise_or_brings_the_outputs_nearer_at_no_cost(
    drop: float, divergence: float, interval: Interval, kept: bool, why: str
) -> None:
    before = measured(0.02, 0.2)
    assert helped(before, measured(drop, divergence), interval) == (kept, why)


@pytest.mark.parametrize(
    ("fall", "kept", "why"),
    [
        (BETTER, True,
         "the change of the metric is noise, but the divergence falls (kl 0.200 -> 0.198)"),
        (NOISE, False,
         "the change is noise, and the divergence falls (kl 0.200 -> 0.198) within noise as well"),
    ],
    ids=["sure", "noise"],
)  # fmt: skip
def test_a_divergence_that_falls_within_its_interval_keeps_nothing(
    fall: Interval, kept: bool, why: str
) -> None:
    assert helped(measured(0.02, 0.2), measured(0.02, 0.198), NOISE, fall) == (kept, why)


def test_within_the_target_less_in_float_is_preferred_to_a_smaller_drop() -> None:
    little = step(drop=0.009, float_macs=0.01)
    much = step(drop=0.001, float_macs=0.30)
    assert better(little, much, 0.01)
    assert not better(much, little, 0.01)


def test_what_misses_the_target_is_worse_than_what_meets_it() -> None:
    assert better(step(drop=0.01, float_macs=0.9), step(drop=0.011), 0.01)


def test_what_misses_the_target_is_ranked_by_its_drop() -> None:
    assert better(step(drop=0.02, float_macs=0.3), step(drop=0.03), 0.01)


def test_a_drop_that_is_not_a_number_is_the_worst() -> None:
    assert not better(step(drop=float("nan")), step(drop=0.9), 0.01)


def test_the_last_of_the_main_line_is_the_best_unless_a_branch_is_better() -> None:
    line = step(drop=0.02)
    branch = step(drop=0.005, float_macs=0.2, stage="partial quantization")
    left = step(drop=0.001, stage="partial quantization", outcome="not kept")
    assert best_of([line, branch, left], line, 0.01) is branch
    met = step(drop=0.008)
    assert best_of([line, branch, met], met, 0.01) is met


def test_the_share_in_float_counts_what_was_chosen_not_what_an_engine_lacks() -> None:
    graph = network("residual")[1]
    plain: Any = recipe("residual")
    assert float_share(graph, plain) == 0
    one = graph.ops["conv2"].macs / graph.macs
    assert float_share(graph, plain.skip("conv2")) == pytest.approx(one)
    assert float_share(graph, plain.skip("conv2/weight")) == pytest.approx(one)
