"""The time budget: what ends a step, and what does not."""

from __future__ import annotations

import pickle

import pytest

from qviz.auto_clock import Clock, OutOfTime
from qviz.errors import Cancelled
from qviz.progress import Progress


class Time:
    """Seconds that only move when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def clock(budget: float | None, spent: float) -> Clock:
    time = Time()
    made = Clock(budget, time)
    time.now += spent
    return made


def at(done: int, elapsed: float, *, known: int = 0) -> Progress:
    return Progress("training", done, 100, elapsed, known=known)


def test_seconds_are_counted_from_the_beginning() -> None:
    assert clock(None, 7).seconds == 7
    assert clock(60, 7).left == 53
    assert clock(None, 7).left is None


def test_without_a_budget_nothing_is_ended() -> None:
    clock(None, 1e9).guard(None)(at(1, 1e6))
    assert clock(None, 1e9).too_little(1e9) is None


def test_a_step_ends_when_the_budget_is_used_up() -> None:
    with pytest.raises(OutOfTime) as error:
        clock(60, 60).guard(None)(at(99, 1))
    assert error.value.reason == "the time budget of 1 min 00 s is used up"


def test_a_step_whose_own_estimate_does_not_fit_ends_early() -> None:
    with pytest.raises(OutOfTime) as error:
        clock(60, 10).guard(None)(at(10, 10))
    assert error.value.reason == "training would take about 1 min 30 s more, 50 s are left"


def test_an_estimate_is_believed_only_after_a_while() -> None:
    guard = clock(60, 10).guard(None)
    guard(at(4, 20))  # less than a twentieth is done
    guard(at(5, 2.9))  # or less than three seconds
    with pytest.raises(OutOfTime):
        guard(at(5, 20))


def test_an_estimate_may_err_by_half() -> None:
    clock(60, 0).guard(None)(at(10, 9.9))  # 89 s for the 60 s that are left


def test_what_was_done_before_says_nothing_of_the_pace() -> None:
    clock(60, 0).guard(None)(at(60, 20, known=59))


def test_a_step_that_leaves_something_useful_is_not_ended_early() -> None:
    guard = clock(60, 10).guard(None, foresee=False)
    guard(at(10, 1000))
    with pytest.raises(OutOfTime):
        clock(60, 61).guard(None, foresee=False)(at(10, 1000))


def test_progress_is_told_before_a_step_ends() -> None:
    seen: list[Progress] = []
    with pytest.raises(OutOfTime):
        clock(60, 61).guard(seen.append)(at(1, 1))
    assert seen == [at(1, 1)]


def test_a_step_that_takes_longer_than_what_is_left_is_not_begun() -> None:
    assert clock(60, 50).too_little(9) is None
    assert clock(60, 50).too_little(12) == "it takes at least 12 s, 10 s are left"
    assert clock(60, 61).too_little(0) == "the time budget of 1 min 00 s is used up"


def test_whoever_handles_a_cancelled_verb_handles_the_end_of_the_time() -> None:
    error: OutOfTime = pickle.loads(pickle.dumps(OutOfTime("too late")))
    assert isinstance(error, Cancelled)
    assert str(error) == "time budget: too late. Give more with --time-budget, and go on."
