"""The guided escalation on a tiny classifier: order, target, resuming, time, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from auto_kit import opened, parts

from qviz.auto import Action, AutoEvent, AutoOptions, AutoResult, AutoStep
from qviz.auto_clock import Clock
from qviz.auto_judge import BRANCHES
from qviz.auto_run import auto
from qviz.data import as_data
from qviz.errors import Cancelled, DataError, MetricError, QvizError, ShapeError, TuneError
from qviz.recipe import Recipe
from qviz.tune.methods import METHODS

#: Bits that cost this model a quarter of its accuracy, and a target that nothing meets.
HARD: dict[str, Any] = {
    "max_drop": 0.0,
    "calibrators": ("max", "mse", "percentile:99.9"),
    "weight_bits": 4,
    "activation_bits": 4,
    "ends_at_8": False,
    "options": {"bias_tuning": {"epochs": "1"}, "adaquant": {"iterations": "5"}},
    "without": ("smoothing",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guided") / "run"


@pytest.fixture(scope="module")
def events() -> list[AutoEvent]:
    return []


@pytest.fixture(scope="module")
def whole(folder: Path, events: list[AutoEvent]) -> AutoResult:
    """A run that goes through everything and does not meet the target."""
    return opened(folder).auto(**HARD, on_event=events.append)


def told(steps: tuple[AutoStep, ...]) -> list[AutoStep]:
    """Steps without what differs between two runs."""
    return [replace(s, seconds=0.0, sentence="", known=False) for s in steps]


def test_the_stages_come_in_order_of_what_they_cost(whole: AutoResult) -> None:
    stages = list(dict.fromkeys(step.stage for step in whole.steps))
    assert stages == [
        "calibrators", "cheap fixes", "partial quantization", "more bits", "reconstruction",
    ]  # fmt: skip
    assert [s.name for s in whole.steps if s.stage == "calibrators"] == list(HARD["calibrators"])


def test_the_base_is_the_calibrator_that_a_run_would_choose(whole: AutoResult) -> None:
    session = opened()
    session.calibrate(HARD["calibrators"])
    bits = {"weight_bits": 4, "activation_bits": 4}
    from qviz.calibration import compare_calibrators

    rows = compare_calibrators(
        session.calibrate(HARD["calibrators"]),
        session.evaluate,
        lambda spec: session.recipe(spec, **bits),  # type: ignore[arg-type]
    )
    chosen = [s.name for s in whole.steps if s.stage == "calibrators" and s.outcome == "kept"][-1]
    assert [r.calibrator for r in rows if r.best] == [chosen]


def test_every_step_says_what_it_did_and_is_told_twice(
    whole: AutoResult, events: list[AutoEvent]
) -> None:
    ends = [e for e in events if e.kind == "end"]
    assert [e.steps[-1] for e in ends] == list(whole.steps)
    assert [e.title for e in events if e.kind == "begin"] == [s.title for s in whole.steps]
    for step in whole.steps:
        assert step.sentence.startswith(step.title)
        assert step.reason in step.sentence
    assert ends[-1].best == whole.best


def test_the_best_so_far_never_gets_worse(whole: AutoResult, events: list[AutoEvent]) -> None:
    drops = [e.best.drop for e in events if e.best is not None and e.best.stage != "calibrators"]
    assert drops == sorted(drops, key=lambda d: -(d or 0.0))
    assert not whole.reached
    assert whole.ended.startswith("the target of 0 % is not met: this is the best found")


def test_what_a_fix_cannot_change_is_said(whole: AutoResult) -> None:
    (step,) = [s for s in whole.steps if s.name == "gelu_clip"]
    assert step.outcome == "idle"
    assert step.recipe is None


def test_what_the_user_leaves_out_is_not_tried(whole: AutoResult) -> None:
    assert "smoothing" not in [s.name for s in whole.steps]


def test_a_fix_starts_from_what_was_kept_before_it(whole: AutoResult) -> None:
    way = whole.steps[0].way
    for step in whole.steps:
        if step.stage == "cheap fixes" and step.way:
            assert step.way[:-1] == way
        if step.outcome == "kept" and step.stage not in BRANCHES:
            way = step.way


def test_the_run_folder_holds_the_best_recipe_and_the_account(
    whole: AutoResult, folder: Path
) -> None:
    assert whole.recipe is not None
    assert Recipe.from_json((folder / "recipe.json").read_text()) == whole.recipe
    account = json.loads((folder / "auto.json").read_text())
    assert account["ended"] == whole.ended
    assert [s["title"] for s in account["steps"]] == [s.title for s in whole.steps]
    assert account["best"]["recipe"] == json.loads(whole.recipe.to_json())
    assert [(d["role"], d["count"]) for d in account["data"]] == [
        ("calibration", 40),
        ("evaluation", 120),
    ]


def test_the_commands_in_python_give_the_same_recipe(whole: AutoResult, folder: Path) -> None:
    names: dict[str, Any] = {"session": opened()}
    for line in whole.commands[:-1]:  # the last one exports
        exec(line, names)
    assert names["recipe"] == whole.recipe


def test_an_interrupted_run_goes_on_and_ends_the_same(whole: AutoResult, tmp_path: Path) -> None:
    after = 6

    def stop(event: AutoEvent) -> None:
        if event.kind == "begin" and len(event.steps) == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        opened(tmp_path / "run").auto(**HARD, on_event=stop)
    account = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert account["ended"] == "it has not ended: run the same command again"
    assert len(account["steps"]) == after
    again = opened(tmp_path / "run").auto(**HARD)
    assert [s.known for s in again.steps] == [True] * after + [False] * (len(again.steps) - after)
    assert told(again.steps) == told(whole.steps)
    assert again.recipe == whole.recipe
    assert again.measured == whole.measured


def test_a_finished_run_is_not_repeated(whole: AutoResult, folder: Path) -> None:
    before = (folder / "auto.jsonl").read_bytes()
    again = opened(folder).auto(**HARD)
    assert all(step.known for step in again.steps)
    assert (folder / "auto.jsonl").read_bytes() == before
    assert again.earlier_seconds == pytest.approx(sum(s.seconds for s in whole.steps))


def test_a_calibrator_that_meets_the_target_is_the_end_of_it() -> None:
    found = opened().auto(max_drop=0.5, calibrators=("max", "mse"))
    assert found.reached
    assert [s.stage for s in found.steps] == ["calibrators"] * 2
    assert found.ended == "the target of 50.0 % is met"


class Time:
    """Time that passes only between steps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limited(budget: float, each: float, spent: float = 0.0) -> AutoResult:
    time = Time()

    def passes(event: AutoEvent) -> None:
        time.now += each if event.kind == "end" else 0.0

    options = AutoOptions(**{**HARD, "options": (), "without": tuple(METHODS)}, time_budget=budget)
    clock = Clock(budget, time)
    time.now += spent
    return auto(opened(), options, on_event=passes, clock=clock)


