"""Numbers per op, and the file that colours a graph in Model Explorer by one of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from networks import Attention, Residual
from torch import Tensor, nn

from qviz.capture import capture
from qviz.coverage import CoverageRow, coverage
from qviz.data import Batch
from qviz.graph import Graph
from qviz.node_data import OpNumber, model_explorer, op_numbers
from qviz.opening import _OPENING
from qviz.sensitivity import Sensitivity

IMAGES = torch.zeros(4, 3, 8, 8)


def captured(model: nn.Module, sample: Tensor) -> Graph:
    return capture(model.eval(), Batch((sample,), {}, None, 4))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return captured(Residual(), IMAGES)


@pytest.fixture(scope="module")
def numbers(graph: Graph) -> dict[str, OpNumber]:
    made = op_numbers(coverage(graph), {"conv1": 30.0, "fc": float("inf")})
    return {number.key: number for number in made}


def test_only_ops_with_multiply_accumulates_have_some(numbers: dict[str, OpNumber]) -> None:
    assert numbers["macs"].values == {
        "conv1": 8 * 8 * 4 * 27,
        "conv2": 8 * 8 * 4 * 36,
        "conv3": 8 * 8 * 4 * 36,
        "fc": 64 * 5,
    }


def test_a_lossless_input_has_no_sqnr_to_colour_by(numbers: dict[str, OpNumber]) -> None:
    assert numbers["sqnr"].values == {"conv1": 30.0}


def test_every_op_has_a_status(graph: Graph, numbers: dict[str, OpNumber]) -> None:
    assert list(numbers["status"].values) == list(graph.ops)


def test_without_a_ranking_there_is_no_sensitivity(numbers: dict[str, OpNumber]) -> None:
    assert "sensitivity" not in numbers


ROW = CoverageRow("conv", "conv2d", "int8", "", 10, 10, (1,), "")


def test_a_ranking_with_estimated_rows_says_so(ranking: Sensitivity) -> None:
    number = op_numbers((ROW,), {}, ranking)[-1]
    assert number.title == "Sensitivity: kl from float (partly estimated)"
    assert number.values == {"conv": 0.3, "fc": 0.1}


def test_an_op_is_as_sensitive_as_the_worst_of_its_operands(ranking: Sensitivity) -> None:
    worst, other = ranking.rows
    rows = (replace(worst, name="conv/weight"), replace(other, name="conv/input"))
    number = op_numbers((ROW,), {}, replace(ranking, rows=rows))[-1]
    assert number.values == {"conv": 0.3}


def test_a_file_names_nodes_as_torch_export_does(
    graph: Graph, numbers: dict[str, OpNumber]
) -> None:
    with _OPENING:  # another test's server may be tracing a model of its own
        program = torch.export.export(Residual().eval(), (IMAGES,))
    written = json.loads(model_explorer(numbers["status"], graph))
    assert set(written["results"]) <= {node.name for node in program.graph.nodes}


def test_attention_is_taken_apart_and_its_parts_have_no_node() -> None:
    sample = torch.zeros(4, 5, 8)
    graph = captured(Attention(), sample)
    with _OPENING:
        program = torch.export.export(Attention().eval(), (sample,))
    status = op_numbers(coverage(graph), {})[0]
    nodes = {node.name for node in program.graph.nodes}
    known = set(json.loads(model_explorer(status, graph))["results"]) & nodes
    assert {"linear", "linear_1", "layer_norm"} <= known


def test_a_number_is_written_with_a_gradient_from_0_to_1(
    graph: Graph, numbers: dict[str, OpNumber]
) -> None:
    written = json.loads(model_explorer(numbers["macs"], graph))
    assert written["name"] == "Multiply-accumulates per sample (MACs)"
    assert written["results"]["linear"] == {"value": 320}
    assert [item["stop"] for item in written["gradient"]] == [0, 1 / 3, 2 / 3, 1]


def test_where_low_is_bad_low_values_are_dark(graph: Graph, numbers: dict[str, OpNumber]) -> None:
    macs = json.loads(model_explorer(numbers["macs"], graph))["gradient"]
    sqnr = json.loads(model_explorer(numbers["sqnr"], graph))["gradient"]
    assert sqnr[0]["bgColor"] == macs[-1]["bgColor"]


def test_a_status_is_a_word_with_its_own_colour(graph: Graph, numbers: dict[str, OpNumber]) -> None:
    written = json.loads(model_explorer(numbers["status"], graph))
    assert written["results"]["conv2d"] == {"value": "int8", "bgColor": "#0072B2"}
    assert "gradient" not in written
