"""Workspaces: the draft with undo, variants that the run folder keeps, models opened once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fewer_samples import fewer_samples

from qviz.cli import main
from qviz.errors import RecipeError
from qviz.recipe import Recipe
from qviz.ui import models
from qviz.ui.history import History, Step
from qviz.ui.launch import Start
from qviz.ui.workspace import Workspace, Workspaces

RESNET = Start(model="sample:resnet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("QVIZ_RUNS", str(folder))
        patch.setenv("QVIZ_SAMPLES", str(fewer_samples(folder, 200)))
        yield folder


@pytest.fixture(scope="module")
def known(runs: Path) -> Iterator[Workspaces]:
    assert runs.is_dir()
    made = Workspaces()
    yield made
    made.models.close(30)


def opened(known: Workspaces, start: Start = RESNET) -> Workspace:
    made = known.create(start)
    seen = made.opening.wait(120)
    assert seen.state == "done", seen.error
    return made


def test_undo_and_redo_walk_the_recipes_and_say_what_they_do() -> None:
    a, b, c = Recipe(), Recipe(calibrator="mse"), Recipe(calibrator="entropy")
    history = History((Step(a, "start"),)).then(b, "use mse").then(c, "use entropy")
    assert (history.recipe, history.undoes, history.redoes) == (c, "use entropy", None)
    back = history.undo()
    assert (back.recipe, back.undoes, back.redoes) == (b, "use mse", "use entropy")
    assert back.undo().undo().recipe == a
    assert back.redo().redo().recipe == c


def test_a_change_after_an_undo_forgets_what_was_undone() -> None:
    a, b, c = Recipe(), Recipe(calibrator="mse"), Recipe(calibrator="entropy")
    history = History((Step(a, "start"),)).then(b, "use mse").undo().then(c, "use entropy")
    assert history.redoes is None
    assert history.undo().recipe == a


def test_the_same_recipe_again_is_no_step() -> None:
    history = History((Step(Recipe(), "start"),))
    assert history.then(Recipe(), "nothing") is history


def test_two_visits_share_the_model_but_not_the_draft(known: Workspaces) -> None:
    one, two = opened(known), opened(known)
    assert one.opened is two.opened
    one.apply(one.recipe.skip("fc"), "leave fc in float")
    assert one.recipe != two.recipe
    assert one.recipe.skipped == ("fc",)
    one.undo()
    assert one.recipe == two.recipe


def test_a_workspace_is_found_again_by_its_id(known: Workspaces) -> None:
    one = opened(known)
    assert known.find(one.id) is one
    assert known.find("other") is None
    assert known.find(None) is None


def test_variants_are_kept_in_the_run_folder(known: Workspaces) -> None:
    one = opened(known)
    one.keep("no head", one.recipe.skip("fc"))
    one.keep("plain", one.recipe)
    one.keep("plain", None)
    assert list(one.variants) == ["no head"]
    assert opened(known).variants["no head"].skipped == ("fc",)


def test_a_variant_needs_a_name(known: Workspaces) -> None:
    one = opened(known)
    with pytest.raises(RecipeError) as caught:
        one.keep(" ", one.recipe)
    assert str(caught.value) == "variant: it has no name. Type one."


def test_a_run_of_the_app_goes_on_on_the_command_line(
    known: Workspaces, capsys: pytest.CaptureFixture[str]
) -> None:
    one = opened(known)
    run = one.opened.session.run
    assert run is not None
    options = json.loads((run.path / "options.json").read_text(encoding="utf-8"))
    assert (options["model"], options["batch_size"]) == ("sample:resnet", 32)
    run.close()
    assert main(["calibrate", "sample:resnet", "-o", str(run.path), "--quiet"]) == 0
    assert "tensors over 512 samples" in capsys.readouterr().out


def test_a_run_of_the_command_line_opens_with_its_recipe(
    known: Workspaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = ["search", "sample:resnet", "-o", str(folder), "--calibrator", "max", "--quiet"]
    assert main(command) == 0
    capsys.readouterr()
    start = models.start_of_run(folder)
    assert start == Start(model="sample:resnet", run=str(folder.resolve()), metric=start.metric)
    one = opened(known, start)
    stored = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    assert one.recipe == stored
    assert one.history.steps[0].label == "as the run has it"


def test_a_model_that_fails_to_open_is_tried_again(known: Workspaces) -> None:
    wrong = Start(model="sample:none")
    first = known.create(wrong)
    assert first.opening.wait(60).state == "failed"
    assert known.create(wrong).opening is not first.opening


def test_the_model_used_longest_ago_is_closed_and_opened_again_when_looked_at(
    known: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MOST", 1)
    one = opened(known)
    before = one.opened
    opened(known, Start(model="sample:vit"))
    assert before.closed
    again = known.find(one.id)
    assert again is one
    assert again.opening.wait(120).state == "done"
    assert not again.opened.closed
    assert again.opened is not before
