from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from int8_models import CASES, Made, make
from torch import Tensor

from qviz.data import Batch, Data, as_data
from qviz.errors import CheckpointError, DataError, MetricError, NotFiniteError, ParityError
from qviz.evaluate import Evaluation
from qviz.export import export
from qviz.int8 import certificate_file, twin
from qviz.int8 import verify as verifying
from qviz.int8.certificate import Certificate, Change
from qviz.int8.checkpoint import save_checkpoint
from qviz.int8.parity import Parity, ParityRow, parity
from qviz.int8.verify import verify
from qviz.loading import LoadedModel
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.session import Session


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "TIMING_SECONDS", 0.0)
    monkeypatch.setattr(verifying, "FEWEST_RUNS", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(make("residual CNN").lowered, tmp_path / "int8")
    return tmp_path / "int8"


def labelled(made: Made, count: int = 20) -> Data:
    torch.manual_seed(1)
    x = torch.randn(count, 3, 16, 16)
    with torch.no_grad():
        labels = made.model(x).argmax(1)
    return as_data((x, labels), "evaluation")


def test_every_integer_call_is_compared_on_every_output() -> None:
    made = make("residual CNN")
    found = parity(made.lowered.module, made.lowered.calls, [made.batch, made.batch])
    assert [r.op for r in found.rows] == list(made.lowered.calls.values())
    assert found.rows[0].count == 2 * made.batch.args[0].numel()
    assert found.count == sum(r.exact + r.one_step + r.more for r in found.rows)
    assert found.passed


def test_a_wrong_kernel_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("residual CNN")
    real = twin.simulated

    def wrong(kernel: str, a: twin.Arguments, weight: Tensor | None) -> Tensor:
        found = real(kernel, a, weight)
        if kernel == "conv" and a["groups"] == 16:
            found[0, 0, 0, 0] += 3
        return found

    monkeypatch.setattr(twin, "simulated", wrong)
    found = parity(made.lowered.module, made.lowered.calls, [made.batch])
    row = next(r for r in found.rows if r.op == "depthwise")
    assert (row.more, row.largest) == (1, 3.0)
    assert found.more == 1  # the ops after it are compared on identical inputs
    with pytest.raises(ParityError) as caught:
        found.check()
    assert str(caught.value) == (
        "depthwise: its integer kernel is 3 steps off the simulation (1 of "
        f"{row.count} outputs are off by more than one). Set QVIZ_INT8_BACKEND=exact, and report "
        "the op: its kernel is wrong here."
    )


def test_an_error_inside_the_walk_keeps_its_words() -> None:
    made = make("residual CNN")
    batch = Batch((torch.full((2, 3, 16, 16), torch.nan),), {}, None, 2)
    with pytest.raises(NotFiniteError) as caught:
        parity(made.lowered.module, made.lowered.calls, [batch])
    assert str(caught.value) == (
        "tensor: holds NaN, which has no integer code. Find the op that makes it."
    )


def test_one_step_is_tolerated_seldom_and_not_often() -> None:
    def rows(one_step: int) -> Parity:
        row = ParityRow("conv1", "conv", "codes", 10_000, 10_000 - one_step, one_step, 0, 1.0)
        return Parity((row,))

    assert rows(10).passed
    assert not rows(11).passed
    with pytest.raises(ParityError) as caught:
        rows(200).check()
    assert str(caught.value) == (
        "integer execution: 2.00% of all outputs of the integer kernels are one step off the "
        "simulation, more than 0.1%. Set QVIZ_INT8_BACKEND=exact, and see which ops differ in "
        "certificate.json."
    )


def test_a_missing_input_is_named() -> None:
    made = make("keywords and trees")
    batch = CASES["residual CNN"].inputs(2)
    with pytest.raises(DataError) as caught:
        parity(made.lowered.module, made.lowered.calls, [batch])
    assert str(caught.value) == (
        "input scale: the model needs it, the data does not have it. "
        "Let the data yield the inputs in order, or as a dict of argument names."
    )


def test_verify_needs_the_folder_and_data_only(folder: Path) -> None:
    data = labelled(make("residual CNN"))
    found = verify(folder, data, "top1", batch_size=7, latency_batches=(1, 4))
    assert found.passed
    assert found.samples == 20
    cpu = found.backend("cpu")
    assert (cpu.value, cpu.same_class) == (cpu.simulated, 1.0)
    assert found.recorded == {}
    assert [each.batch for each in found.latency] == [1, 4]
    assert all(each.ratio > 0 for each in found.latency)
    assert found.int8_bytes < found.float_bytes < 4 * found.int8_bytes


def test_the_certificate_is_written_into_the_folder(folder: Path) -> None:
    found = verify(folder, labelled(make("residual CNN")), "top1", latency_batches=())
    written = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found.to_json()))
    assert written["passed"] is True
    (cpu,) = (one for one in written["backends"] if one["name"] == "cpu")
    assert cpu["calls"]["more"] == 0
    assert {"op", "kernel", "exact", "one_step", "more"} <= set(cpu["rows"][0])


