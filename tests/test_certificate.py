"""The certificate as a document: what it says, when it holds, and when it is refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from certificates import CPU_RESULT, ROW, example
from int8_models import make
from torch import Tensor, fx

import qviz
from qviz.data import Data, as_data
from qviz.errors import CheckpointError, DeviceError, FormatError, ParityError, QvizError
from qviz.export import export
from qviz.export.onnx_model import onnx_model
from qviz.int8 import backends as running
from qviz.int8 import certificate as certificates
from qviz.int8 import verify as verifying
from qviz.int8.backends import Backend, cpu_backend
from qviz.int8.certificate import CUDA, BackendResult, Certificate, seal
from qviz.int8.certificate_file import read_certificate, standing
from qviz.int8.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qviz.int8.cuda import registry
from qviz.int8.environment import environment
from qviz.int8.parity import Comparison, call_here
from qviz.int8.verify import verify
from qviz.loading import LoadedModel
from qviz.metrics import METRICS
from qviz.session import Session

SCHEMA = json.loads(
    (Path(qviz.__file__).parent / "schemas" / "certificate.schema.json").read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "TIMING_SECONDS", 0.0)
    monkeypatch.setattr(verifying, "FEWEST_RUNS", 1)


def data(count: int = 12) -> Data:
    torch.manual_seed(1)
    x = torch.randn(count, 3, 16, 16)
    with torch.no_grad():
        labels = make("residual CNN").model(x).argmax(1)
    return as_data((x, labels), "evaluation")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "int8"
    save_checkpoint(make("residual CNN").lowered, folder)
    verify(folder, data(), "top1", latency_batches=(1,))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "int8"
    shutil.copytree(written, copy)
    return copy


def message(call: Callable[[], object]) -> str:
    with pytest.raises(QvizError) as caught:
        call()
    return str(caught.value)


def rewritten(folder: Path, **changes: object) -> None:
    """The certificate with other values, and a seal that fits them."""
    path = folder / "certificate.json"
    found = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({**found, "seal": seal(found)}), encoding="utf-8")


def test_it_survives_a_round_trip() -> None:
    failed = replace(CPU_RESULT, rows=(replace(ROW, more=1, largest=math.inf),))
    made = example(failed, samples=3, reference="float twin")
    assert Certificate.from_json(json.dumps(made.to_json(), allow_nan=False)) == made


def test_it_fits_the_published_schema(written: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for found in (
        json.loads((written / "certificate.json").read_text(encoding="utf-8")),
        json.loads(json.dumps(example().to_json(), allow_nan=False)),
    ):
        jsonschema.validate(found, SCHEMA)


def test_the_schema_is_of_the_version_that_is_written() -> None:
    assert SCHEMA["properties"]["version"]["const"] == certificates.VERSION


def test_it_says_what_was_verified_where_and_with_what(written: Path) -> None:
    found = read_certificate(written)
    assert set(found.subject.files) == {
        "model.safetensors", "recipe.json", "model.pt2", "checkpoint.json"
    }  # fmt: skip
    assert found.subject.data == (held := replace(found.subject.data, digest=data().digest))
    assert held.count == 12
    assert found.environment == environment()
    assert {"python", "torch", "numpy", "qviz"} <= set(found.environment.versions)
    assert found.backend("cpu").kernels
    assert (found.tolerance.one_step, found.tolerance.float_step) == (1e-3, 0.02)


def test_it_is_read_back_as_it_was_made(folder: Path) -> None:
    made = verify(folder, data(), "top1", latency_batches=())
    assert read_certificate(folder) == made
    assert standing(folder).certificate == made


def test_a_folder_that_was_not_verified_has_none(tmp_path: Path) -> None:
    assert standing(tmp_path).certificate is None
    assert message(lambda: read_certificate(tmp_path)) == (
        f"{tmp_path / 'certificate.json'}: there is none: not verified yet. Make one with qviz "
        "verify."
    )


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "checkpoint.json"])
def test_a_file_that_has_changed_since_makes_it_stale(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert message(lambda: read_certificate(folder)) == (
        f"{folder / 'certificate.json'}: it is of other files than those beside it: {name} has "
        "changed since. Make it again with qviz verify."
    )


def test_weights_that_were_tampered_with_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert message(lambda: verify(folder, data(), "top1")) == (
        f"{path}: it is damaged: its sha256 is not the one in checkpoint.json. Export the "
        "checkpoint again, or copy the whole folder again."
    )


def test_the_certificate_of_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_checkpoint(make("residual CNN", weight_bits=4).lowered, other)
    shutil.copyfile(folder / "certificate.json", other / "certificate.json")
    found = standing(other)
    assert found.certificate is None
    assert "it is of other files than those beside it: model.safetensors has changed" in (
        found.problem
    )


def test_another_schema_version_is_refused(folder: Path) -> None:
    rewritten(folder, version=2)
    assert message(lambda: read_certificate(folder)) == (
        f"{folder / 'certificate.json'}: schema version 2 is not 1, the one this qviz reads. "
        "Install the qviz that wrote it, or make it again with qviz verify."
    )


def test_a_number_that_was_changed_by_hand_is_found(folder: Path) -> None:
    path = folder / "certificate.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"more": 0', '"more": 1', 1))
    assert message(lambda: read_certificate(folder)) == (
        f"{path}: it was changed after it was made: its seal does not fit. Make it again with qviz "
        "verify."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples": "many"}, "\"samples\" is 'many'"),
        ({"backends": [{"name": "cpu"}]}, '"backends[0].title" is missing'),
        ({"latency": None}, "\"latency\" is 'None'"),
    ],
    ids=["wrong type", "missing value", "nothing"],
)
def test_a_damaged_value_is_named(folder: Path, changes: Mapping[str, Any], reason: str) -> None:
    rewritten(folder, **changes)
    assert message(lambda: read_certificate(folder)) == (
        f"{folder / 'certificate.json'}: it is damaged: {reason}. Make it again with qviz verify."
    )


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_one_line(folder: Path, content: bytes) -> None:
    path = folder / "certificate.json"
    path.write_bytes(content)
    assert message(lambda: read_certificate(folder)) == (
        f"{path}: it is damaged: not JSON. Make it again with qviz verify."
    )


def test_a_folder_that_cannot_be_read_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", locked)
    monkeypatch.setattr(Path, "read_text", locked)
    assert message(lambda: load_checkpoint(folder)) == (
        f"{folder / 'checkpoint.json'}: it cannot be read (permission denied). Export the "
        "checkpoint again, or copy the whole folder again."
    )
    assert message(lambda: read_certificate(folder)) == (
        f"{folder / 'certificate.json'}: it cannot be read (permission denied). Make it again with "
        "qviz verify."
    )


def test_one_failed_backend_fails_the_whole_and_names_the_op() -> None:
    wrong = BackendResult(
        CUDA, "int8 on CUDA", "failed", rows=(replace(ROW, one_step=0, more=4, largest=3.0),)
    )
    made = example(CPU_RESULT, wrong)
    assert not made.passed
    with pytest.raises(ParityError) as caught:
        made.check()
    assert str(caught.value) == (
        "conv: its CUDA kernel is 3 steps off the simulation (4 of 4000000 outputs are off by more "
        "than one). Run it on the CPU until it is mended, and report the op: its kernel is wrong "
        "here."
    )


def test_a_backend_that_was_not_run_fails_nothing() -> None:
    made = example()
    assert made.passed
    made.check()


def test_all_backends_get_the_same_codes() -> None:
    made = make("residual CNN")
    seen: list[tuple[str, Tensor]] = []

    def noting(name: str) -> Callable[..., Tensor]:
        def call(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
            seen.append((name, args[0]))
            found = call_here(node, args, kwargs)
            return found + 1 if name == "b" and node.name == "conv" else found

        return call

    comparison = Comparison(
        made.lowered.module, made.lowered.calls, {"a": noting("a"), "b": noting("b")}
    )
    comparison.run(made.batch)
    assert all(a[1] is b[1] for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert comparison.result("a").passed


def other_backend(checkpoint: Checkpoint, call: Callable[..., Tensor]) -> Backend:
    """A backend that calls itself CUDA, so that a machine without one can be tested."""
    return replace(cpu_backend(checkpoint), name=CUDA, title="int8 on CUDA", call=call)


def test_a_second_backend_has_a_line_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        found = call_here(node, args, kwargs)
        return found + 3 if "linear" in node.name else found

    monkeypatch.setattr(
        verifying, "cuda_backend", lambda at: other_backend(load_checkpoint(at), wrong)
    )
    monkeypatch.setattr(verifying, "environment", lambda *, gpu: environment())
    found = verify(folder, data(), "top1", latency_batches=(), device="cuda")
    verdicts = {one.name: one.verdict for one in found.backends}
    assert verdicts == {
        "float": "reference", "simulated": "reference", "cpu": "passed", "cuda": "failed"
    }  # fmt: skip
    assert [row.op for row in found.backend(CUDA).rows if row.more] == ["head"]
    assert not read_certificate(folder).passed


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="about a PyTorch without CUDA")
def test_a_gpu_that_is_not_there_is_one_line_where_it_was_asked_for(folder: Path) -> None:
    assert message(lambda: verify(folder, data(), "top1", device="cuda")) == (
        "CUDA: this PyTorch is built without CUDA. Verify on the CPU alone with --device cpu, or "
        "go on without the GPU with --fallback."
    )
    for found in (
        verify(folder, data(), "top1", latency_batches=()),
        verify(folder, data(), "top1", latency_batches=(), device="cuda", fallback=True),
    ):
        assert found.backend(CUDA).verdict == "not run"
        assert found.backend(CUDA).reason == "this PyTorch is built without CUDA"
    found = verify(folder, data(), "top1", latency_batches=(), device="cpu")
    assert found.backend(CUDA).reason == "left out as asked"


@pytest.mark.parametrize(
    ("capability", "problem"),
    [
        ((7, 0), "V100 is too old: its compute capability is 7.0, the int8 kernels need 8.0"),
        (None, "PyTorch finds no GPU that it can use"),
    ],
    ids=["too old", "no GPU"],
)
def test_why_a_gpu_cannot_be_used_is_one_line(
    capability: tuple[int, int] | None, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    registry.forget()
    assert message(running.check_cuda).startswith(f"CUDA: {problem}. ")


def test_a_gpu_out_of_memory_is_one_line_and_left_out_only_if_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = running._Elsewhere("cpu")

    def full(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        def call(*_: object) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        with monkeypatch.context() as patch:
            patch.setattr(running, "call_here", call)
            return elsewhere(node, args, kwargs)

    monkeypatch.setattr(
        verifying, "cuda_backend", lambda at: other_backend(load_checkpoint(at), full)
    )
    with pytest.raises(DeviceError) as caught:
        verify(folder, data(), "top1", device="cuda")
    assert str(caught.value) == (
        "CUDA: the GPU is out of memory. Free some of its memory. Verify on the CPU alone with "
        "--device cpu, or go on without the GPU with --fallback."
    )
    found = verify(folder, data(), "top1", latency_batches=(), device="cuda", fallback=True)
    assert found.backend(CUDA).reason == "the GPU is out of memory"
    assert found.environment.gpu is None


def test_calls_elsewhere_give_what_calls_here_give() -> None:
    made = make("residual CNN")
    comparison = Comparison(
        made.lowered.module, made.lowered.calls, {"there": running._Elsewhere("cpu")}
    )
    comparison.run(made.batch)
    assert comparison.result("there").passed


def test_an_error_names_the_certificate_it_is_about() -> None:
    with pytest.raises(CheckpointError) as caught:
        Certificate.from_json("[]", "mine")
    assert str(caught.value) == (
        'mine: it is no certificate: "format" is not "qviz-certificate". Make it again with qviz '
        "verify."
    )


@pytest.fixture(scope="module")
def beside(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with two ONNX files beside it: its own recipe, and one for ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    made = make("residual CNN")
    folder = tmp_path_factory.mktemp("beside") / "int8"
    shutil.copytree(written, folder)
    for name, recipe in (("same", made.recipe), ("other", replace(made.recipe, profile="ort-cpu"))):
        (folder / name).mkdir()
        content = onnx_model(made.simulator, recipe, carry=name == "other").content()
        (folder / name / "model.onnx").write_bytes(content)
    return folder


def test_the_onnx_files_beside_it_are_backends_too(beside: Path) -> None:
    found = verify(beside, data(), "top1", latency_batches=(), onnx=True)
    for name in ("same", "other"):
        one = found.backend(name)
        assert (one.verdict, one.file) == ("passed", f"{name}/model.onnx")
        assert one.compared == 12
        assert one.because.startswith("Op by op beside the file computed word by word. ")
        assert one.rows
    assert found.backend("same").simulated == found.backend("simulated").value
    assert {"same/model.onnx", "other/model.onnx"} <= set(found.subject.files)
    jsonschema.validate(json.loads((beside / "certificate.json").read_text()), SCHEMA)
    (beside / "same" / "model.onnx").touch()  # as it was: what counts is what is in it
    assert read_certificate(beside) == found


def test_an_onnx_file_that_has_changed_makes_it_stale(beside: Path, tmp_path: Path) -> None:
    shutil.copytree(beside, tmp_path / "int8")
    verify(tmp_path / "int8", data(), "top1", latency_batches=())
    (tmp_path / "int8" / "other" / "model.onnx").unlink()
    assert "other/model.onnx is missing" in standing(tmp_path / "int8").problem


def test_a_damaged_onnx_file_fails_the_certificate(beside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(beside, folder)
    path = folder / "same" / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    found = verify(folder, data(), "top1", latency_batches=())
    assert found.backend("same").verdict == "failed"
    with pytest.raises(ParityError) as caught:
        found.check()
    assert str(caught.value) == (
        f"same in ONNX Runtime: it could not be run ({path}: it is no ONNX file, or damaged). "
        "Export it again."
    )


def test_onnx_is_insisted_on_only_where_it_was_asked_for(folder: Path) -> None:
    assert message(lambda: verify(folder, data(), "top1", latency_batches=(), onnx=True)) == (
        f"{folder}: there is no ONNX file beside the checkpoint. Export one into the same folder: "
        "qviz export RUN --formats checkpoint,onnx-tensorrt."
    )
    names = {b.name for b in verify(folder, data(), "top1", latency_batches=()).backends}
    assert names == {"float", "simulated", "cpu", "cuda"}


def test_without_onnxruntime_its_files_are_not_run_and_the_extra_is_named(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = verify(beside, data(), "top1", latency_batches=())
    assert found.passed
    assert (found.backend("same").verdict, found.backend("same").reason) == (
        "not run", "ONNX: onnxruntime is not installed"
    )  # fmt: skip
    said = message(lambda: verify(beside, data(), "top1", latency_batches=(), onnx=True))
    assert said == "ONNX: onnxruntime is not installed. Run pip install 'qviz[onnx]'."


def test_an_onnx_file_of_another_model_is_not_run(beside: Path, tmp_path: Path) -> None:
    folder, made = tmp_path / "int8", make("residual CNN")
    save_checkpoint(made.lowered, folder, origin={"model": {"name": "Net", "digest": "mine"}})
    (folder / "same").mkdir()
    content = onnx_model(made.simulator, made.recipe, model_digest="theirs").content()
    (folder / "same" / "model.onnx").write_bytes(content)
    found = verify(folder, data(), "top1", latency_batches=())
    assert found.backend("same").reason == "it was exported from another model"


def session(profile: str) -> Session:
    """The model with its data, as an export is given it."""
    made = make("residual CNN")
    return Session(
        LoadedModel(made.model, "Residual", "Residual", "0"),
        made.simulator.graph,
        as_data(made.batch.args[0], "calibration"),
        data(),
        METRICS["top1"],
        run=None,
        profile_name=profile,
        batch_size=8,
        memory_budget=1 << 20,
        seed=0,
    )


def test_an_export_compares_onnx_with_the_simulation_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = make("residual CNN")
    told: list[str] = []
    result = export(
        session("cuda"),
        made.recipe,
        tmp_path / "int8",
        formats=["checkpoint", "onnx-tensorrt", "onnx-ort-cpu"],
        on_result=lambda name, result: told.append(name),
    )
    assert told == ["onnx-tensorrt", "onnx-ort-cpu", "checkpoint"]
    assert list(result) == ["checkpoint", "onnx-tensorrt", "onnx-ort-cpu"]
    found = read_certificate(tmp_path / "int8")
    for name in ("onnx-tensorrt", "onnx-ort-cpu"):
        one = found.backend(name)
        assert one.verdict == "passed"
        assert one.because.startswith("Op by op beside the simulation of its recipe. ")
        assert one.from_float is not None


def test_a_refusal_is_raised_or_reported_as_asked(tmp_path: Path) -> None:
    made = make("residual CNN")
    recipe, source = replace(made.recipe, profile="ort-cpu"), session("ort-cpu")
    with pytest.raises(FormatError):
        export(source, recipe, tmp_path / "int8", formats=["checkpoint"])
    (told,) = export(
        source, recipe, tmp_path / "int8", formats=["checkpoint"], refuse="report"
    ).values()
    assert told["refused"].startswith(
        "int8 checkpoint: cannot express the recipe: activations have"
    )
    assert not (tmp_path / "int8").exists()
