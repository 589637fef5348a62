"""Session: the whole job through one object, kept on disk and warned about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qviz
from qviz.errors import DataError, MetricError, RunFolderError
from qviz.progress import Progress
from qviz.records import samples_measured
from qviz.session import Session


class Net(nn.Module):
    """A convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
        return y


def samples(count: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator) * scale
    return x, torch.randint(0, 3, (count,), generator=generator)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def opened(model: nn.Module, run: Path | None = None) -> Session:
    return qviz.open(model, samples(40, 1), samples(120, 2), "top1", run_dir=run)


def test_the_six_lines_do_the_whole_job(model: nn.Module, tmp_path: Path) -> None:
    session = opened(model)
    session.calibrate()
    recipe = session.recipe(calibrator="entropy")
    scores = session.sensitivity(recipe)
    best = session.search(recipe, max_drop=0.5, sensitivity=scores)
    session.export(best, tmp_path / "out", formats=["checkpoint"])
    loaded = qviz.load_checkpoint(tmp_path / "out")
    x, _ = samples(5, 3)
    assert loaded(x).shape == (5, 3)


def test_any_loader_gives_the_same_histograms(model: nn.Module) -> None:
    x, y = samples(40, 1)
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    one = qviz.open(model, loader, (x, y)).calibrate()
    other = opened(model).calibrate()
    for name, histogram in one.histograms.items():
        assert torch.equal(histogram.counts, other.histograms[name].counts)
        assert histogram.exact_total == other.histograms[name].exact_total


def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    session = opened(model)
    session.evaluate(session.recipe("max"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_recipe_is_measured_once(model: nn.Module) -> None:
    session = opened(model)
    recipe = session.recipe("max")
    assert session.evaluate(recipe) is session.evaluate(recipe)


def test_the_float_model_does_not_differ_from_itself(model: nn.Module) -> None:
    result = opened(model).evaluate(None)
    assert result.change == 0.0
    assert result.divergence == pytest.approx(0.0, abs=1e-12)
    assert result.flips == ()


def test_best_calibrator_marks_one_of_those_tied_for_the_best(model: nn.Module) -> None:
    rows = opened(model).best_calibrator()
    best = [r for r in rows if r.best]
    assert len(best) == 1
    assert best[0].tied
    assert best[0].divergence == min(r.divergence for r in rows if r.tied)
    assert sum(not r.per_channel for r in rows) == 1


def test_a_run_folder_goes_on_where_it_stopped(model: nn.Module, tmp_path: Path) -> None:
    first = opened(model, tmp_path / "run")
    recipe = first.recipe("max")
    rows = first.sensitivity(recipe).rows
    value = first.evaluate(recipe).value
    size = (tmp_path / "run" / "sensitivity.jsonl").stat().st_size

    again = opened(model, tmp_path / "run")
    seen: list[Progress] = []
    again.calibrate(progress=seen.append)
    assert seen == []
    assert again.sensitivity(again.recipe("max")).rows == rows
    assert again.evaluate(again.recipe("max")).value == value
    assert (tmp_path / "run" / "sensitivity.jsonl").stat().st_size == size


def test_a_finished_ranking_in_the_folder_needs_no_gradient_pass(
    model: nn.Module, tmp_path: Path
) -> None:
    first = opened(model, tmp_path / "run")
    whole = first.sensitivity(first.recipe("max"))

    again = opened(model, tmp_path / "run")
    seen: list[Progress] = []
    resumed = again.sensitivity(again.recipe("max"), progress=seen.append)
    assert {step.verb for step in seen} == {"evaluate"}
    assert resumed.proxy == whole.proxy


def test_the_folder_says_how_many_samples_of_a_ranking_it_has(
    model: nn.Module, tmp_path: Path
) -> None:
    session = opened(model, tmp_path / "run")
    recipe = session.recipe("max")
    rows = session.sensitivity(recipe).rows
    key = session.sweep_key(recipe, "only_this", "both", "op")
    assert samples_measured(session.run) == {key: {row.name: row.samples for row in rows}}
    assert samples_measured(None) == {}


def test_a_folder_of_another_model_is_refused(model: nn.Module, tmp_path: Path) -> None:
    opened(model, tmp_path / "run").run.close()  # type: ignore[union-attr]
    torch.manual_seed(1)
    with pytest.raises(RunFolderError, match="model"):
        opened(Net().eval(), tmp_path / "run")


def test_shared_samples_are_warned_of(model: nn.Module) -> None:
    session = qviz.open(model, samples(40, 1), samples(40, 1))
    assert (
        "40 of 40 evaluation samples are calibration samples too: the measured drop is too good "
        "for them. Use other data to evaluate"
    ) in session.warnings


def test_few_samples_are_warned_of(model: nn.Module) -> None:
    session = qviz.open(model, samples(4, 1), samples(1, 2))
    assert session.warnings == [
        "calibration data: 4 calibration samples are few; ranges settle from 32 on, better 512",
        "evaluation data: with 1 evaluation samples a drop of a few per cent cannot be told from "
        "noise",
    ]


def test_values_far_outside_the_calibrated_range_are_warned_of_by_tensor(
    model: nn.Module,
) -> None:
    session = qviz.open(model, samples(40, 1), samples(120, 2, scale=20.0))
    session.evaluate(session.recipe("max"))
    assert any(w.startswith("tensor x: evaluation reaches") for w in session.warnings)


def test_missing_evaluation_data_message(model: nn.Module) -> None:
    session = qviz.open(model, samples(40, 1))
    with pytest.raises(DataError) as caught:
        session.evaluate(session.recipe("max"))
    assert str(caught.value) == "evaluation data: are missing. Give some with evaluation=."


def test_missing_calibration_data_message(model: nn.Module) -> None:
    with pytest.raises(DataError) as caught:
        qviz.open(model)
    assert str(caught.value) == "calibration data: are missing. Give some with calibration=."


def test_accuracy_without_labels_message(model: nn.Module) -> None:
    x, _ = samples(40, 1)
    session = qviz.open(model, x, x, "top1")
    with pytest.raises(MetricError) as caught:
        session.evaluate(session.recipe("max"))
    assert str(caught.value) == (
        "top1: needs labels, evaluation data has none. Give targets, or measure agreement instead."
    )


def test_without_labels_the_default_metric_is_agreement(model: nn.Module) -> None:
    x, _ = samples(40, 1)
    assert qviz.open(model, x, x).metric.name == "agreement"


def test_a_stopped_calibration_can_be_repeated(model: nn.Module) -> None:
    session = opened(model)

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.calibrate(progress=stop)
    assert session.calibrate().samples == 40


def test_coverage_names_what_was_left_in_float(model: nn.Module) -> None:
    session = opened(model)
    rows = {r.op: r for r in session.coverage(session.recipe("max").skip("fc"))}
    assert rows["fc"].status == "float by choice"
    assert rows["conv"].status == "int8"


@pytest.mark.parametrize(
    ("name", "score"), [("kl", "0 nats"), ("sqnr", "200 dB")], ids=["kl", "sqnr"]
)
def test_a_metric_without_a_relative_drop_cannot_be_searched_message(
    model: nn.Module, name: str, score: str
) -> None:
    session = qviz.open(model, samples(40, 1), samples(120, 2), name)
    with pytest.raises(MetricError) as caught:
        session.search(session.recipe("max"))
    assert str(caught.value) == (
        f"{name}: the float model scores {score}, so a relative drop from it has no meaning. "
        "Search with top1, agreement or a function of your own, R2 for instance."
    )