def test_what_does_not_fit_is_skipped_and_the_best_so_far_is_kept() -> None:
    found = limited(25.0, 10.0)
    outcomes = [s.outcome for s in found.steps]
    assert outcomes[:3].count("skipped") == 0
    assert outcomes[3:] == ["skipped"] * 2  # each said once, though it would be tried again
    assert found.steps[3].reason == "the time budget of 25 s is used up"
    assert found.best is not None
    assert found.ended == (
        "the target of 0 % is not met: this is the best found; there was no time for partial "
        "quantization (greedy), partial quantization (bisect)"
    )


def test_without_time_for_anything_nothing_is_found() -> None:
    found = limited(5.0, 1.0, spent=6.0)
    assert found.best is None
    assert not found.reached
    assert found.commands == ()


def failing(subject: object, **options: object) -> None:
    raise TuneError("Bias correction", "the fit gives NaN", "Use fewer iterations")


def test_a_method_that_fails_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = SimpleNamespace(OPTIONS=(), sites=lambda subject: ("stem",), apply=failing)
    title = METHODS["bias_correction"].title
    fake = SimpleNamespace(name="bias_correction", title=title, module=broken, needs=())
    monkeypatch.setitem(METHODS, "bias_correction", fake)
    only = tuple(n for n in METHODS if n not in ("bias_correction", "statistics"))
    found = opened().auto(**HARD | {"without": only, "options": {}})
    (step,) = [s for s in found.steps if s.name == "bias_correction"]
    assert step.outcome == "failed"
    assert step.sentence.startswith(
        "Bias correction: failed: Bias correction: the fit gives NaN. Use fewer iterations; "
    )
    assert found.steps[found.steps.index(step) + 1].name == "statistics"
    assert found.best is not None


def test_training_data_are_trained_on_last_and_the_method_repeats_it() -> None:
    model, _, _ = parts()
    inputs = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    session = opened(training=(inputs, labels))
    given = {"schedule_epochs": 10, "batch_size": 32}
    only = tuple(name for name in METHODS if name != "qat")
    asked = {"without": only, "options": {"qat": given}, "calibrators": ("max",)}
    found = session.auto(**HARD | asked)
    assert [d.role for d in found.data] == ["calibration", "evaluation", "training"]
    stages = [s.stage for s in found.steps]
    assert stages.index("training") > stages.index("partial quantization")
    step = found.steps[stages.index("training")]
    way = Action("tune", "qat", (("schedule_epochs", "10"), ("batch_size", "32")))
    assert step.way == (Action("calibrate", "max"), way)
    start = session.recipe("max", weight_bits=4, activation_bits=4)
    assert session.tune("qat", start, schedule_epochs=10, batch_size=32).recipe == step.recipe


