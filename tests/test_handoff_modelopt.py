"""NVIDIA Model Optimizer: what we write makes its model compute what was simulated, and back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from handoff_kit import applied, exported, quiet, request, run, simulated
from networks import batch, data, inputs, made, network, recipe
from safetensors.torch import save_file
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import as_data
from qviz.errors import FormatError
from qviz.execute import Program
from qviz.export import EXPORTERS, Request, nearest
from qviz.export.importing import IMPORTERS, import_recipe
from qviz.observe import observe
from qviz.recipe import Override, Recipe, TensorRange, resolve

pytest.importorskip("modelopt")

#: It imports these if they are there; that takes seconds, and plain modules need neither.
NOT_NEEDED = ("transformers", "torchvision")


@pytest.fixture(scope="module")
def mtq() -> Any:  # noqa: ANN401 - a module without types
    with quiet(*NOT_NEEDED):
        import modelopt.torch.quantization as found
    return found


def written(name: str, folder: Path, chosen: Recipe | None = None) -> Request:
    model, graph = network(name)
    ask = request(model, graph, chosen or recipe(name), data(name, 16), folder, "modelopt")
    exported(ask, "modelopt")
    return ask


@pytest.mark.parametrize("name", ["residual", "tokens"])
@pytest.mark.usefixtures("mtq")
def test_its_model_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    ask = written(name, tmp_path)
    theirs = run(applied(ask, copy.deepcopy(network(name)[0])), ask)
    torch.testing.assert_close(theirs, simulated(ask), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("mtq")
def test_a_skipped_op_and_a_skipped_input_stay_float(tmp_path: Path) -> None:
    ask = written("residual", tmp_path, recipe("residual").skip("conv2", "fc/input"))
    theirs = run(applied(ask, copy.deepcopy(network("residual")[0])), ask)
    torch.testing.assert_close(theirs, simulated(ask), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("mtq")
def test_other_widths_and_one_scale_per_tensor_are_carried(tmp_path: Path) -> None:
    chosen = Recipe(per_channel=False, ranges=recipe("residual").ranges)
    chosen = chosen.override(Override("fc/weight", bits=4), Override("conv1/input", bits=6))
    ask = written("residual", tmp_path, chosen)
    theirs = run(applied(ask, copy.deepcopy(network("residual")[0])), ask)
    torch.testing.assert_close(theirs, simulated(ask), rtol=0, atol=1e-5)


class Every(nn.Module):
    """Convolutions of one and three dimensions, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(2, 3, 3, padding=1)
        self.up = nn.ConvTranspose1d(3, 4, 2, stride=2)
        self.norm = nn.BatchNorm1d(4)
        self.three = nn.Conv3d(1, 2, (3, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.up(self.one(x).relu()))  # (B, 2, 8) -> (B, 4, 16)
        out: Tensor = self.three(y.reshape(y.shape[0], 1, 4, 4, 4))
        return out


@pytest.mark.usefixtures("mtq")
def test_every_kind_of_convolution_is_carried(tmp_path: Path) -> None:
    model = made(Every())
    x = torch.randn(8, 2, 8, generator=torch.Generator().manual_seed(0))
    graph = capture(model, batch(x))
    samples = as_data(((x,), None), "data")
    histograms = observe(Program(graph), samples, workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in histograms.items())
    ask = request(model, graph, Recipe(ranges=ranges), samples, tmp_path, "modelopt")
    assert exported(ask, "modelopt")["quantizers"] == 6
    theirs = run(applied(ask, copy.deepcopy(model)), ask)
    torch.testing.assert_close(theirs, simulated(ask), rtol=0, atol=1e-5)


def test_the_files_say_which_quantizers_are_on_and_their_limits(tmp_path: Path) -> None:
    written("tokens", tmp_path, recipe("tokens").only("head"))
    assert json.loads((tmp_path / "quant_cfg.json").read_text()) == {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "head.input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
            {"quantizer_name": "head.weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        ],
        "algorithm": None,
    }


def test_ops_without_a_quantizer_are_refused_by_name() -> None:
    _, graph = network("tokens")
    fit = nearest(graph, recipe("tokens"), EXPORTERS["modelopt"].limits)
    assert [str(change) for change in fit.changes] == [
        "int8 add and matmul (attn:matmul, attn:matmul.1, attn:add) → float"
    ]


@pytest.mark.usefixtures("mtq")
def test_other_weights_than_the_ranges_were_made_for_are_refused(tmp_path: Path) -> None:
    ask = written("residual", tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        applied(ask, made(type(network("residual")[0])(), seed=1))
    assert str(caught.value) == ("conv1: the range is of another weight. Load the weights first.")


@pytest.mark.usefixtures("mtq")
def test_another_model_is_refused(tmp_path: Path) -> None:
    ask = written("residual", tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        applied(ask, nn.Sequential(nn.Linear(2, 2)))
    assert str(caught.value) == ("conv1: the model has no such module. Give the one qviz opened.")


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_what_was_written_comes_back_as_the_same_recipe(name: str, tmp_path: Path) -> None:
    ask = written(name, tmp_path, recipe(name).skip("fc/input") if name == "residual" else None)
    again = import_recipe(tmp_path, ask.graph, ask.recipe)
    assert again.recipe == ask.recipe


@pytest.fixture(scope="module")
def calibrated(mtq: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """The state of the residual network as Model Optimizer itself quantizes it."""

    def forward(model: nn.Module) -> None:
        model(*inputs("residual", 16))

    model = copy.deepcopy(network("residual")[0])
    with quiet(*NOT_NEEDED):  # it imports its exporters to calibrate
        state: dict[str, Tensor] = mtq.quantize(model, mtq.INT8_DEFAULT_CFG, forward).state_dict()
    return state


def test_a_model_that_it_calibrated_becomes_a_recipe(
    calibrated: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(calibrated, tmp_path / "quantized.pt")
    _, graph = network("residual")
    base = Recipe(ranges=recipe("residual").ranges)
    found = import_recipe(tmp_path / "quantized.pt", graph, base.with_range("x", -9.0, 9.0))
    x = found.recipe.range_of["x"]
    assert (x.hi, x.calibrator) == (inputs("residual", 16)[0].abs().max().item(), "modelopt")
    assert found.recipe.skipped == ("add",)
    assert found.notes == (
        "Ranges taken of 4 of 4 tensors, 3 of them the same as before",
        "Ops in float: add",
        "Quantizers of what a recipe does not round: pool.input_quantizer",
    )


def test_a_quantizer_that_is_off_is_a_skip(calibrated: dict[str, Tensor], tmp_path: Path) -> None:
    state = {k: v for k, v in calibrated.items() if not k.startswith("conv2.input_q")}
    save_file(state, tmp_path / "quantized.safetensors")
    _, graph = network("residual")
    found = import_recipe(tmp_path / "quantized.safetensors", graph, recipe("residual"))
    decisions = resolve(found.recipe, graph)
    assert not decisions["conv2/input"].int8
    assert decisions["conv2/weight"].int8


def test_the_config_beside_it_says_what_is_off_and_how_wide_the_rest_is(tmp_path: Path) -> None:
    ask = written("residual", tmp_path)
    entries = json.loads((tmp_path / "quant_cfg.json").read_text())["quant_cfg"]
    entries += [
        {"quantizer_name": "conv3.*", "enable": False},
        {"quantizer_name": "*_quantizer", "parent_class": "nn.Linear", "cfg": {"num_bits": 4}},
    ]
    (tmp_path / "quant_cfg.json").write_text(json.dumps({"quant_cfg": entries}))
    decisions = resolve(import_recipe(tmp_path, ask.graph, ask.recipe).recipe, ask.graph)
    assert not decisions["conv3/weight"].int8
    assert decisions["fc/weight"].bits == 4
    assert decisions["conv1/weight"].bits == 8


REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "per channel": (
        {"fc.input_quantizer._amax": torch.ones(1, 4)},
        "the input of fc has 4 ranges, which no recipe can say. Write it again with the tool it "
        "came from.",
    ),
    "scaled": (
        {
            "fc.input_quantizer._amax": torch.ones(()),
            "fc.input_quantizer._pre_quant_scale": torch.ones(4),
        },
        "fc.input_quantizer has a pre_quant_scale, so its range is of a scaled tensor. Quantize "
        "without SmoothQuant or AWQ.",
    ),
    "not calibrated": (
        {"fc.input_quantizer._amax": torch.tensor(float("nan"))},
        "the amax of fc.input_quantizer is not a limit: it is negative, NaN or infinite. Write it "
        "again with the tool it came from.",
    ),
    "nothing": (
        {"fc.weight": torch.ones(2)},
        "holds no amax of a quantizer. Write it again with the tool it came from.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_no_recipe_can_say_is_refused(case: str, tmp_path: Path) -> None:
    tensors, reason = REFUSED[case]
    path = tmp_path / "state.safetensors"
    save_file(tensors, path)
    with pytest.raises(FormatError) as caught:
        IMPORTERS["modelopt"].read(path, network("residual")[1], recipe("residual"))
    assert str(caught.value) == f"{path}: {reason}"


def test_only_tensors_are_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"fc.input_quantizer._amax": network("residual")[0]}, path)
    with pytest.raises(FormatError, match="loading it would run code of its own"):
        IMPORTERS["modelopt"].read(path, network("residual")[1], recipe("residual"))
    assert not IMPORTERS["modelopt"].fits(path)


def test_quantizers_of_what_a_recipe_does_not_round_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tensors = {
        "fc.input_quantizer._amax": torch.tensor(2.0),
        "fc.output_quantizer._amax": torch.tensor(3.0),
    }
    save_file(tensors, path)
    found = import_recipe(path, network("residual")[1], recipe("residual"))
    assert found.notes[-1] == "Quantizers of what a recipe does not round: fc.output_quantizer"
