"""ONNX Runtime beside the simulation, op by op and whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import networks
import onnx
import onnx_kit as kit
import pytest
import torch
from onnx import numpy_helper

from qviz.errors import CheckpointError, DataError, FormatError, MissingExtraError, ParityError
from qviz.export import onnx_ort_cpu, onnx_run, onnx_tensorrt
from qviz.export.onnx_model import onnx_model
from qviz.export.onnx_package import onnxruntime
from qviz.export.onnx_parity import CURE, OnnxParity, compare, simulated
from qviz.export.onnx_pieces import Pieces
from qviz.export.onnx_run import Session
from qviz.int8.parity import ParityRow
from qviz.recipe import Recipe
from qviz.simulate import Simulator

NETWORKS = list(networks.NETWORKS)


@pytest.mark.parametrize("profile", ["cuda", "ort-cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_op_is_within_one_step_on_identical_codes(name: str, profile: str) -> None:
    source = simulated(kit.simulator(name), kit.recipe(name, profile))
    found = compare(
        kit.model(name, profile).content(), networks.data(name, 32, 5).batches(16), source
    )
    found.check()
    assert found.more == 0
    assert found.share < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_each_int8_op_has_a_row_under_its_name(name: str) -> None:
    graph = networks.network(name)[1]
    rows = compare(kit.model(name).content(), networks.data(name, 4).batches(4)).rows
    kinds = {"conv2d": "conv"}
    wanted = {(op.name, kinds.get(op.type, op.type)) for op in graph.quantizable}
    assert wanted == {(r.op, r.kernel) for r in rows if r.kernel != "quantize"}


def test_a_file_alone_is_compared_with_itself_word_by_word() -> None:
    content = kit.model("residual").content()
    data = networks.data("residual", 16, 5)
    alone = compare(content, data.batches(16))
    known = compare(
        content, data.batches(16), simulated(kit.simulator("residual"), kit.recipe("residual"))
    )
    assert [(r.op, r.count) for r in alone.rows] == [(r.op, r.count) for r in known.rows]
    assert alone.passed


def test_float16_is_within_one_step_of_itself_word_by_word() -> None:
    found = compare(
        kit.model("residual", "cuda", "float16").content(),
        networks.data("residual", 16).batches(16),
    )
    assert found.more == 0
    assert (found.allowed, found.allowed_more) == (0.1, 1e-4)
    assert found.passed


def test_a_dead_channel_keeps_its_bias_in_float16() -> None:
    class Dead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(2, 2, 1), torch.nn.Conv2d(2, 2, 1)
            weight = torch.tensor([[1.0, -0.5], [1e-4, 0.0]]).reshape(2, 2, 1, 1)
            self.first.weight = torch.nn.Parameter(weight)
            self.first.bias = torch.nn.Parameter(torch.tensor([0.5, 3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(self.first(x).relu())
            return out

    x = kit.images(8, 2, 4, 4)
    graph = kit.captured(Dead(), x)
    recipe = Recipe().with_range("x", -1e-2, 1e-2).with_range("relu", 0, 4)
    content = onnx_model(Simulator(graph), recipe, float_type="float16").content()
    found = compare(content, [networks.batch(x)])
    assert [r.more for r in found.rows] == [0, 0, 0]


def test_a_conv_and_its_relu_are_one_piece_that_ends_in_codes() -> None:
    (piece,) = (p for p in Pieces(kit.model("residual", "ort-cpu").proto) if p.op == "conv1")
    model = onnx.load_from_string(piece.content)
    kinds = [n.op_type for n in model.graph.node]
    assert sorted(kinds) == [
        "Conv",
        "DequantizeLinear",
        "DequantizeLinear",
        "QuantizeLinear",
        "Relu",
    ]
    assert list(piece.inputs) == ["x_QuantizeLinear_Output"]
    assert piece.output.value == "relu:relu"


def test_the_share_that_a_rounded_bias_explains_is_its_mean_move_in_steps() -> None:
    (piece,) = (p for p in Pieces(kit.model("residual", "ort-cpu").proto) if p.op == "conv1")
    arrays = {
        i.name: numpy_helper.to_array(i).astype(float)
        for i in kit.model("residual", "ort-cpu").proto.graph.initializer
    }
    step = torch.from_numpy(arrays["x_scale"] * arrays["conv1.weight_scale"])
    bias = torch.from_numpy(arrays["conv1.bias"])
    moved = (bias - (bias / step).round() * step).abs() / float(arrays["relu:relu_scale"])
    assert piece.bias_share == pytest.approx(float(moved.mean()), rel=1e-6)


def test_a_changed_weight_is_found_where_it_is() -> None:
    proto = onnx.load_from_string(kit.model("residual").content())
    (weight,) = (i for i in proto.graph.initializer if i.name == "conv2.weight_quantized")
    codes = numpy_helper.to_array(weight).copy()
    codes[0] = -codes[0]
    weight.CopyFrom(numpy_helper.from_array(codes, weight.name))
    source = simulated(kit.simulator("residual"), kit.recipe("residual"))
    found = compare(proto.SerializeToString(), networks.data("residual", 8, 5).batches(8), source)
    assert {r.op for r in found.rows if r.more} == {"conv2"}
    with pytest.raises(ParityError, match=r"conv2: its kernel in ONNX Runtime is .* steps off"):
        found.check()


def test_too_many_outputs_one_step_off_are_said_with_their_share() -> None:
    row = ParityRow("conv1", "conv", "codes", 1000, 990, 10, 0, 1.0)
    with pytest.raises(ParityError) as failed:
        OnnxParity((row,)).check()
    assert str(failed.value) == (
        "ONNX Runtime: 1.00% of all outputs are one step off the simulation, more than 0.10%. "
        f"{CURE}."
    )


# -- running files --------------------------------------------------------------------------------


def test_inputs_are_found_by_position_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "twins.onnx"
    path.write_bytes(kit.model("twins").content())
    a, b = networks.inputs("twins", 3, 5)
    (first,) = onnx_run.run(path, networks.batch(a, b))
    bare = kit.without_metadata(kit.model("twins").proto)
    session = Session(bare.SerializeToString())
    assert torch.equal(first, session.run(networks.batch(a, b))[0])
    assert torch.equal(first, session.run(networks.batch(a=a, b=b))[0])


def test_a_missing_input_is_named() -> None:
    (a, _) = networks.inputs("twins", 3)
    with pytest.raises(DataError) as failed:
        Session(kit.model("twins").content()).run(networks.batch(a))
    assert str(failed.value) == (
        "input b: the ONNX file needs it, the data does not have it. "
        "Let the data yield the inputs in order, or as a dict of argument names."
    )


def test_a_file_that_is_not_there_or_not_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"there is no such file\. Name a file that qviz export"):
        onnx_run.run(tmp_path / "no.onnx", networks.batch(torch.ones(1)))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx at all")
    with pytest.raises(FormatError, match="ONNX Runtime refuses it"):
        onnx_run.run(broken, networks.batch(torch.ones(1)))
    with pytest.raises(FormatError) as failed:
        compare(broken, [])
    assert str(failed.value) == f"{broken}: it is no ONNX file, or damaged. Export it again."


# -- the formats ----------------------------------------------------------------------------------


def test_the_tensorrt_folder_holds_the_file_its_recipe_and_the_proof(tmp_path: Path) -> None:
    made = onnx_tensorrt.export(kit.request("residual", tmp_path / "onnx-tensorrt"))
    folder = Path(made["folder"])
    names = {"model.onnx", "recipe.json", "parity.json", "build.sh", "build_engine.py"}
    assert {p.name for p in folder.iterdir()} == names == set(made["files"])
    assert {n: (folder / n).stat().st_size for n in names} == made["files"]
    assert Recipe.from_json((folder / "recipe.json").read_text()) == kit.recipe("residual")
    said = json.loads((folder / "parity.json").read_text())
    assert said["parity"]["passed"] is True
    assert said["metric"] == "agreement"  # the data has no labels
    assert {**said, "parity": 0} == {
        **{k: made[k] for k in ("opset", "float_type", "sha256", "widened_for_bias", "profile")},
        **{**made["onnxruntime"], "parity": 0},
    }


def test_the_metric_under_onnxruntime_differs_by_no_more_than_the_flipped_samples(
    tmp_path: Path,
) -> None:
    said = onnx_ort_cpu.export(kit.request("residual", tmp_path))["onnxruntime"]
    assert said["flips"] is not None
    assert abs(said["onnxruntime"] - said["simulated"]) <= said["flips"] / said["samples"]


def test_for_onnxruntime_both_recipes_are_measured(tmp_path: Path) -> None:
    made = onnx_ort_cpu.export(kit.request("residual", tmp_path))
    assert made["derived"]["from"] == "cuda"
    assert 0 <= made["derived"]["simulated"] <= 1
    written = Recipe.from_json((tmp_path / "recipe.json").read_text())
    assert written == kit.recipe("residual", "ort-cpu")
    own = onnx_ort_cpu.export(kit.request("residual", tmp_path, written))
    assert "derived" not in own


def test_what_is_derived_clips_above_where_it_did_and_below_at_zero_after_relu() -> None:
    before, after = kit.recipe("residual"), kit.recipe("residual", "ort-cpu")
    assert after.profile == "ort-cpu"
    assert {r.tensor: r.hi for r in before.ranges} == {r.tensor: r.hi for r in after.ranges}
    assert after.range_of["relu:relu"].lo == 0
    assert after.range_of["x"].lo == before.range_of["x"].lo


def test_onnxruntime_uses_integer_kernels_for_the_uint8_form(tmp_path: Path) -> None:
    said = onnx_ort_cpu.export(kit.request("residual", tmp_path))["onnxruntime"]
    assert said["kernels"]["QLinearConv"] == 3
    assert said["left_float"] == ["fc"]  # its output is float


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError) as failed:
        onnx_tensorrt.export(kit.request("residual", tmp_path / "file" / "onnx"))
    assert str(failed.value) == (
        f"{tmp_path / 'file' / 'onnx'}: it cannot be written (not a directory). "
        "Free some space or name another folder."
    )


def test_an_op_that_cannot_be_written_is_a_refusal_among_other_formats(tmp_path: Path) -> None:
    import qviz
    from qviz.export import export

    class Determinant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.linalg.det(self.fc(x)).unsqueeze(1)
            return out

    session = qviz.open(Determinant(), calibration=[kit.images(3, 3) for _ in range(4)])
    session.calibrate()
    recipe = session.recipe(calibrator="max")
    made = export(session, recipe, tmp_path, formats=("onnx-ort-cpu", "aimet"), refuse="report")
    assert made["onnx-ort-cpu"]["refused"].endswith(
        "there is no translation of it. "
        "Write it with other operations in forward, or export another format."
    )
    assert "folder" in made["aimet"]


def test_missing_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as failed:
        onnxruntime()
    assert str(failed.value) == (
        "ONNX: onnxruntime is not installed. Run pip install 'qviz[onnx]'."
    )
