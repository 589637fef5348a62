"""What the plan remembers: points with predictions and flags, searches, and the words for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.estimate import Anchor, Estimate
from qviz.graph import Graph
from qviz.intervals import Interval
from qviz.jobs import Job
from qviz.ranking import Sensitivity, SensitivityRow
from qviz.recipe import Recipe, TensorRange
from qviz.search.skip import SkipPoint
from qviz.ui import plan_words
from qviz.ui.plan_choice import Choice
from qviz.ui.plan_search import best_of, ranking
from qviz.ui.plan_state import Known, PlanState, Search, marks, steps

ANCHOR = Anchor(0.1, Interval(0.08, 0.12), 1.0)


class Chain(nn.Module):
    """Three linear layers of 16 multiply-accumulates each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.c(self.b(self.a(x)))
        return made


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Chain(), Batch((torch.zeros(2, 4),), {}, None, 2))


@pytest.fixture(scope="module")
def choice(graph: Graph) -> Choice:
    found = tuple(TensorRange(name, -1.0, 1.0, "max") for name in graph.observed)
    return Choice.of(Recipe(ranges=found), graph)


def row(name: str, divergence: float, *, exact: bool = True, tie: int = 0) -> SensitivityRow:
    return SensitivityRow(name, "linear", divergence, None, None, None, None, 9, exact, 0, tie)


def known(*rows: SensitivityRow) -> Known:
    proxy = {r.name: r.divergence for r in rows if not r.exact}
    return Known.of([Sensitivity(rows, "only_this", "both", "top1", "kl", proxy)])


KNOWN = known(row("a", 0.5), row("b", 0.3, tie=1), row("c", 0.1, tie=1))


def point(drop: float, *skipped: str, divergence: float = 0.5) -> SkipPoint:
    return SkipPoint(skipped, drop, drop - 0.005, drop + 0.005, None, 0.0, 0.9, "add", divergence)


def test_the_predicted_curve_goes_down_the_ranking(choice: Choice) -> None:
    found = steps(choice, KNOWN, ANCHOR)
    assert [step.name for step in found] == ["", "a", "b", "c"]
    assert [step.drop for step in found] == pytest.approx([0.09, 0.04, 0.01, 0.0])
    assert [step.float_macs for step in found] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_there_is_no_curve_while_an_op_is_unknown(choice: Choice) -> None:
    assert steps(choice, known(row("a", 0.5)), ANCHOR) == ()


def test_ops_are_tied_once_all_are_measured() -> None:
    assert KNOWN.ties == {"b": 1, "c": 1}
    assert known(row("a", 0.5, tie=1), row("b", 0.4, exact=False, tie=1)).ties == {}


def test_a_search_leaves_its_points_even_if_it_was_cancelled(choice: Choice) -> None:
    state, job = PlanState(), Job("search", lambda own: None)
    state.searches[job.id] = Search(choice.base, choice.whole(["c"]), 0.01)
    job.publish((point(0.05), point(0.02, "a")))
    job.cancel()
    state.note_search(job, choice)
    found = state.points[choice.base]
    assert found[choice.whole(["c"])].skipped == ("c",)
    assert found[choice.whole(["a", "c"])].skipped == ("a", "c")
    assert found[choice.whole(["a", "c"])].float_macs == pytest.approx(2 / 3)


def test_a_search_of_other_ranges_leaves_none(choice: Choice) -> None:
    state, job = PlanState(), Job("search", lambda own: None)
    state.searches[job.id] = Search(replace(choice.base, calibrator="other"), frozenset(), 0.01)
    job.publish((point(0.05),))
    state.note_search(job, choice)
    assert state.points == {}


def test_points_have_their_prediction_their_name_and_their_place(choice: Choice) -> None:
    state = PlanState()
    left = choice.whole(["a"])
    state.points[choice.base] = {frozenset(): point(0.1, divergence=1.0), left: point(0.03, "a")}
    drawn = marks(state, choice.with_left(left), KNOWN, ANCHOR, {left: "mine"})
    assert [mark.current for mark in drawn] == [False, True]
    assert drawn[1].label == "mine"
    assert drawn[1].point.predicted == pytest.approx(0.04)
    assert drawn[1].point.predicted_divergence == pytest.approx(0.4)
    assert [mark.flag for mark in drawn] == [None, None]