def test_without_labels_and_metric_it_is_agreement(folder: Path) -> None:
    data = as_data(torch.randn(5, 3, 16, 16), "data")
    found = verify(folder, data, latency_batches=())
    assert (found.metric, found.reference) == ("agreement", "float twin")
    assert 0 <= (found.backend("cpu").value or 0) <= 1


def test_a_metric_of_the_users_must_be_given_again(tmp_path: Path) -> None:
    made = make("residual CNN")
    save_checkpoint(made.lowered, tmp_path / "int8", origin={"metric": {"name": "spearman"}})
    with pytest.raises(MetricError) as caught:
        verify(tmp_path / "int8", labelled(made), latency_batches=())
    assert str(caught.value) == (
        "spearman: it is a function of yours, which the checkpoint does not hold. Name it."
    )


def test_a_certificate_that_cannot_be_written_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(certificate_file, "replace_file", full)
    with pytest.raises(CheckpointError) as caught:
        verify(folder, labelled(make("residual CNN")), "top1", latency_batches=())
    assert str(caught.value) == (
        f"{folder / 'certificate.json'}: it cannot be written (no space left on device). "
        "Free some space or name another folder."
    )


def session(made: Made, data: Data) -> Session:
    return Session(
        LoadedModel(made.model, "Residual", "Residual", "0"),
        made.simulator.graph,
        as_data(made.batch.args[0], "calibration"),
        data,
        METRICS["top1"],
        run=None,
        profile_name="cuda",
        batch_size=8,
        memory_budget=1 << 20,
        seed=0,
    )


def test_an_exported_checkpoint_agrees_with_the_number_on_the_screen(tmp_path: Path) -> None:
    made = make("residual CNN")
    data = labelled(made, 50)
    source = session(made, data)
    shown: Evaluation = source.evaluate(made.recipe)
    result = export(source, made.recipe, tmp_path / "int8", formats=["all"])["checkpoint"]
    found = Certificate.from_json(json.dumps(result["certificate"]))
    cpu = found.backend("cpu")
    assert cpu.value == shown.value
    assert found.recorded == {"float": shown.reference.value, "simulated": shown.value}
    assert set(result["files"]) == {
        "model.safetensors", "recipe.json", "model.pt2", "float_scores.safetensors"
    }  # fmt: skip
    # the change and its interval are those on the screen
    limits = shown.interval
    assert found.backend("simulated").from_float == Change(shown.change, limits.low, limits.high)
    assert result["kernels"]["int8 conv"] == 9


def test_an_export_that_does_not_agree_is_an_error_with_its_report_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("residual CNN")
    real = twin.simulated
    monkeypatch.setattr(
        twin, "simulated", lambda k, a, w: real(k, a, w) + (5 if k == "linear" else 0)
    )
    recipe: Recipe = made.recipe
    with pytest.raises(ParityError, match="head: its integer kernel is"):
        export(session(made, labelled(made)), recipe, tmp_path / "int8")
    written = json.loads((tmp_path / "int8" / "certificate.json").read_text(encoding="utf-8"))
    assert written["passed"] is False
