"""Session.tune: a method applied to a recipe, measured, kept under a key, and recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import qviz
from qviz.errors import Cancelled, RangeError, RecipeError, TuneError
from qviz.progress import Progress, Reporter
from qviz.session import Session
from qviz.tune.methods import METHODS, Method
from qviz.tune.step import Change, Option, Step, Subject, reranged
from qviz.weights import TunedWeights, bias_of, with_bias


class Net(nn.Module):
    """A hidden layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.hidden(x)))
        return out


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(0, 3, (count,), generator=generator)


def opened(run: Path | None = None, evaluation: bool = True) -> Session:
    return qviz.open(
        Net().eval(),
        samples(40, 1),
        samples(100, 2) if evaluation else None,
        "agreement",
        run_dir=run,
    )


SHIFT = Option("shift", 1.0, "added to every bias of fc", -10.0, 10.0)


def sites(subject: Subject) -> tuple[str, ...]:
    return ("fc",)


def apply(subject: Subject, *, shift: float = 1.0) -> Step:
    report = Reporter("shift", 1, subject.progress)
    name = bias_of(subject.graph, "fc")
    assert name is not None
    new = subject.simulator.program.parameter(name) + torch.tensor([shift, 0.0, 0.0])
    report.step()
    change = Change("fc", "bias", 0.0, shift, "shift")
    return Step(subject.recipe, with_bias(subject.graph, "fc", new), (change,), record={"n": 1})


@pytest.fixture(autouse=True)
def shift(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(OPTIONS=(SHIFT,), sites=sites, apply=apply)
    for name in ("shift", "learner"):
        monkeypatch.setitem(sys.modules, f"qviz.tune.{name}", cast(ModuleType, module))
    row = Method("shift", "Shift", "Adds to a bias.", "nobody", "seconds")
    learner = Method("learner", "Learner", "Trains.", "nobody", "hours", ("training",))
    monkeypatch.setitem(METHODS, "shift", row)
    monkeypatch.setitem(METHODS, "learner", learner)


def test_a_method_is_measured_before_and_after_on_the_same_samples() -> None:
    session = opened()
    recipe = session.recipe("max")
    made = session.tune("shift", recipe, shift=5.0)
    assert made.before is not None
    assert made.after is not None
    assert made.before.value == session.evaluate(recipe).value
    assert made.after.value < made.before.value
    assert made.gain == pytest.approx(made.after.value / made.before.value - 1)
    assert made.interval is not None
    assert made.interval.high < 0
    assert not made.noise


def test_the_recipe_before_and_the_model_are_untouched() -> None:
    session = opened()
    recipe = session.recipe("max")
    before = session.reference().values.clone()
    made = session.tune("shift", recipe)
    assert made.start is recipe
    assert recipe.weights == ""
    assert made.recipe.weights != ""
    assert torch.equal(session.reference().values, before)
    assert session.graph_of(recipe) is session.graph


def test_a_change_that_changes_nothing_is_noise_and_the_summary_says_so() -> None:
    session = opened()
    made = session.tune("shift", session.recipe("max"), shift=0.0)
    assert made.gain == 0.0
    assert made.noise
    assert "inside the interval, noise" in made.summary


def test_tuning_again_builds_on_what_was_tuned() -> None:
    session = opened()
    first = session.tune("shift", session.recipe("max"), shift=1.0)
    second = session.tune("shift", first.recipe, shift=1.0)
    once = session.tune("shift", session.recipe("max"), shift=2.0)
    assert second.recipe == once.recipe  # the key is that of the content


def test_every_verb_takes_a_tuned_recipe() -> None:
    session = opened()
    recipe = session.tune("shift", session.recipe("max"), shift=5.0).recipe
    rows = session.sensitivity(recipe).rows
    assert {row.name for row in rows} == {"hidden", "fc"}
    live = session.live()
    tuned, plain = live.measure(recipe).value, live.measure(session.recipe("max")).value
    assert tuned < plain
    assert live.measure(recipe).value == tuned


def test_a_tuned_recipe_is_exported_with_its_weights(tmp_path: Path) -> None:
    session = opened()
    recipe = session.tune("shift", session.recipe("max"), shift=5.0).recipe
    session.export(recipe, tmp_path / "out")
    x = samples(50, 3)[0]
    own = session.simulator
    sim = session.simulator_of(recipe)
    wanted = sim.program.run(sim.program.inputs(_batch(x)), sim.edits(recipe))[0]
    plain = own.program.run(own.program.inputs(_batch(x)), own.edits(session.recipe("max")))[0]
    made = qviz.load_checkpoint(tmp_path / "out")(x)
    assert torch.allclose(made, wanted, atol=0.05)
    assert not torch.allclose(made, plain, atol=1.0)


def _batch(x: Tensor) -> qviz.Batch:
    return qviz.Batch((x,), {}, None, len(x))


def test_the_run_folder_keeps_weights_variants_and_record(tmp_path: Path) -> None:
    session = opened(tmp_path / "run")
    made = session.tune("shift", session.recipe("max"), name="shifted")
    assert session.run is not None
    session.run.close()
    again = opened(tmp_path / "run")
    assert again.variants == {"shifted": made.recipe}
    assert again.graph_of(made.recipe) is not again.graph
    (row,) = again.tunings()
    assert (row["method"], row["options"], row["changes"]) == ("shift", {"shift": 1.0}, 1)
    assert row["samples"] == {"calibration": 40, "training": 0, "evaluation": 100}
    assert row["record"] == {"n": 1}


def test_without_a_run_folder_the_record_is_kept_in_memory() -> None:
    session = opened()
    session.tune("shift", session.recipe("max"))
    assert [row["method"] for row in session.tunings()] == ["shift"]


def test_without_evaluation_data_nothing_is_measured() -> None:
    session = opened(evaluation=False)
    made = session.tune("shift", session.recipe("max"))
    assert made.after is None
    assert made.noise is None
    assert made.summary.endswith("not measured (no evaluation data)")


def test_a_recipe_whose_weights_are_elsewhere_is_refused() -> None:
    one, other = opened(), opened()
    recipe = one.tune("shift", one.recipe("max")).recipe
    with pytest.raises(RecipeError) as raised:
        other.evaluate(recipe)
    assert str(raised.value) == (
        f"tuned weights {recipe.weights}: the recipe was made for them, and they are not in this "
        "run. Name the run that made the recipe, or tune again."
    )


def test_a_fit_that_ends_in_nan_is_named_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def diverges(subject: Subject, *, shift: float) -> Step:
        bias = with_bias(subject.graph, "fc", torch.full((3,), float("nan")))
        return Step(subject.recipe, bias, ())

    session = opened()
    monkeypatch.setattr(METHODS["shift"].module, "apply", diverges)
    with pytest.raises(TuneError) as raised:
        session.tune("shift", session.recipe("max"))
    assert str(raised.value) == (
        "Shift: the model that came out gives NaN; the recipe before is untouched. Use smaller "
        "learning rates or fewer iterations."
    )
    assert session.tunings() == []


def test_a_cancelled_method_leaves_no_row() -> None:
    session = opened()
    recipe = session.recipe("max")
    session.evaluate(recipe)

    def stop(progress: Progress) -> None:
        if progress.verb == "shift":
            raise Cancelled("tune")

    with pytest.raises(Cancelled):
        session.tune("shift", recipe, progress=stop)
    assert session.tunings() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gain": 1.0}, "option gain: the method has none of that name. Use shift."),
        ({"shift": 11}, "option shift: 11 is no number from -10 to 10. Leave it out for 1.0."),
        ({"shift": "far"}, "option shift: far is no number from -10 to 10. Leave it out for 1.0."),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], text: str) -> None:
    session = opened()
    with pytest.raises(RangeError) as raised:
        session.tune("shift", session.recipe("max"), **options)
    assert str(raised.value) == text