def test_the_result_is_confirmed_on_data_that_chose_nothing() -> None:
    model, _, _ = parts()
    inputs = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    data = as_data((inputs, labels), "fresh")
    found = opened().auto(max_drop=0.5, calibrators=("max",), confirm=data)
    assert found.confirmation is not None
    assert (found.confirmation.name, found.confirmation.count) == ("fresh", 50)
    assert found.confirmation.float_value == 1.0
    assert found.confirmation.drop == pytest.approx(1 - found.confirmation.value)
    assert [d.role for d in found.data] == ["calibration", "evaluation", "confirmation"]
    assert not any("--confirm" in note for note in found.notes)


def test_data_that_chose_confirm_nothing() -> None:
    _, _, (inputs, labels) = parts()
    with pytest.raises(DataError) as error:
        opened().auto(confirm=as_data((inputs[:10], labels[:10]), "some"))
    assert str(error.value) == (
        "some: 10 of its 10 samples are evaluation samples too, so it confirms nothing. Give "
        "samples that nothing was chosen or fitted with."
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strategy": "best"},
         "strategy 'best': does not exist. Use one of guided, amct."),
        ({"evaluator": lambda a, b: (True, 0.0)},
         "evaluator: the strategy guided has none. Use strategy='amct'."),
        ({"without": ("none",)},
         f"method 'none': does not exist. Use one of {', '.join(METHODS)}."),
        ({"options": {"statistics": {"none": 1}}},
         "option none: the method has none of that name. Use where, target, strength, samples."),
        ({"skip": ("nowhere",)},
         "nowhere: Net has no such op or operand. List the names with qviz info."),
    ],
    ids=["strategy", "evaluator", "method", "option", "op"],
)  # fmt: skip
def test_what_does_not_exist_is_named_before_anything_runs(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(QvizError) as error:
        opened().auto(**asked)
    assert str(error.value) == message


def test_without_evaluation_data_there_is_no_target() -> None:
    import qviz

    model, calibration, _ = parts()
    with pytest.raises(DataError) as error:
        qviz.open(model, (calibration, None)).auto()
    assert str(error.value) == "evaluation data: are missing. Give some with evaluation=."


def test_a_metric_without_a_relative_drop_is_refused() -> None:
    with pytest.raises(MetricError):
        opened(metric="kl").auto()


EASY: dict[str, Any] = {"max_drop": 0.5}


def test_a_calibrator_tried_among_others_is_judged_anew_alone(tmp_path: Path) -> None:
    among = opened(tmp_path / "run").auto(calibrators=("max", "mse", "hfmg"), **EASY)
    left = next(s for s in among.steps if s.outcome == "not kept")
    alone = opened(tmp_path / "run").auto(calibrators=(left.name,), **EASY)
    assert alone.reached
    assert alone.best is not None
    assert (alone.best.name, alone.best.reason) == (left.name, "the first one measured")


def test_a_calibrator_tried_alone_is_judged_anew_among_others(tmp_path: Path) -> None:
    expected = opened().auto(calibrators=("mse", "percentile:99.9"), **EASY)
    opened(tmp_path / "run").auto(calibrators=("percentile:99.9",), **EASY)
    found = opened(tmp_path / "run").auto(calibrators=("mse", "percentile:99.9"), **EASY)
    assert told(found.steps) == told(expected.steps)


@pytest.mark.parametrize("other", [{"profile": "ort-cpu"}, {"seed": 5}])
def test_steps_of_another_profile_or_seed_are_not_taken(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    opened(tmp_path / "run").auto(calibrators=("max",), **EASY)
    found = opened(tmp_path / "run", **other).auto(calibrators=("max",), **EASY)
    assert not any(step.known for step in found.steps)
    assert found.recipe is not None
    assert found.recipe.profile == other.get("profile", "cuda")


def test_data_without_labels_confirm_nothing_if_the_metric_needs_them() -> None:
    inputs = torch.randn(8, 1, 8, 8)
    with pytest.raises(DataError) as error:
        opened().auto(confirm=as_data((inputs, None), "new"), **EASY)
    assert str(error.value) == "new: it has no labels, top1 needs them. Give labelled samples."


def test_data_of_another_shape_are_refused_before_anything_runs(tmp_path: Path) -> None:
    labels = torch.zeros(4, dtype=torch.long)
    session = opened(tmp_path / "run")
    with pytest.raises(ShapeError):
        session.auto(confirm=as_data((torch.randn(4, 2, 3), labels), "new"), **EASY)
    assert not (tmp_path / "run" / "auto.jsonl").exists()