def test_a_point_far_from_its_prediction_says_so(choice: Choice) -> None:
    state = PlanState()
    state.points[choice.base] = {choice.whole(["a"]): point(0.09, "a", divergence=0.9)}
    (mark,) = marks(state, choice, KNOWN, ANCHOR, {})
    assert mark.flag == (
        "The errors reinforce each other: the divergence measured is 2.2 times the sum of what the "
        "ops cause alone."
    )
    estimated = known(row("a", 0.5), row("b", 0.3), row("c", 0.1, exact=False))
    (mark,) = marks(state, choice, estimated, ANCHOR, {})
    assert str(mark.flag).endswith(" Some of that sum is estimated.")


def test_more_in_float_and_worse_is_said(choice: Choice) -> None:
    state = PlanState()
    state.points[choice.base] = {
        choice.whole(["a"]): point(0.01, "a", divergence=0.4),
        choice.whole(["a", "b"]): point(0.05, "a", "b", divergence=0.1),
    }
    drawn = marks(state, choice, KNOWN, ANCHOR, {})
    assert drawn[1].flag == (
        "Leaving more in float made it worse: the drop is 5.00 %, with only 1 of these in float it "
        "is 1.00 %."
    )


def test_a_search_ranks_what_is_still_int8_by_what_is_known(choice: Choice) -> None:
    start = choice.with_left(choice.whole(["a"]))
    found = ranking(KNOWN, start)
    assert found is not None
    assert [r.name for r in found.rows] == ["b", "c"]
    assert ranking(Known(), choice) is None


def test_a_stopped_search_offers_the_fewest_skips_within_the_target() -> None:
    points = (point(0.05), point(0.008, "a", "b"), point(0.009, "a"))
    assert best_of(points, 0.01).skipped == ("a",)
    assert best_of(points, 0.001).skipped == ("a", "b")


@pytest.mark.parametrize(
    ("best", "ops", "finished", "words"),
    [
        (
            SkipPoint(("a", "b", "c"), 0.009, 0.0, 0.0095, None, 0.023, 0.9, "add"),
            3,
            True,
            "3 of 59 ops in float (2.30 % of MACs) bring the drop from 6.80 % to 0.900 %, "
            "target 1.00 %.",
        ),
        (
            SkipPoint(("a",), 0.009, 0.0, 0.02, None, 0.023, 0.9, "add"),
            1,
            True,
            "1 of 59 ops in float (2.30 % of MACs) brings the drop from 6.80 % to 0.900 %, "
            "target 1.00 %. The 95 % interval reaches to 2.00 %.",
        ),
        (
            SkipPoint(("a",), 0.03, 0.0, 0.05, None, 0.023, 0.9, "add"),
            1,
            False,
            "1 of 59 ops in float (2.30 % of MACs) brings the drop from 6.80 % to 3.00 %, "
            "target 1.00 %. The target is not reached: this is the best found. The search was "
            "stopped early: fewer skips may do.",
        ),
        (
            SkipPoint((), 0.002, 0.0, 0.004, None, 0.0, 0.9, "add"),
            0,
            True,
            "No op has to be in float: with everything int8 the drop is 0.200 %, target 1.00 %.",
        ),
    ],
)
def test_a_search_is_told_in_words(best: SkipPoint, ops: int, finished: bool, words: str) -> None:
    first = point(0.068)
    assert plan_words.search_said(first, best, ops, 59, 0.01, finished=finished) == words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "nothing is known yet"),
        (
            Estimate(0.014, None, None, 0, 3),
            "divergence 0.0140; the drop follows once all int8 is measured",
        ),
        (
            Estimate(0.014, 0.006, Interval(0.0044, 0.0078), 0, 3),
            "divergence 0.014; 95 % of its rate: 0.44 to 0.78 %; from gradients of 3 ops, none "
            "measured alone",
        ),
        (
            Estimate(0.014, 0.006, Interval(0.0044, 0.0078), 2, 3),
            "divergence 0.014; 95 % of its rate: 0.44 to 0.78 %; 2 of 3 ops measured alone",
        ),
    ],
)
def test_an_estimate_says_what_it_was_made_from(found: Estimate | None, words: str) -> None:
    assert plan_words.estimated(found) == words
