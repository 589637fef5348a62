"""torchao: the Int8Tensors made of what we write compute what was simulated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from handoff_kit import applied, exported, quiet, request, run, simulated
from networks import Attention, batch, data, made, network, recipe
from safetensors.torch import load_file
from torch import Tensor, nn

from qviz import affine
from qviz.capture import capture
from qviz.data import as_data
from qviz.errors import FormatError
from qviz.export import EXPORTERS, Request, nearest
from qviz.recipe import Recipe, TensorRange

pytest.importorskip("torchao")


@pytest.fixture(scope="module", autouse=True)
def torchao() -> Any:  # noqa: ANN401 - a module without types
    with quiet():
        import torchao.quantization as found
    return found


def written(name: str, folder: Path, chosen: Recipe | None = None) -> Request:
    model, graph = network(name)
    ask = request(model, graph, chosen or recipe(name), data(name, 16), folder, "torchao")
    exported(ask, "torchao")
    return ask


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_its_model_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    ask = written(name, tmp_path)
    ours, theirs = simulated(ask), run(applied(ask, copy.deepcopy(network(name)[0])), ask)
    assert (theirs - ours).abs().max() <= 1e-6 * ours.abs().max()


def test_a_layer_under_a_folded_norm_keeps_its_norm(tmp_path: Path) -> None:
    model = made(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    graph = capture(model, batch(x))
    assert graph.folded == {"1": "0"}
    ranges = tuple(TensorRange(t, -3.0, 3.0, "fixed") for t in graph.observed)
    samples = as_data(((x,), None), "data")
    ask = request(model, graph, Recipe(ranges=ranges), samples, tmp_path, "torchao")
    exported(ask, "torchao")
    ours, theirs = simulated(ask), run(applied(ask, copy.deepcopy(model)), ask)
    assert (theirs - ours).abs().max() <= 1e-6 * ours.abs().max()


def test_the_file_holds_the_integers_and_scales_of_the_simulation(tmp_path: Path) -> None:
    ask = written("tokens", tmp_path, recipe("tokens").only("attn.proj"))
    tensors = load_file(tmp_path / "model.safetensors")
    assert sorted(tensors) == [
        "attn.proj.input_scale",
        "attn.proj.weight",
        "attn.proj.weight_scale",
    ]
    operand = ask.graph.operands["attn.proj/weight"]
    params, _ = ask.simulator.weight(operand, 8, per_channel=True)
    weight = network("tokens")[0].get_parameter("attn.proj.weight")
    assert torch.equal(tensors["attn.proj.weight"], affine.quantize(weight, params))
    assert torch.equal(tensors["attn.proj.weight_scale"], params.scale.reshape(-1, 1))
    assert tensors["attn.proj.input_scale"].shape == (1, 1, 1)  # (B, T, C)


def test_the_state_of_its_model_is_saved_and_loaded_as_tensors_only(tmp_path: Path) -> None:
    ask = written("tokens", tmp_path)
    done = applied(ask, copy.deepcopy(network("tokens")[0]))
    torch.save(done.state_dict(), tmp_path / "int8.pt")
    state = torch.load(tmp_path / "int8.pt", weights_only=True)
    again = type(network("tokens")[0])()
    again.load_state_dict(state, assign=True)
    assert torch.equal(run(again.eval(), ask), run(done, ask))


def test_ops_that_it_has_no_int8_form_of_are_refused_by_name() -> None:
    _, graph = network("residual")
    fit = nearest(graph, recipe("residual"), EXPORTERS["torchao"].limits)
    with pytest.raises(FormatError) as caught:
        fit.check("torchao")
    assert str(caught.value) == (
        "torchao: cannot express the recipe: int8 add and conv2d (conv1, conv2, conv3 and 1 more) "
        "→ float. Export the nearest recipe that it can express, measured anew, with --nearest "
        "(nearest_recipe=True)."
    )


class TwoShapes(nn.Module):
    """One linear layer for rows and for rows of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.body(x).mean(1))
        return out


def test_one_layer_for_inputs_of_two_shapes_is_refused_by_name(tmp_path: Path) -> None:
    model = made(TwoShapes())
    x = torch.zeros(2, 3, 4)
    graph = capture(model, batch(x))
    chosen = Recipe(ranges=tuple(TensorRange(t, -1.0, 1.0, "fixed") for t in graph.observed))
    ask = request(model, graph, chosen, as_data(((x,), None), "data"), tmp_path, "torchao")
    with pytest.raises(FormatError) as caught:
        exported(ask, "torchao")
    assert str(caught.value) == (
        "torchao: it needs inputs with one number of axes, and body gets several. Leave it in "
        "float."
    )


def test_another_model_is_refused(tmp_path: Path) -> None:
    ask = written("tokens", tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        applied(ask, Attention())
    assert str(caught.value) == (
        "attn.proj: no linear layer of that size. Give the model qviz opened."
    )
