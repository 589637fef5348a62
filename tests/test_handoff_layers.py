"""Which modules a recipe quantizes, for formats that address modules; what they cannot hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from handoff_kit import request
from networks import batch, data, made, network, recipe
from torch import Tensor, nn

from qviz import affine
from qviz.capture import capture
from qviz.errors import CheckpointError, FormatError
from qviz.export import EXPORTERS, Request, nearest
from qviz.export.compressed_tensors import joined_alike, own_weights
from qviz.export.files import script, write_files
from qviz.export.module_layers import Layer, called_alike, made_by_modules, module_layers
from qviz.graph import Graph
from qviz.recipe import Recipe, TensorRange
from qviz.rewrite import get_attr


def asked(name: str, chosen: Recipe | None = None, model: nn.Module | None = None) -> Request:
    own, graph = network(name)
    chosen = chosen or recipe(name)
    return request(model or own, graph, chosen, data(name, 4), Path(), "modelopt")


def layers(name: str, chosen: Recipe | None = None) -> dict[str, Layer]:
    return {layer.path: layer for layer in module_layers(asked(name, chosen), "X")}


def everything_int8(graph: Graph) -> Recipe:
    return Recipe(ranges=tuple(TensorRange(t, -1.0, 1.0, "max") for t in graph.observed))


def test_every_conv_and_linear_is_a_layer() -> None:
    assert list(layers("residual")) == ["conv1", "conv2", "conv3", "fc"]


def test_the_amax_of_an_input_is_the_larger_end_of_its_range() -> None:
    chosen = recipe("residual").with_range("x", -3.0, 2.0)
    found = layers("residual", chosen)["conv1"].input
    assert found is not None
    assert found.amax.item() == 3.0


def test_a_weight_with_a_folded_norm_has_the_amax_of_the_unfolded_weight() -> None:
    model, _ = network("residual")
    found = layers("residual")["conv1"].weight
    assert found is not None
    weight = model.get_parameter("conv1.weight").detach()
    assert torch.equal(found.amax, weight.abs().amax((1, 2, 3)))


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
def test_unfolded_weights_have_the_codes_of_the_folded_ones_up_to_sign(per_channel: bool) -> None:
    _, graph = network("residual")
    chosen = Recipe(per_channel=per_channel, ranges=recipe("residual").ranges)
    for path in ("conv1", "conv2"):
        layer = layers("residual", chosen)[path]
        assert layer.weight is not None
        folded = get_attr(graph.module, f"{path}.weight")
        params = affine.weight_params(folded, axis=0 if per_channel else None)
        theirs = affine.quantize(layer.stored, layer.weight.params)
        assert torch.equal(theirs.abs(), affine.quantize(folded, params).abs())


def test_a_module_called_with_two_ranges_has_to_be_float() -> None:
    _, graph = network("twins")
    reason = "one module called with different ranges or not always int8"
    assert called_alike(graph, recipe("twins")) == {reason: ("body:linear", "body:linear.1")}


def test_a_module_called_twice_with_one_range_is_one_layer() -> None:
    chosen = recipe("twins")
    for tensor in ("tanh", "tanh.1"):
        chosen = chosen.with_range(tensor, -1.0, 1.0)
    assert layers("twins", chosen)["body"].ops == ("body:linear", "body:linear.1")


def test_a_module_that_is_int8_in_one_call_only_has_to_be_float() -> None:
    _, graph = network("twins")
    found = called_alike(graph, recipe("twins").skip("body:linear"))
    assert list(found.values()) == [("body:linear.1",)]


def test_a_product_that_no_linear_module_makes_has_to_be_float() -> None:
    _, graph = network("seq first")
    chosen = recipe("seq first").only("attn:linear", "attn:linear.1", "head")
    assert made_by_modules(graph, chosen) == {
        "not the call of a linear or convolution module": ("attn:linear", "attn:linear.1")
    }


def test_a_module_of_another_kind_is_refused_by_name() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model, _ = network("tokens")
    other = type(model)()
    other.head = Odd(8, 4)
    with pytest.raises(FormatError) as caught:
        module_layers(asked("tokens", model=other), "X")
    assert str(caught.value) == (
        "X: it cannot quantize head, made by Odd instead of a plain linear or convolution module. "
        "Leave them in float."
    )


def test_an_exported_program_has_no_modules() -> None:
    _, graph = network("tokens")
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    chosen = request(
        nn.Linear(2, 2), graph, recipe("tokens"), data("tokens", 4), Path(), "modelopt"
    )
    with pytest.raises(FormatError) as caught:
        module_layers(Request(**{**chosen.__dict__, "model": program}), "X")
    assert str(caught.value) == (
        "X: it addresses the modules of a model, which an exported program does not have. Open the "
        "model as file.py:factory or from Python."
    )


def test_nothing_to_write_is_said() -> None:
    with pytest.raises(FormatError) as caught:
        module_layers(asked("tokens", Recipe(int8=False)), "X")
    assert str(caught.value) == "X: no op that it can hold is int8. Make a linear op int8."


class Projections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.q_proj(x) * self.k_proj(y) * self.v_proj(y)
        return out


JOINED = "joined into one layer, but not all int8 with one input range"


def test_layers_that_are_joined_are_int8_together_or_not_at_all() -> None:
    graph = capture(made(Projections()), batch(torch.zeros(2, 4), torch.zeros(2, 4)))
    chosen = everything_int8(graph)
    assert joined_alike(graph, chosen) == {}
    assert joined_alike(graph, chosen.skip("v_proj")) == {JOINED: ("q_proj", "k_proj")}


def test_layers_that_are_joined_need_one_input_range() -> None:
    graph = capture(made(Projections()), batch(torch.zeros(2, 4), torch.zeros(2, 4)))
    chosen = everything_int8(graph).with_range("y", -2.0, 2.0)
    assert joined_alike(graph, chosen) == {JOINED: ("q_proj", "k_proj", "v_proj")}


def test_a_weight_tied_to_an_embedding_has_to_be_float() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(ids).mean(1))
            return out

    graph = capture(made(Tied()), batch(torch.zeros(2, 3, dtype=torch.int64)))
    found = own_weights(graph, everything_int8(graph))
    assert found == {"a weight that other modules read": ("head",)}


def test_the_nearest_recipe_for_linear_layers_keeps_nothing_else() -> None:
    _, graph = network("residual")
    chosen = nearest(graph, recipe("residual"), EXPORTERS["torchao"].limits).recipe
    assert set(chosen.skipped) == {"conv1", "conv2", "conv3", "add"}


@pytest.mark.parametrize("name", ["modelopt_apply.py", "torchao_apply.py"])
def test_a_script_that_is_handed_over_runs_without_qviz(name: str) -> None:
    nodes = list(ast.walk(ast.parse(script(name))))
    imported = {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    assert not any(module.split(".")[0] == "qviz" for module in imported)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError) as caught:
        write_files(tmp_path / "file" / "modelopt", {"a": b""})
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'modelopt'}: it cannot be written (not a directory). Free some "
        "space or name another folder."
    )
