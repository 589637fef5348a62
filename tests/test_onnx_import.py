"""ONNX files with Q/DQ pairs, ours and others', become recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnx_kit as kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from qviz.errors import FormatError
from qviz.export.import_onnx import amax_of, fits, read
from qviz.export.importing import import_recipe
from qviz.export.onnx_model import onnx_model
from qviz.recipe import Override, Recipe, resolve

NETWORKS = list(networks.NETWORKS)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def grids(name: str, recipe: Recipe) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every tensor that an int8 operand reads."""
    simulator = kit.simulator(name)
    decisions = resolve(recipe, simulator.graph)
    made = {}
    for operand in simulator.graph.operands.values():
        if operand.kind == "activation" and decisions[operand.name].int8:
            params = simulator.activation_params(operand.tensor, recipe, 8)
            made[operand.tensor] = (float(params.scale), int(params.zero_point))
    return made


def int8(name: str, recipe: Recipe) -> set[str]:
    return {n for n, d in resolve(recipe, networks.network(name)[1]).items() if d.int8}


@pytest.mark.parametrize("form", [("cuda", "float32"), ("cuda", "float16"), ("ort-cpu", "float32")])
@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_file_gives_its_recipe_back(
    name: str, form: tuple[str, str], tmp_path: Path
) -> None:
    profile, float_type = form
    path = saved(kit.model(name, profile, float_type).proto, tmp_path)
    found = import_recipe(path, networks.network(name)[1], Recipe())
    assert found.recipe == kit.recipe(name, profile)
    assert found.notes == ("The recipe that qviz wrote into the file",)


@pytest.mark.parametrize("profile", ["cuda", "ort-cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_without_its_metadata_the_grids_are_the_same(
    name: str, profile: str, tmp_path: Path
) -> None:
    path = saved(kit.without_metadata(kit.model(name, profile).proto), tmp_path)
    base = Recipe(profile=profile)
    found = read(path, networks.network(name)[1], base).recipe
    assert grids(name, found) == grids(name, kit.recipe(name, profile))
    assert int8(name, found) == int8(name, kit.recipe(name, profile))


SKIPS = ("conv1", "conv2", "conv3", "add", "fc", "conv2/weight", "conv3/input", "fc/input")


@settings(max_examples=12, deadline=None)
@given(skips=st.sets(st.sampled_from(SKIPS)), factor=st.floats(0.01, 100), ort=st.booleans())
def test_any_recipe_comes_back(
    skips: set[str], factor: float, ort: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    profile = "ort-cpu" if ort else "cuda"
    made = kit.with_other_range(kit.recipe("residual", profile), "relu:relu", factor).skip(
        *sorted(skips)
    )
    if not int8("residual", made):
        return
    proto = onnx_model(kit.simulator("residual"), made, transposed_weights=ort, carry=ort).proto
    folder = tmp_path_factory.mktemp("onnx")
    graph = networks.network("residual")[1]
    assert read(saved(proto, folder), graph, Recipe()).recipe == made
    alone = read(saved(kit.without_metadata(proto), folder), graph, Recipe(profile=profile)).recipe
    assert grids("residual", alone) == grids("residual", made)
    assert int8("residual", alone) == int8("residual", made)


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_scale_has_a_limit_that_gives_it_back(scale: float) -> None:
    amax = np.float32(amax_of(np.float32(scale)))
    assert abs(np.float32(amax / np.float32(127)) - np.float32(scale)) <= np.spacing(
        np.float32(scale)
    )


def test_a_file_whose_pairs_were_changed_is_read_as_it_is_now(tmp_path: Path) -> None:
    proto = onnx.load_from_string(kit.model("residual").content())
    (scale,) = (i for i in proto.graph.initializer if i.name == "x_scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.5, np.float32), "x_scale"))
    found = read(saved(proto, tmp_path), networks.network("residual")[1], Recipe())
    assert grids("residual", found.recipe)["x"] == (0.5, 0)
    assert (
        "The pairs are no longer those of the recipe that qviz wrote into the file" in found.notes
    )


def test_nodes_are_matched_by_weight_and_then_by_order(tmp_path: Path) -> None:
    proto = kit.without_metadata(kit.model("residual").proto)
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    graph = networks.network("residual")[1]
    found = read(saved(proto, tmp_path), graph, Recipe())
    assert grids("residual", found.recipe) == grids("residual", kit.recipe("residual"))
    assert "Matched by their order only: add" in found.notes


def test_a_model_that_onnxruntime_quantized_is_read(tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": x.numpy()[None]} for x in networks.inputs("residual", 8)[0]]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    source, target = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    source.write_bytes(kit.plain("residual").content())
    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=["conv2"],
    )
    graph = networks.network("residual")[1]
    found = read(target, graph, Recipe(profile="ort-cpu"))
    kept = int8("residual", found.recipe)
    assert "conv2/weight" not in kept
    assert {"conv1/input", "conv1/weight", "conv3/weight", "fc/weight", "add/0", "add/1"} <= kept
    arrays = {i.name: numpy_helper.to_array(i) for i in onnx.load(target).graph.initializer}
    scale, zero_point = grids("residual", found.recipe)["x"]
    assert scale == pytest.approx(float(arrays["x_scale"]), rel=1e-6)
    assert zero_point == int(arrays["x_zero_point"])


def test_bits_that_the_file_does_not_have_are_not_kept(tmp_path: Path) -> None:
    path = saved(kit.without_metadata(kit.model("tokens").proto), tmp_path)
    base = replace(Recipe(), overrides=(Override("kind:weight", bits=4),))
    found = read(path, networks.network("tokens")[1], base).recipe
    decisions = resolve(found, networks.network("tokens")[1])
    assert {d.bits for d in decisions.values() if d.int8} == {8}


def test_a_float_file_and_another_model_are_refused(tmp_path: Path) -> None:
    graph = networks.network("residual")[1]
    plain = saved(kit.plain("residual").proto, tmp_path)
    with pytest.raises(FormatError) as failed:
        read(plain, graph, Recipe())
    assert str(failed.value) == (
        f"{plain}: it has no QuantizeLinear and DequantizeLinear pairs, but float nodes only. "
        "Quantize it in the QDQ format."
    )
    other = saved(kit.without_metadata(kit.model("seq first").proto), tmp_path)
    with pytest.raises(FormatError) as failed:
        read(other, networks.network("twins")[1], Recipe())
    assert failed.value.reason.startswith("names nothing that Twins has: its first nodes are ")
    assert failed.value.cure == "Import it into the model that it was made for"


def test_the_ending_says_that_it_is_onnx() -> None:
    assert fits(Path("a/model.onnx"))
    assert not fits(Path("a/model.json"))
