"""A recipe as an ONNX file: valid, named like the model, and the same function."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnx
import onnx_kit as kit
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from qviz.affine import dequantize, quantize
from qviz.export.onnx_model import FloatType, onnx_model
from qviz.export.onnx_run import Session
from qviz.recipe import Recipe
from qviz.simulate import Simulator

NETWORKS = list(networks.NETWORKS)
FORMS: list[tuple[str, FloatType]] = [
    ("cuda", "float32"),
    ("cuda", "float16"),
    ("ort-cpu", "float32"),
]


def stored(proto: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}


def nodes(proto: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [n for n in proto.graph.node if n.op_type == kind]


@pytest.mark.parametrize(("profile", "float_type"), FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_form_passes_the_full_check(name: str, profile: str, float_type: FloatType) -> None:
    made = kit.model(name, profile, float_type)
    onnx.checker.check_model(made.proto, full_check=True)
    assert made.proto.opset_import[0].version == 20
    assert made.proto.ir_version == 9


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_file_is_the_model_at_any_batch(name: str, count: int) -> None:
    batch = networks.batch(*networks.inputs(name, count, 3))
    program = kit.simulator(name).program
    made = Session(kit.plain(name).content()).run(batch)
    for got, want in zip(made, program.run(program.inputs(batch)), strict=True):
        assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("profile", ["cuda", "ort-cpu"])
def test_word_by_word_the_file_is_the_simulation(name: str, profile: str) -> None:
    batch = networks.batch(*networks.inputs(name, 4, 3))
    simulator = kit.simulator(name)
    edits = simulator.edits(kit.recipe(name, profile))
    wanted = simulator.program.run(simulator.program.inputs(batch), edits)
    made = Session(kit.model(name, profile).content(), fused=False).run(batch)
    for got, want in zip(made, wanted, strict=True):
        # one rounding that falls the other way is worth about a step of the last tensor
        assert float((got - want).abs().max()) <= float(want.abs().max()) / 50


def test_nodes_and_values_have_the_names_of_ops_and_tensors() -> None:
    graph = networks.network("residual")[1]
    proto = kit.model("residual").proto
    named = {n.name for n in proto.graph.node}
    assert {op.name for op in graph.ops.values()} <= named
    assert set(graph.tensors) <= {o for n in proto.graph.node for o in n.output} | {"x"}
    assert [i.name for i in proto.graph.input] == ["x"]
    assert [o.name for o in proto.graph.output] == list(graph.outputs)


def test_the_batch_axis_is_free_and_the_others_are_not() -> None:
    shape = kit.model("residual").proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 3, 8, 8]


def test_weights_are_stored_as_the_simulations_codes_per_output_channel() -> None:
    simulator, made = kit.simulator("residual"), kit.recipe("residual")
    arrays = stored(kit.model("residual").proto)
    operand = simulator.graph.operands["conv2/weight"]
    params, rounded = simulator.weight(operand, 8, made.per_channel)
    codes = quantize(simulator.program.parameter("conv2.weight"), params)
    assert arrays["conv2.weight_quantized"].dtype == np.int8
    assert np.array_equal(arrays["conv2.weight_quantized"], codes.numpy())
    assert np.array_equal(arrays["conv2.weight_scale"], params.scale.numpy())
    assert torch.equal(dequantize(codes, params), rounded)
    assert "conv2.weight" not in arrays


def test_the_symmetric_form_has_no_zero_points() -> None:
    arrays = stored(kit.model("residual").proto)
    points = [v for k, v in arrays.items() if k.endswith("_zero_point")]
    assert {p.dtype for p in points} == {np.dtype(np.int8)}
    assert not any(p.any() for p in points)


def test_the_uint8_form_begins_at_zero_after_relu() -> None:
    arrays = stored(kit.model("residual", "ort-cpu").proto)
    assert arrays["relu:relu_zero_point"].dtype == np.uint8
    assert arrays["relu:relu_zero_point"] == 0
    assert arrays["x_zero_point"] > 0


def test_of_a_residual_add_the_identity_branch_alone_is_rounded() -> None:
    (add,) = (n for n in nodes(kit.model("residual").proto, "Add") if n.name == "add")
    assert list(add.input) == ["conv3", "relu:relu_DequantizeLinear_Output"]
    (both,) = (n for n in nodes(kit.model("residual", "ort-cpu").proto, "Add") if n.name == "add")
    assert list(both.input) == [
        "conv3_DequantizeLinear_Output",
        "relu:relu_DequantizeLinear_Output",
    ]


def test_a_skipped_op_is_float_and_reads_its_float_weight() -> None:
    made = onnx_model(kit.simulator("residual"), kit.recipe("residual").skip("conv2"))
    (conv,) = (n for n in nodes(made.proto, "Conv") if n.name == "conv2")
    assert list(conv.input) == ["relu:relu", "conv2.weight", "conv2.bias"]
    assert stored(made.proto)["conv2.weight"].dtype == np.float32


def test_one_tensor_is_quantized_once_for_all_its_readers() -> None:
    codes = [n.output[0] for n in nodes(kit.model("residual").proto, "QuantizeLinear")]
    assert codes.count("relu:relu_QuantizeLinear_Output") == 1
    assert len(codes) == len(set(codes))


def test_float16_is_everywhere_but_at_the_ends() -> None:
    proto = kit.model("residual", "cuda", "float16").proto
    arrays = stored(proto)
    kinds = {v.dtype for v in arrays.values()}
    assert kinds == {np.dtype(np.float16), np.dtype(np.int8)}
    ends = [*proto.graph.input, *proto.graph.output]
    assert {e.type.tensor_type.elem_type for e in ends} == {onnx.TensorProto.FLOAT}


def test_a_float16_scale_never_clips_the_largest_weight() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2, bias=False)
            # steps of 1.2e-7: two ulps of float16 at the bottom of its range
            self.fc.weight = nn.Parameter(torch.tensor([[1.5e-5, 3e-6, 1e-6], [1e-9, 0.0, 0.0]]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x)
            return out

    graph = kit.captured(Tiny(), torch.ones(2, 3))
    recipe = Recipe().with_range("x", -1, 1)
    made = onnx_model(Simulator(graph), recipe, float_type="float16")
    arrays = stored(made.proto)
    scale = arrays["fc.weight_scale"].astype(np.float64)
    assert (scale > 0).all()
    largest = arrays["fc.weight_quantized"][0, 0] * scale[0]
    assert abs(largest - 1.5e-5) <= scale[0] / 2


def test_a_bias_too_large_for_int32_makes_the_steps_of_its_channel_larger() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.fc.weight = nn.Parameter(torch.tensor([[1.0, -0.5], [1e-12, 0.0]]))
            self.fc.bias = nn.Parameter(torch.tensor([0.5, 3.0]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = F.relu(self.fc(x))
            return out

    graph = kit.captured(Dead(), torch.ones(2, 2))
    made = onnx_model(Simulator(graph), Recipe().with_range("x", -1, 1))
    assert made.widened == {"fc.weight": 1}
    scale = stored(made.proto)["fc.weight_scale"]
    assert scale[0] == np.float32(1.0) / np.float32(127)
    assert 3.0 / (scale[1] / 127) == pytest.approx(2.0**30)


def test_the_metadata_say_where_the_file_comes_from() -> None:
    said = {p.key: p.value for p in kit.model("tokens").proto.metadata_props}
    assert Recipe.from_json(said["qviz_recipe"]) == kit.recipe("tokens")
    assert len(said["qviz_recipe_digest"]) == 64
    assert said["qviz_model_digest"] == "abc"
    assert said["qviz_inputs"] == '[["ids", 0]]'
    assert kit.model("tokens").proto.producer_version == said["qviz_version"]
