"""What TensorRT users need beside the file: build scripts, and the precisions of a built engine."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import onnx_kit as kit
import pytest

from qviz.cli import main
from qviz.errors import FormatError
from qviz.export.tensorrt_build import LAYERS, build_engine_py, build_sh, input_shapes
from qviz.export.tensorrt_precision import (
    Reformat,
    read_precision,
    wanted_of_file,
)
from qviz.graph import Graph
from qviz.recipe import Recipe, resolve

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP32 = "Row major linear FP32 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"


def layer(name: str, kind: str, before: str, after: str, **more: Any) -> dict[str, Any]:
    """A layer as TensorRT 10 describes it."""
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "a", "Dimensions": [8, 4, 8, 8], "Format/Datatype": before}],
        "Outputs": [{"Name": "b", "Dimensions": [8, 4, 8, 8], "Format/Datatype": after}],
        **more,
    }


ENGINE = {
    "Layers": [
        layer(
            "Reformatting CopyNode for Input Tensor 0 to x_QuantizeLinear", "Reformat", FP32, INT8
        ),
        layer(
            "conv1.weight_DequantizeLinear + conv1 + relu:relu",
            "CaskConvolution",
            INT8,
            INT8,
            Weights={"Type": "Int8", "Count": 108},
            Metadata="[ONNX Layer: conv1.weight_DequantizeLinear]\x1e[ONNX Layer: conv1]\x1e"
            "[ONNX Layer: relu:relu]",
        ),
        layer(
            "conv2 + relu:relu.1",
            "CaskConvolution",
            FP16,
            FP16,
            Weights={"Type": "Half", "Count": 9},
        ),
        layer(
            "conv3 + add + relu:relu.2",
            "CaskConvolution",
            INT8,
            FP32,
            Weights={"Type": "Int8", "Count": 9},
            Metadata="[ONNX Layer: conv3]\x1e[ONNX Layer: add]\x1e[ONNX Layer: relu:relu.2]",
        ),
    ],
    "Bindings": ["x", "fc"],
}


def written(content: object, folder: Path) -> Path:
    path = folder / LAYERS
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def wanted_of_recipe(graph: Graph, recipe: Recipe) -> dict[str, str]:
    """What the file says, from the decision that it was written by."""
    decisions = resolve(recipe, graph)
    found = {op: [decisions[o.name].int8 for o in op.operands] for op in graph.quantizable}
    return {
        op.name: "int8" if (any(int8) if op.type == "add" else all(int8)) else "float"
        for op, int8 in found.items()
    }


def wanted() -> dict[str, str]:
    return wanted_of_recipe(networks.network("residual")[1], kit.recipe("residual"))


def test_each_op_has_the_precision_of_the_layer_that_names_it(tmp_path: Path) -> None:
    found = read_precision(written(ENGINE, tmp_path), wanted())
    assert {op.op: (op.precision, op.output) for op in found.ops} == {
        "conv1": ("int8", "int8"),
        "conv2": ("fp16", "fp16"),
        "conv3": ("int8", "fp32"),
        "add": ("int8", "fp32"),
        "fc": ("", ""),
    }
    assert [op.op for op in found.fell_back] == ["conv2"]
    assert [op.op for op in found.unknown] == ["fc"]
    assert found.layers == 4


def test_layers_that_only_reformat_are_listed(tmp_path: Path) -> None:
    found = read_precision(written(ENGINE, tmp_path), wanted())
    name = "Reformatting CopyNode for Input Tensor 0 to x_QuantizeLinear"
    assert found.reformats == (Reformat(name, FP32, INT8),)


def test_type_and_layout_may_be_two_fields_as_in_tensorrt_11(tmp_path: Path) -> None:
    tensor = {"Name": "a", "DataType": "Int8", "Format": "Row major linear (kLINEAR)"}
    one = {"Name": "conv1", "LayerType": "conv", "Inputs": [tensor], "Outputs": [tensor]}
    found = read_precision(written({"Layers": [one], "I/O Tensors": []}, tmp_path), wanted())
    assert found.ops[0].precision == "int8"


def test_an_op_that_was_skipped_is_not_a_fall_back(tmp_path: Path) -> None:
    skipped = wanted_of_recipe(
        networks.network("residual")[1], kit.recipe("residual").skip("conv2")
    )
    found = read_precision(written(ENGINE, tmp_path), skipped)
    assert found.fell_back == ()
    assert skipped["conv2"] == "float"


def test_the_file_and_the_recipe_want_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(kit.model("residual").content())
    assert wanted_of_file(path) == wanted()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "it is not JSON"),
        ({"Layer": []}, 'it has no list "Layers"'),
        ({"Layers": ["conv1 + relu"]}, "it has the names of the layers only, not their types"),
    ],
)
def test_what_is_not_the_inspectors_is_refused(
    content: object, reason: str, tmp_path: Path
) -> None:
    path = written(content, tmp_path)
    with pytest.raises(FormatError) as failed:
        read_precision(path, wanted())
    assert str(failed.value) == (
        f"{path}: {reason}. Write it with build.sh or build_engine.py, or with trtexec "
        "--profilingVerbosity=detailed --exportLayerInfo=FILE."
    )


def test_the_engine_of_another_model_is_refused(tmp_path: Path) -> None:
    path = written({"Layers": [layer("other", "Conv", INT8, INT8)]}, tmp_path)
    with pytest.raises(FormatError) as failed:
        read_precision(path, wanted())
    assert str(failed.value) == (
        f"{path}: no layer names an op of the model. Name the engine of this model."
    )


def test_the_command_prints_what_fell_back_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(kit.model("residual").content())
    written(ENGINE, tmp_path)
    assert main(["precision", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "int8 in the file, float in the engine: conv2" in said
    assert f"reformat     {FP32} to {INT8}: Reformatting CopyNode" in said
    assert main(["precision", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fell_back"] == ["conv2"]


def test_the_command_needs_the_exported_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["precision", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path}: there is no model.onnx in it. "
        "Name the folder onnx-tensorrt that qviz export wrote.\n"
    )


# -- building -------------------------------------------------------------------------------------


def test_the_profile_has_batches_of_1_8_and_32() -> None:
    assert input_shapes(networks.network("residual")[1]) == {
        "x": ((1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8))
    }
    assert input_shapes(networks.network("twins")[1]) == {
        "a": ((1, 6), (8, 6), (32, 6)),
        "b": ((1, 6), (8, 6), (32, 6)),
    }


def test_the_shell_script_calls_trtexec_with_a_strongly_typed_network(tmp_path: Path) -> None:
    script, tool = tmp_path / "build.sh", tmp_path / "bin" / "trtexec"
    script.write_text(build_sh(networks.network("twins")[1]))
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", str(script), "--skipInference"],
        capture_output=True, text=True, check=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert ran.stdout.splitlines() == [
        "--onnx=model.onnx",
        "--saveEngine=engine.plan",
        "--stronglyTyped",
        "--minShapes=a:1x6,b:1x6",
        "--optShapes=a:8x6,b:8x6",
        "--maxShapes=a:32x6,b:32x6",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={LAYERS}",
        "--skipInference",
    ]


#: Stands for the tensorrt package: notes what is asked of it.
FAKE = """
import json, types
said = {"shapes": {}}
class Network: pass
class Parser:
    def __init__(self, network, logger): self.num_errors = 0
    def parse(self, data): said["bytes"] = len(data); return True
