"""What is measured for other tools: errors per layer, losses per width, numbers per op."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from exchange_kit import request, simulator
from networks import data, inputs, network, recipe

from qviz.affine import fake_quantize
from qviz.data import as_data
from qviz.export import EXPORTERS
from qviz.export.layer_errors import Errors
from qviz.recipe import Override, Recipe

RECIPE = recipe("residual")
GRAPH = network("residual")[1]


def rows(folder: Path, file: str) -> list[dict[str, str]]:
    with (folder / file).open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def layers(chosen: Recipe, folder: Path) -> dict[str, dict[str, str]]:
    made = EXPORTERS["layers-csv"].export(request("residual", chosen, folder))
    assert made["samples"] == 4
    return {row["op"]: row for row in rows(folder, "layers.csv")}


def test_errors_of_hand_computed_values() -> None:
    found = Errors()
    found.add(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    found.add(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0]))
    assert (found.count, found.mean, found.mse, found.largest) == (4, -0.5, 1.5, 2.0)
    assert found.std == pytest.approx(math.sqrt(1.5 - 0.25))
    assert found.sqnr_db == pytest.approx(10 * math.log10(4 / 6))


def test_without_an_error_the_sqnr_is_infinite() -> None:
    found = Errors()
    found.add(torch.ones(3), torch.ones(3))
    assert found.sqnr_db == math.inf


def test_the_columns_are_those_of_the_debugger(tmp_path: Path) -> None:
    layers(RECIPE, tmp_path)
    assert (tmp_path / "layers.csv").read_text().splitlines()[0] == (
        "op_name,tensor_idx,num_elements,stddev,mean_error,max_abs_error,mean_squared_error,"
        "rmse/scale,scale,zero_point,tensor_name,op,sqnr_db"
    )


def test_a_layer_counts_after_its_relu_with_its_rounding(tmp_path: Path) -> None:
    found = layers(RECIPE, tmp_path)["conv1"]
    sim = simulator("residual")
    program, slot = sim.program, sim.program.slot_of_tensor["relu:relu"]
    (batch,) = data("residual", 4).batches(4)
    plain, rounded = program.inputs(batch), program.inputs(batch)
    program.run(plain, keep=True)
    program.run(rounded, sim.edits(RECIPE), keep=True)
    grid = sim.activation_params("relu:relu", RECIPE, 8)
    error = (fake_quantize(rounded[slot], grid) - plain[slot]).double()
    assert found["tensor_name"] == "relu:relu"
    assert int(found["num_elements"]) == 4 * 8 * 8
    assert float(found["mean_squared_error"]) == pytest.approx(float(error.square().mean()))
    assert float(found["max_abs_error"]) == pytest.approx(float(error.abs().max()))
    scale = float(grid.scale)
    assert float(found["scale"]) == pytest.approx(scale)
    rmse = math.sqrt(float(error.square().mean()))
    assert float(found["rmse/scale"]) == pytest.approx(rmse / scale)


def test_a_value_that_nothing_reads_as_int8_has_no_scale(tmp_path: Path) -> None:
    found = layers(RECIPE, tmp_path)
    assert found["fc"]["scale"] == found["fc"]["rmse/scale"] == ""
    assert float(found["fc"]["mean_squared_error"]) > 0


def test_ops_in_float_have_no_row(tmp_path: Path) -> None:
    assert list(layers(RECIPE.skip("conv2"), tmp_path)) == ["conv1", "conv3", "add", "fc"]


def test_the_columns_are_those_of_calibtip(tmp_path: Path) -> None:
    made = EXPORTERS["calibtip-csv"].export(request("residual", RECIPE, tmp_path))
    assert sorted(made["files"]) == [f"per_layer_accuracy.A{b}.W{b}.csv" for b in range(2, 8)]
    found = rows(tmp_path, "per_layer_accuracy.A4.W4.csv")
    assert list(found[0]) == [
        "base precision", "replaced precision", "replaced layer", "accuracy", "loss",
        "Parameters Size [Elements]", "MACs",
    ]  # fmt: skip
    assert [row["replaced layer"] for row in found] == ["-", "conv1", "conv2", "conv3", "fc"]
    assert found[1]["Parameters Size [Elements]"] == str(4 * 3 * 9)
    assert found[1]["MACs"] == str(GRAPH.ops["conv1"].macs)
    assert found[0]["MACs"] == "-"


def test_the_loss_is_the_cross_entropy_of_the_model_with_one_layer_narrow(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    samples = as_data((inputs("residual", 4), labels), "labelled")
    EXPORTERS["calibtip-csv"].export(request("residual", RECIPE, tmp_path, samples))
    found = rows(tmp_path, "per_layer_accuracy.A3.W3.csv")
    sim = simulator("residual")
    (batch,) = samples.batches(4)
    narrow = RECIPE.override(Override("fc/input", bits=3), Override("fc/weight", bits=3))
    for row, chosen in ((found[0], RECIPE), (found[-1], narrow)):
        (scores,) = sim.program.run(sim.program.inputs(batch), sim.edits(chosen))
        loss = torch.nn.functional.cross_entropy(scores.double(), labels)
        assert float(row["loss"]) == pytest.approx(float(loss), rel=1e-6)
        right = (scores.argmax(1) == labels).double().mean()
        assert float(row["accuracy"]) == 100 * float(right)


def test_without_labels_the_loss_is_the_divergence_from_float(tmp_path: Path) -> None:
    EXPORTERS["calibtip-csv"].export(request("residual", RECIPE, tmp_path))
    found = {w: rows(tmp_path, f"per_layer_accuracy.A{w}.W{w}.csv") for w in (7, 2)}
    assert all(float(row["loss"]) >= 0 for row in found[2])
    assert float(found[2][1]["loss"]) > float(found[7][1]["loss"])


def test_model_explorer_gets_one_file_per_number_by_node(tmp_path: Path) -> None:
    made = EXPORTERS["model-explorer"].export(request("residual", RECIPE, tmp_path))
    keys = ("status", "macs", "parameters", "sqnr", "amax", "sensitivity")
    assert list(made["files"]) == [f"{key}.json" for key in keys]
    found = {key: json.loads((tmp_path / f"{key}.json").read_text()) for key in keys}
    node = GRAPH.ops["conv1"].node
    amax = max(abs(RECIPE.range_of["x"].lo), RECIPE.range_of["x"].hi)
    assert found["amax"]["results"][node]["value"] == amax
    assert found["status"]["results"][node]["value"] == "int8"
    assert found["sensitivity"]["name"] == "Sensitivity: kl from float (estimated)"
    assert 20 < found["sqnr"]["results"][node]["value"] < 60


def test_an_op_in_float_has_a_status_and_no_sensitivity(tmp_path: Path) -> None:
    EXPORTERS["model-explorer"].export(request("residual", RECIPE.skip("fc"), tmp_path))
    node = GRAPH.ops["fc"].node
    status = json.loads((tmp_path / "status.json").read_text())["results"]
    assert status[node]["value"] == "float by choice"
    assert node not in json.loads((tmp_path / "sensitivity.json").read_text())["results"]
