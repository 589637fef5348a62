"""Live measurement: the same numbers as a full evaluation, from kept prefixes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qviz
from qviz.errors import Cancelled
from qviz.evaluate import Evaluation
from qviz.execute import Edits, Program
from qviz.live import Live
from qviz.meter import LiveMeter
from qviz.recipe import Recipe
from qviz.session import Session


class Small(nn.Module):
    """Three linear ops in a row."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return out


@pytest.fixture(scope="module")
def session() -> Session:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator)
    y = torch.randint(0, 4, (200,), generator=generator)
    return qviz.open(Small(), calibration=x[:100], evaluation=(x[100:], y[100:]), batch_size=16)


@pytest.fixture(scope="module")
def recipe(session: Session) -> Recipe:
    return session.recipe("max", weight_bits=4, activation_bits=4)


def same(a: Evaluation, b: Evaluation) -> bool:
    return a.value == b.value and a.divergence == b.divergence and a.flips == b.flips


def test_measured_on_all_samples_it_is_the_full_evaluation(
    session: Session, recipe: Recipe
) -> None:
    live = session.live()
    for one in (recipe, recipe.skip("b"), recipe.skip("a"), None, recipe.skip("a", "c"), recipe):
        assert same(live.measure(one), session.evaluate(one))
    assert live.samples == 100


def test_only_what_lies_behind_the_change_is_run_again(
    session: Session, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = session.live()
    live.measure(recipe)
    program = session.simulator.program
    starts: list[int] = []
    run = type(program).run

    def noted(
        self: Program, values: list[Any], edits: Edits, *, start: int = 0, keep: bool = False
    ) -> list[Any]:
        starts.append(start)
        return run(self, values, edits, start=start, keep=keep)

    monkeypatch.setattr(type(program), "run", noted)
    live.measure(recipe.skip("c"))
    assert set(starts) == {program.step_of_op["c"]}


def test_the_same_recipe_again_runs_nothing(
    session: Session, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = session.live()
    first = live.measure(recipe)
    monkeypatch.setattr(type(session.simulator.program), "run", None)
    assert same(live.measure(recipe), first)


def test_a_measurement_that_was_stopped_leaves_the_next_one_right(
    session: Session, recipe: Recipe
) -> None:
    live = session.live()
    live.measure(recipe)
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 2:
            raise Cancelled("live", "stopped", "Go on")

    with pytest.raises(Cancelled):
        live.measure(recipe.skip("a"), check)
    assert same(live.measure(recipe.skip("b")), session.evaluate(recipe.skip("b")))


def test_memory_limits_the_samples_but_not_below_the_fewest(session: Session) -> None:
    assert session.evaluation_data is not None
    live = Live(session.simulator_of, session.evaluation_data, session.metric, budget=1)
    live.measure(None)
    assert live.samples == 16


@pytest.fixture
def meter(session: Session) -> Iterator[LiveMeter]:
    made = LiveMeter(session)
    yield made
    made.close()


def test_asking_returns_at_once_and_the_answer_comes_in_two_steps(
    meter: LiveMeter, session: Session, recipe: Recipe
) -> None:
    one = recipe.skip("a", "b")
    assert not meter.ask("me", one).settled
    assert meter.wait(one, 20).live is not None
    full = meter.wait(one, 20, full=True)
    assert full.settled
    assert full.full is not None
    assert same(full.full, session.evaluate(one))
    assert full.best is full.full


def test_the_newest_recipe_of_an_owner_replaces_the_earlier_one(
    session: Session, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    measured: list[Recipe | None] = []
    measure = Live.measure

    def slow(
        self: Live, recipe: Recipe | None, check: Callable[[], None] | None = None
    ) -> Evaluation:
        assert gate.wait(10)
        measured.append(recipe)
        return measure(self, recipe, check)

    monkeypatch.setattr(Live, "measure", slow)
    meter = LiveMeter(session)
    tried = [recipe.skip("a"), recipe.skip("b"), recipe.skip("c")]
    for one in tried:
        meter.ask("me", one)
    gate.set()
    assert meter.wait(tried[-1], 20).live is not None
    meter.close()
    assert tried[1] not in measured


def test_two_owners_get_both_their_recipes(meter: LiveMeter, recipe: Recipe) -> None:
    mine, yours = recipe.skip("a", "c"), recipe.skip("b", "c")
    meter.ask("me", mine)
    meter.ask("you", yours)
    assert meter.wait(mine, 20).live is not None
    assert meter.wait(yours, 20).live is not None


def test_all_evaluation_data_waits_while_a_job_runs(session: Session, recipe: Recipe) -> None:
    meter = LiveMeter(session, busy=lambda: True)
    one = recipe.skip("c")
    meter.ask("me", one)
    assert meter.wait(one, 20).live is not None
    assert meter.wait(one, 0.2, full=True).full is None
    meter.close()


def test_a_recipe_that_does_not_fit_is_an_error_in_words(meter: LiveMeter, recipe: Recipe) -> None:
    wrong = recipe.skip("d")
    meter.ask("me", wrong)
    found = meter.wait(wrong, 20)
    assert found.error == "d: Small has no such op or operand. List the names with qviz info."