class Profile:
    def set_shape(self, name, *shapes): said["shapes"][name] = shapes
class Config:
    def set_memory_pool_limit(self, kind, size): said["workspace"] = size
    def add_optimization_profile(self, profile): pass
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): said["flags"] = flags; return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
    def build_serialized_network(self, network, config):
        said["verbosity"] = config.profiling_verbosity
        return b"plan"
class Inspector:
    def get_engine_information(self, form): return json.dumps(said)
class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, plan): return self
    def create_engine_inspector(self): return Inspector()
class Logger:
    WARNING = 1
    def __init__(self, level): pass
OnnxParser = Parser
ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed")
MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
LayerInformationFormat = types.SimpleNamespace(JSON="json")
NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
"""


def test_the_python_script_builds_a_strongly_typed_engine_and_writes_its_layers(
    tmp_path: Path,
) -> None:
    script = tmp_path / "build_engine.py"
    script.write_text(build_engine_py(networks.network("residual")[1]))
    ast.parse(script.read_text())
    (tmp_path / "model.onnx").write_bytes(b"12345")
    (tmp_path / "tensorrt.py").write_text(FAKE)
    subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (tmp_path / "engine.plan").read_bytes() == b"plan"
    said = json.loads((tmp_path / LAYERS).read_text())
    assert said == {
        "bytes": 5,
        "flags": 2,
        "shapes": {"x": [[1, 3, 8, 8], [8, 3, 8, 8], [32, 3, 8, 8]]},
        "verbosity": "detailed",
        "workspace": 4 << 30,
    }
