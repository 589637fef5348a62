"""What the exchange formats say: hand-computed numbers, and the libraries that read them."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from exchange_kit import expressible, read, written
from networks import network, recipe

from qviz.errors import CheckpointError, FormatError
from qviz.export import EXPORTERS, nearest
from qviz.recipe import Override, Recipe

GRAPH = network("residual")[1]
RECIPE = recipe("residual").with_range("x", -1.27, 1.0)


def encodings(chosen: Recipe, folder: Path) -> dict[str, dict[str, object]]:
    content = json.loads(written("residual", chosen, folder, "aimet").read_text())
    return {e["name"]: e for e in content["activation_encodings"] + content["param_encodings"]}


def test_an_aimet_scale_is_amax_over_127_with_offset_minus_128(tmp_path: Path) -> None:
    found = encodings(RECIPE, tmp_path)["x"]
    assert found["scale"] == [pytest.approx(0.01, rel=1e-7)]
    assert (found["offset"], found["is_sym"], found["bw"]) == ([-128], True, 8)


def test_an_aimet_affine_offset_is_minus_the_zero_point(tmp_path: Path) -> None:
    chosen = recipe("residual", "ort-cpu").with_range("x", -1.0, 1.55)
    found = encodings(chosen, tmp_path)["x"]
    assert found["scale"] == [pytest.approx(0.01, rel=1e-6)]
    assert (found["offset"], found["is_sym"]) == ([-100], False)


def test_a_weight_of_4_bits_has_codes_from_minus_8(tmp_path: Path) -> None:
    found = encodings(RECIPE.override(Override("fc/weight", bits=4)), tmp_path)["fc.weight"]
    assert (found["bw"], found["enc_type"]) == (4, "PER_CHANNEL")
    assert found["offset"] == [-8] * 5


def test_a_weight_alone_in_float_is_said_to_be(tmp_path: Path) -> None:
    found = encodings(RECIPE.skip("fc/weight"), tmp_path)["fc.weight"]
    assert found["dtype"] == "FLOAT"


def test_aimet_s_old_form_reads_like_the_new(tmp_path: Path) -> None:
    entry = {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "scale": 0.01, "offset": -128,
             "min": -1.28, "max": 1.27}  # fmt: skip
    path = tmp_path / "old.encodings"
    path.write_text(json.dumps({"version": "0.6.1", "activation_encodings": {"x": [entry]},
                                "param_encodings": {"conv1.weight": [entry] * 4}}))  # fmt: skip
    found = read("residual", path, recipe("residual"))
    assert found.recipe.range_of["x"].hi == pytest.approx(1.27)
    assert found.recipe.skipped == ("conv2", "conv3", "add", "fc")


@pytest.mark.parametrize(
    ("dtype", "zero", "ends"), [("int8", 0, (-1.28, 1.27)), ("uint8", 100, (-1.0, 1.55))]
)
def test_aimet_s_newest_form_reads_like_onnx(
    dtype: str, zero: int, ends: tuple[float, float], tmp_path: Path
) -> None:
    rows = [
        {"name": "x", "output_dtype": dtype, "y_scale": 0.01, "y_zero_point": zero},
        {"name": "conv1.weight", "output_dtype": "int8", "y_scale": [0.01] * 4, "axis": 0},
    ]
    path = tmp_path / "new.encodings"
    path.write_text(json.dumps({"version": "2.0.0", "encodings": rows}))
    found = read("residual", path, recipe("residual", "ort-cpu")).recipe.range_of["x"]
    assert [found.lo, found.hi] == pytest.approx(ends)


def test_activations_of_16_bits_leave_their_readers_in_float(tmp_path: Path) -> None:
    path = written("residual", RECIPE, tmp_path, "aimet")
    content = json.loads(path.read_text())
    content["activation_encodings"][0] |= {"bw": 16, "offset": [-32768]}
    path.write_text(json.dumps(content))
    found = read("residual", path, RECIPE)
    assert found.recipe.skipped == ("conv1/input",)
    assert found.notes[-1] == "In float, because 2 to 8 bits are simulated: x"


def test_a_cache_line_is_the_scale_as_a_big_endian_float(tmp_path: Path) -> None:
    lines = written("residual", RECIPE, tmp_path, "tensorrt-cache").read_text().splitlines()
    assert lines[0].startswith("TRT-")
    assert lines[1] == "x: " + struct.pack(">f", 0.01).hex()


def test_a_cache_that_tensorrt_wrote_reads_as_amax(tmp_path: Path) -> None:
    """The first line of an MNIST network, whose pixels end at 1."""
    path = tmp_path / "mnist.cache"
    path.write_text("TRT-7202-EntropyCalibration2\nx: 3c008912\n(Unnamed Layer* 4): 3d65992f\n")
    found = read("residual", path, recipe("residual"))
    assert found.recipe.range_of["x"].hi == pytest.approx(1, rel=5e-3)
    assert "Names that Residual does not have: (Unnamed Layer* 4)" in found.notes


def test_a_record_s_offset_is_the_zero_point_minus_128(tmp_path: Path) -> None:
    chosen = recipe("residual", "ort-cpu").with_range("x", -1.0, 1.55)
    chosen = expressible("residual", chosen, "amct")
    text = written("residual", chosen, tmp_path, "amct").read_text()
    assert "offset_d: -28" in text
    assert text.count("scale_w") == 4 * 3 + 5  # channels of three convolutions and the classifier


def test_amct_has_no_int8_add() -> None:
    with pytest.raises(FormatError) as caught:
        nearest(GRAPH, RECIPE, EXPORTERS["amct"].limits).check("Huawei AMCT")
    assert str(caught.value) == (
        "Huawei AMCT: cannot express the recipe: int8 add (add) → float. Export the nearest recipe "
        "that it can express, measured anew, with --nearest (nearest_recipe=True)."
    )


def test_onnx_runtime_makes_our_grid_of_its_table(tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    path = written("residual", RECIPE, tmp_path, "ranges").with_name("calibration.json")
    found = calibrate.load_tensors_data(path)
    lo, hi = found["x"].range_value
    limits = utils.get_qmin_qmax_for_qType(3, symmetric=True)  # 3: INT8
    zero, scale = utils.compute_scale_zp(lo, hi, *limits, symmetric=True)
    assert int(zero) == 0
    assert float(scale) == pytest.approx(0.01, rel=1e-6)


def test_openvino_s_limits_are_the_ends_of_the_grid(tmp_path: Path) -> None:
    found = json.loads(written("residual", RECIPE, tmp_path, "ranges").read_text())["tensors"]["x"]
    limits = found["fake_quantize"]
    assert limits["input_low"] == pytest.approx(-1.28)
    assert limits["input_high"] == pytest.approx(1.27)
    assert limits["levels"] == 256


def test_a_tensor_read_in_two_ways_is_refused_where_it_has_one_grid() -> None:
    attention = network("tokens")[1]
    chosen = recipe("tokens").override(Override("attn:matmul/0", bits=4))
    changes = nearest(attention, chosen, EXPORTERS["aimet"].limits).changes
    assert [str(c) for c in changes] == [
        "a tensor at several widths (attn:matmul) → the widest of them"
    ]
    chosen = recipe("tokens").skip("attn:matmul/0")
    changes = nearest(attention, chosen, EXPORTERS["aimet"].limits).changes
    assert [str(c) for c in changes] == [
        "a tensor that is int8 for some readers only (attn:matmul) → float"
    ]


def test_scales_that_are_not_those_of_the_largest_weights_are_noted(tmp_path: Path) -> None:
    path = written("residual", RECIPE, tmp_path, "aimet")
    content = json.loads(path.read_text())
    content["param_encodings"][0]["scale"] = [0.5] * 4
    path.write_text(json.dumps(content))
    assert read("residual", path, RECIPE).notes[-1] == (
        "Weights whose scales are not those of their largest values, which qviz uses: conv1.weight"
    )


def test_a_recipe_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    chosen = replace(RECIPE, weight_bits=5)
    path.write_text(chosen.to_json())
    assert read("residual", path, Recipe()).recipe == chosen


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(CheckpointError) as caught:
        written("residual", RECIPE, taken, "ranges")
    assert str(caught.value) == (
        f"{taken}: it cannot be written (file exists). Free some space or name another folder."
    )