def test_a_method_or_op_that_does_not_exist_is_named() -> None:
    session = opened()
    with pytest.raises(TuneError, match=r"method 'magic': does not exist\. Use one of .*shift"):
        session.tune("magic", session.recipe("max"))
    with pytest.raises(RecipeError) as raised:
        session.tune("shift", session.recipe("max"), ops=["conv9"])
    assert str(raised.value) == "conv9: Net has no such op. List the names with qviz info."


def test_a_method_that_trains_needs_training_data() -> None:
    session = opened()
    with pytest.raises(TuneError) as raised:
        session.tune("learner", session.recipe("max"))
    assert str(raised.value) == (
        "Learner: needs training data. Give some with training= or --train."
    )


def test_ranges_are_made_anew_by_their_own_calibrator_and_those_set_by_hand_stay() -> None:
    session = opened()
    recipe = session.recipe("max").with_range("relu", 0.0, 1.25)
    subject = session.subject(recipe)
    weight = subject.simulator.program.parameter("hidden.weight")
    doubled = TunedWeights({"hidden.weight": weight * 2})
    moved = reranged(subject, doubled, recipe)
    assert moved.range_of["relu"] == recipe.range_of["relu"]
    plain = reranged(subject, doubled, session.recipe("max"))
    assert plain.range_of["relu"].hi > session.recipe("max").range_of["relu"].hi
    assert plain.range_of["x"] == recipe.range_of["x"]


def test_the_subject_after_a_step_sees_the_new_weights() -> None:
    session = opened()
    subject = session.subject(session.recipe("max"))
    step = apply(subject, shift=3.0)
    after = subject.after(step)
    name = bias_of(after.graph, "fc")
    assert name is not None
    moved = after.simulator.program.parameter(name) - subject.simulator.program.parameter(name)
    assert torch.allclose(moved, torch.tensor([3.0, 0.0, 0.0]))
    assert after.histograms()["relu"].finite == 40 * 8


def test_two_steps_are_one() -> None:
    session = opened()
    subject = session.subject(session.recipe("max"))
    one = apply(subject, shift=1.0)
    two = apply(subject.after(one), shift=2.0)
    both = two.following(one)
    assert both.weights is not None
    assert [c.after for c in both.changes] == [1.0, 2.0]
    moved = next(iter(both.weights.values.values())) - subject.simulator.program.parameter(
        "fc.bias"
    )
    assert torch.allclose(moved, torch.tensor([3.0, 0.0, 0.0]))
