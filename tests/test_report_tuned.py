"""How accuracy was won back, as a section of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from auto_kit import opened

from qviz import run_results
from qviz.errors import RunFolderError
from qviz.recipe import Recipe
from qviz.report_tuned import led, way_to
from qviz.reporting import gather
from qviz.tables_tune import Tried

BASE = Recipe(calibrator="mse")
ONE = replace(BASE, weights="aa")
TWO = replace(BASE, weights="bb")
FIRST = Tried(1, "bias_correction", "Bias correction", start=BASE, recipe=ONE)
ELSEWHERE = Tried(2, "adaround", "AdaRound", start=BASE, recipe=replace(BASE, weights="cc"))
LAST = Tried(3, "adaquant", "AdaQuant", start=ONE, recipe=TWO)
STEPS = (FIRST, ELSEWHERE, LAST)


def test_the_way_to_a_recipe_leaves_out_what_led_elsewhere() -> None:
    assert way_to(STEPS, TWO) == (FIRST, LAST)
    assert way_to(STEPS, ONE) == (FIRST,)
    assert way_to(STEPS, BASE) == ()


def test_a_recipe_changed_after_tuning_is_known_by_its_weights() -> None:
    changed = TWO.skip("fc")
    assert way_to(STEPS, changed) == (FIRST, LAST)
    assert led((FIRST, LAST), changed, 3) == (
        "3 steps were tried in this run; this recipe came out of Bias correction, then AdaQuant "
        "(marked), and was changed afterwards. Each step is measured before and after on the same "
        "samples; a change inside its 95 % interval is noise."
    )


def test_steps_that_led_elsewhere_only_are_said_to() -> None:
    assert led((), BASE, 1) == "1 step was tried in this run; none of them led to this recipe."


def test_a_step_that_ends_where_it_began_is_no_endless_way() -> None:
    assert way_to((replace(FIRST, start=ONE),), ONE)[0].step == 1


def test_a_report_of_a_tuned_recipe_says_what_led_to_it(tmp_path: Path) -> None:
    session = opened(tmp_path / "run")
    start = session.recipe("max", weight_bits=3)
    session.tune("weight_range", start)
    made = session.tune("bias_correction", start)
    session.auto(weight_bits=3, max_drop=0.5)
    found = gather(session, made.recipe)
    assert [one.title for one in way_to(found.tried, made.recipe)] == ["Bias correction"]
    assert found.escalation is None

    best = session.auto(weight_bits=3, max_drop=0.5)
    assert best.recipe is not None
    escalation = gather(session, best.recipe).escalation
    assert escalation is not None
    assert escalation.ended == best.ended
    assert [sentence for *_, sentence in escalation.steps] == [s.sentence for s in best.steps]
    assert escalation.commands == best.commands


def test_a_damaged_escalation_is_one_line(tmp_path: Path) -> None:
    session = opened(tmp_path / "run")
    assert session.run is not None
    assert run_results.escalation(session.run, BASE) is None
    session.run.write_json("auto", {"steps": []})
    with pytest.raises(RunFolderError) as caught:
        run_results.escalation(session.run, BASE)
    path = session.run.path / "auto.json"
    assert str(caught.value) == f"{path}: it is damaged. Delete it and run qviz auto again."
