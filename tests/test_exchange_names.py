"""Whose name is it: exact, then by module path, then but for punctuation; never a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange_kit import read
from networks import network, recipe

from qviz.export import names
from qviz.recipe import Recipe

GRAPH = network("residual")[1]


def test_the_same_name_comes_before_all_others() -> None:
    known: dict[str, str | None] = {"a.b": None, "a_b": "a.b"}
    assert names.match(["a.b"], known) == {"a.b": "a.b"}


def test_punctuation_and_case_do_not_count_where_it_is_clear() -> None:
    assert names.match(["Layer1_0_conv1"], {"layer1.0.conv1": None}) == {
        "Layer1_0_conv1": "layer1.0.conv1"
    }


def test_what_could_be_two_is_neither() -> None:
    assert names.match(["a_b"], {"a.b": None, "a:b": None}) == {}
    assert names.match(["a_b", "a-b"], {"a.b": None}) == {}


def test_digits_are_not_run_together() -> None:
    assert names.match(["layer1.0.conv"], {"layer10.conv": None}) == {}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/layer1/layer1.0/conv1/Conv_output_0", "layer1.0.conv1"),
        ("/conv1/Conv_output_0", "conv1"),
        ("/blocks/blocks.3/attn/qkv/MatMul_output_0", "blocks.3.attn.qkv"),
        ("/features/features.0/features.0.0/Conv", "features.0.0.Conv"),
        ("conv1.weight", "conv1"),
        ("conv1.input_quantizer", "conv1"),
        ("fc", "fc"),
    ],
)
def test_a_module_is_found_in_a_name(name: str, path: str) -> None:
    assert names.module_path(name) == path


def test_a_module_that_makes_several_tensors_names_none_of_them() -> None:
    found = names.tensors(GRAPH)
    assert found["conv1"] == "conv1"
    assert found["relu:relu"] is None


def test_names_of_an_onnx_file_of_the_model_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "calibration.cache"
    path.write_text("TRT-8601-EntropyCalibration2\nX: 3d000000\n/conv2/Conv_output_0: 3d000000\n")
    found = read("residual", path, recipe("residual"))
    assert found.recipe.range_of["x"].hi == 127 / 32
    assert "Ranges that no int8 op reads: /conv2/Conv_output_0" in found.notes


def test_notes_say_what_was_taken_and_what_did_not_match(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"x": [-1, 1], "relu:relu": [0, 2], "what": [0, 1], "fc": [0, 1]}))
    found = read("residual", path, recipe("residual"))
    assert found.notes == (
        "Ranges taken of 2 of 4 tensors",
        "Ops in float: conv3, fc",
        "Ranges that no int8 op reads: fc",
        "Names that Residual does not have: what",
    )


def test_the_range_of_a_value_that_is_handed_on_is_its_maker_s(tmp_path: Path) -> None:
    """A max-pool's codes are those of what it reads; its own name is as good, if alone."""
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"pool": [0, 3]}))
    found = read("residual", path, Recipe())
    assert GRAPH.tensors["pool"].root in found.recipe.range_of
    path.write_text(json.dumps({"pool": [0, 3], GRAPH.tensors["pool"].root: [0, 2]}))
    found = read("residual", path, Recipe())
    assert [r.hi for r in found.recipe.ranges] == [2.0]


def test_two_layers_that_record_one_tensor_differently_share_the_wider(tmp_path: Path) -> None:
    path = tmp_path / "record.txt"
    path.write_text(
        'record { key: "conv2" value { scale_d: 0.1 scale_w: 0.1 } }\n'
        'record { key: "add" value { scale_d: 0.2 } }\n'
    )
    found = read("residual", path, recipe("residual"))
    assert found.recipe.range_of["relu:relu"].hi == pytest.approx(25.4)
    assert "Read with several ranges, of which the widest was taken: relu:relu" in found.notes
