"""Bit allocation: the integer programme is optimal, its dual too, and limits are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from allocation_kit import W2, W4, every, losses
from hypothesis import given, settings
from hypothesis import strategies as st

from qviz.errors import TuneError
from qviz.search.allocation import allocate
from qviz.search.allocation_greedy import greedy
from qviz.search.allocation_problem import Problem, bops
from qviz.search.layer_losses import SMALLEST
from qviz.search.widths import BASE, CostKind, Layer, Limit, Width, cost_of

#: a is large and robust, b small and fragile, c in between.
LOSSES = losses(
    {"a": {W4: 0.1, W2: 0.9}, "b": {W4: 0.5, W2: 3.0}, "c": {W4: 0.2, W2: 0.3}},
    {"a": 8000, "b": 1000, "c": 4000},
    base=0.05,
)
FREE = Problem.of(LOSSES)

numbers = st.floats(0, 10, allow_nan=False)
sizes = st.integers(1, 10**7)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 4))
    widths = draw(st.sampled_from([[W4], [W4, W2], [Width(6, 6), Width(4, 8), W2]]))
    names = [f"layer{i}" for i in range(count)]
    rows = {name: {w: draw(numbers) for w in widths} for name in names}
    made = losses(
        rows,
        {name: draw(sizes) for name in names},
        {name: draw(sizes) for name in names},
        ends=draw(st.sampled_from([[], names[:1]])),
    )
    return Problem.of(made)


def best(problem: Problem, kind: CostKind, limit: float) -> float:
    """The least loss of all allocations within a limit."""
    found = [
        allocation.increase
        for widths in every(problem)
        if cost_of((allocation := problem.allocation(widths, None, "given")).costs, kind) <= limit
    ]
    return min(found)


@settings(max_examples=30, deadline=None)
@given(problems(), st.sampled_from(["size", "bops"]), st.floats(0, 1))
def test_no_allocation_within_the_limit_loses_less(
    problem: Problem, kind: CostKind, share: float
) -> None:
    low = cost_of(problem.least(kind).costs, kind)
    limit = low + share * (cost_of(problem.base().costs, kind) - low)
    found = allocate(problem, Limit(kind, limit))
    assert cost_of(found.costs, kind) <= limit * (1 + 1e-9)
    assert found.increase == pytest.approx(best(problem, kind, limit), rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(0, 12))
def test_no_allocation_within_the_loss_is_smaller(problem: Problem, limit: float) -> None:
    found = allocate(problem, Limit("loss", limit))
    assert found.increase <= limit * (1 + 1e-9)
    allocations = [problem.allocation(widths, None, "given") for widths in every(problem)]
    least = min(a.costs.size for a in allocations if a.increase <= limit)
    assert found.costs.size == pytest.approx(least, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(0, 1))
def test_greed_keeps_the_limit_and_never_beats_the_programme(
    problem: Problem, share: float
) -> None:
    low = problem.least("size").costs.size
    limit = Limit("size", low + share * (0.25 - low))
    found = greedy(problem, limit)
    assert found.costs.size <= limit.value * (1 + 1e-9)
    assert found.increase >= allocate(problem, limit).increase - 1e-9


def test_the_robust_layer_is_narrowed_first() -> None:
    found = allocate(FREE, Limit("size", 0.18))
    assert found.of == {"a": W4, "b": BASE, "c": BASE}
    assert found.increase == pytest.approx(0.1)
    assert found.loss == pytest.approx(0.15)
    assert found.costs.size == pytest.approx((8000 * 4 + 5000 * 8) / (13000 * 32))
    assert found.summary == "W4A4 1, W8A8 2"


def test_the_programme_beats_greed_where_a_cheap_step_leads_nowhere() -> None:
    # per bit saved b's step is the cheapest, but only a's saves enough
    made = losses({"a": {W4: 0.10}, "b": {W4: 0.01}}, {"a": 1000, "b": 500})
    problem, limit = Problem.of(made), Limit("size", 8 * 1000 / (1500 * 32))
    assert allocate(problem, limit).of == {"a": W4, "b": BASE}
    assert greedy(problem, limit).of == {"a": W4, "b": W4}


def test_a_limit_of_the_base_changes_nothing() -> None:
    assert allocate(FREE, Limit("size", 0.25)).of == dict.fromkeys("abc", BASE)
    assert allocate(FREE, Limit("size", 0.25)).increase == 0.0


def test_a_switch_that_measured_no_loss_costs_a_millionth() -> None:
    made = losses({"a": {W4: -0.01}}, base=0.02)
    assert made.increase_of["a", W4] == SMALLEST
    assert made.increase_of["a", BASE] == 0.0


def test_bit_operations_are_macs_times_both_widths() -> None:
    weighted, product = Layer("a", ("a",), 10, 100), Layer("b", ("b",), 0, 100)
    assert bops(weighted, Width(4, 8)) == 100 * 4 * 8
    assert bops(product, Width(8, 4)) == 100 * 4 * 4


def test_a_limit_on_bit_operations_narrows_where_the_macs_are() -> None:
    made = losses({"a": {W4: 0.1}, "b": {W4: 0.1}}, {"a": 9000}, {"b": 9000})
    found = allocate(Problem.of(made), Limit("bops", 0.4))
    assert found.of == {"a": BASE, "b": W4}
    assert found.costs.bops == 1000 * 64 + 9000 * 16
    assert found.costs.relative_bops == pytest.approx((64 + 9 * 16) / 640)


def test_a_limit_in_bytes_counts_what_stays_in_float() -> None:
    problem = Problem.of(replace(LOSSES, rest=100))
    found = allocate(problem, Limit("bytes", 13000 + 400))
    assert found.increase == 0.0
    assert found.costs.bytes == 13400
    assert allocate(problem, Limit("bytes", 13399)).increase > 0


def test_a_limit_on_latency_goes_by_the_times_given() -> None:
    times = {
        "a": {BASE: 3.0, W4: 2.9, W2: 2.8},
        "b": {BASE: 2.0, W4: 1.0, W2: 0.9},
        "c": {BASE: 1.0, W4: 1.0, W2: 1.0},
    }
    problem = Problem.of(LOSSES, times=times)
    found = allocate(problem, Limit("latency", 5.0))
    assert found.of == {"a": BASE, "b": W4, "c": BASE}
    assert found.costs.seconds == 5.0


def test_first_and_last_keep_their_width_by_default() -> None:
    made = replace(LOSSES, layers=tuple(replace(la, end=la.name != "c") for la in LOSSES.layers))
    problem = Problem.of(made)
    assert problem.keep == {"a", "b"}
    assert problem.least("size").of == {"a": BASE, "b": BASE, "c": W2}
    assert Problem.of(made, keep=()).least("size").of["a"] == W2


def test_a_limit_that_cannot_be_met_names_the_smallest_that_can() -> None:
    made = replace(LOSSES, layers=tuple(replace(la, end=la.name == "b") for la in LOSSES.layers))
    smallest = Fraction(12000 * 2 + 1000 * 8, 13000 * 32)
    assert math.isclose(smallest, 0.076923, rel_tol=1e-5)
    for method in (allocate, greedy):
        with pytest.raises(TuneError) as caught:
            method(Problem.of(made), Limit("size", 0.07))
        assert str(caught.value) == (
            "size limit 0.07: cannot be met: the smallest is 0.07693 of the float32 weights, with "
            "first and last ops at 8 bits. Raise it, or offer fewer bits."
        )


def test_the_smallest_limit_named_can_be_met() -> None:
    assert allocate(FREE, Limit("size", 0.0625)).of == dict.fromkeys("abc", W2)


def test_a_limit_on_latency_needs_times() -> None:
    with pytest.raises(TuneError) as caught:
        allocate(FREE, Limit("latency", 1.0))
    assert str(caught.value) == (
        "latency limit: no times per layer and width are known. Give them, as qviz bench measures "
        "them, or limit the size."
    )


def test_a_width_without_a_time_is_named() -> None:
    with pytest.raises(TuneError) as caught:
        Problem.of(LOSSES, times={name: {BASE: 1.0, W4: 1.0} for name in "abc"})
    assert str(caught.value) == ("latency of a: is not known at W2A2. Time that width too.")


def test_what_is_kept_must_be_a_layer() -> None:
    with pytest.raises(TuneError) as caught:
        Problem.of(LOSSES, keep=["a", "relu"])
    assert str(caught.value) == (
        "relu: gets no width of its own. Name ops with multiply-accumulates."
    )


def test_a_loss_below_zero_cannot_be_asked_for() -> None:
    with pytest.raises(TuneError) as caught:
        allocate(FREE, Limit("loss", -1.0))
    assert str(caught.value) == (
        "limit on the loss -1: is below 0. Allow at least what 8 bits lose."
    )


def test_losses_of_fewer_widths_are_a_smaller_choice() -> None:
    only = Problem.of(LOSSES.only([W4]))
    assert {width for _, width in only.choices} == {BASE, W4}
