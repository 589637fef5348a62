"""compressed-tensors: a Hugging Face model read from our folder computes what was simulated."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from handoff_kit import exported, quiet, request, simulated
from networks import batch, data, network, recipe
from safetensors.torch import load_file
from torch import Tensor, nn

from qviz.affine import fake_quantize
from qviz.capture import capture
from qviz.data import Data, as_data
from qviz.errors import FormatError
from qviz.execute import Program
from qviz.export import EXPORTERS, Request, nearest
from qviz.graph import Graph
from qviz.observe import observe
from qviz.recipe import Recipe, TensorRange

#: Looked for, not imported: that has to happen with other packages hidden.
MISSING = [n for n in ("compressed_tensors", "transformers") if find_spec(n) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed")


@dataclass(frozen=True, eq=False)
class Bert:
    """A small BERT with random weights, its graph, and data."""

    model: Any
    graph: Graph
    recipe: Recipe
    data: Data


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    # hidden because a torchvision of another build of torch cannot be imported, and is looked for
    with quiet("torchvision", "torchao"):
        importlib.import_module("compressed_tensors")
        found = importlib.import_module("transformers")
        found.utils.logging.disable_progress_bar()
        yield found


@pytest.fixture(scope="module")
def bert(transformers: Any) -> Bert:  # noqa: ANN401
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=8,
        hidden_act="relu",
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (8, 6), generator=generator)
    samples = as_data(({"input_ids": ids}, None), "data")
    graph = capture(model, batch(input_ids=ids))
    histograms = observe(Program(graph), samples, workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in histograms.items())
    return Bert(model, graph, Recipe(ranges=ranges), samples)


def written(bert: Bert, folder: Path, *skipped: str) -> Request:
    chosen = bert.recipe.skip(*skipped)
    ask = request(bert.model, bert.graph, chosen, bert.data, folder, "compressed-tensors")
    exported(ask, "compressed-tensors")
    return ask


def test_the_model_read_back_computes_what_was_simulated(
    transformers: Any,  # noqa: ANN401
    bert: Bert,
    tmp_path: Path,
) -> None:
    ask = written(bert, tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    (samples,) = bert.data.batches(bert.data.count)
    with torch.no_grad():
        out = theirs(**samples.kwargs).last_hidden_state
    torch.testing.assert_close(out, simulated(ask), rtol=0, atol=1e-5)


def test_each_layer_read_back_gives_the_very_numbers_of_the_simulation(
    transformers: Any,  # noqa: ANN401
    bert: Bert,
    tmp_path: Path,
) -> None:
    ask = written(bert, tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for path in (op.module for op in bert.graph.quantizable if op.type == "linear"):
        theirs.get_submodule(path).register_forward_hook(
            lambda _, args, out, path=path: seen.update({path: (args[0], out)})
        )
    (samples,) = bert.data.batches(bert.data.count)
    with torch.no_grad():
        theirs(**samples.kwargs)
    assert len(seen) == 12
    for path, (x, out) in seen.items():
        op = bert.graph.ops[path]
        source, stored = op.operands
        params = ask.simulator.activation_params(source.tensor, ask.recipe, 8)
        weight = ask.simulator.weight(stored, 8, per_channel=True)[1]
        bias = bert.model.get_parameter(f"{path}.bias").detach()
        assert torch.equal(out, F.linear(fake_quantize(x, params), weight, bias))


def test_a_skipped_layer_keeps_its_weight_and_is_ignored(bert: Bert, tmp_path: Path) -> None:
    path = "encoder.layer.0.output.dense"
    written(bert, tmp_path, path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors[f"{path}.weight"], bert.model.get_parameter(f"{path}.weight"))
    assert f"{path}.weight_scale" not in tensors
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "dynamic": False,
                    "strategy": "channel",
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "dynamic": False,
                    "strategy": "tensor",
                },
            }
        },
        "ignore": [path],
    }


def test_what_is_not_int8_is_stored_as_it_is(bert: Bert, tmp_path: Path) -> None:
    written(bert, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    state = bert.model.state_dict()
    int8 = {f"{op.module}.weight" for op in bert.graph.quantizable if op.type == "linear"}
    scales = {f"{name}_scale" for name in int8}
    scales |= {name.replace(".weight", ".input_scale") for name in int8}
    assert tensors.keys() == state.keys() | scales
    assert all(torch.equal(tensors[name], state[name]) for name in state.keys() - int8)
    assert {tensors[name].dtype for name in int8} == {torch.int8}


def test_query_key_and_value_are_skipped_together(bert: Bert) -> None:
    limits = EXPORTERS["compressed-tensors"].limits
    fit = nearest(bert.graph, bert.recipe.skip("encoder.layer.1.attention.self.key"), limits)
    self = "encoder.layer.1.attention.self"
    assert str(fit.changes[-1]) == (
        "joined into one layer, but not all int8 with one input range "
        f"({self}.query, {self}.value) → float"
    )


class Headed(nn.Module):
    """A Hugging Face model inside another, beside a layer of its own."""

    def __init__(self, body: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.body = body
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(input_ids).last_hidden_state[:, 0])
        return out


def headed(bert: Bert, folder: Path, *skipped: str) -> Request:
    model = Headed(bert.model).eval()
    graph = capture(model, next(bert.data.batches(2)))
    ranges = tuple(TensorRange(t, -2.0, 2.0, "fixed") for t in graph.observed)
    chosen = Recipe(ranges=ranges).skip(*skipped)
    return request(model, graph, chosen, bert.data, folder, "compressed-tensors")


def test_names_are_those_of_the_hugging_face_model_inside(bert: Bert, tmp_path: Path) -> None:
    exported(headed(bert, tmp_path, "head"), "compressed-tensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["encoder.layer.0.output.dense.weight"].dtype == torch.int8
    assert not any(name.startswith(("body.", "head.")) for name in tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]


def test_a_layer_outside_the_hugging_face_model_is_refused_by_name(
    bert: Bert, tmp_path: Path
) -> None:
    with pytest.raises(FormatError) as caught:
        exported(headed(bert, tmp_path), "compressed-tensors")
    assert str(caught.value) == (
        "compressed-tensors: head is outside the Hugging Face model body. Leave it in float."
    )


def test_another_model_gets_the_part_of_the_config_alone(tmp_path: Path) -> None:
    model, graph = network("tokens")
    ask = request(model, graph, recipe("tokens"), data("tokens", 4), tmp_path, "compressed-tensors")
    made = exported(ask, "compressed-tensors")
    assert list(made["files"]) == ["model.safetensors", "quantization_config.json"]
    assert made["note"] == (
        "Put quantization_config.json into your model's config.json, as quantization_config"
    )


def test_a_language_model_with_grouped_heads_is_read_back(
    transformers: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        use_cache=False,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 32, (4, 6), generator=torch.Generator().manual_seed(0))
    samples = as_data(({"input_ids": ids}, None), "data")
    graph = capture(model, batch(input_ids=ids))
    histograms = observe(Program(graph), samples, workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in histograms.items())
    ask = request(model, graph, Recipe(ranges=ranges), samples, tmp_path, "compressed-tensors")
    assert exported(ask, "compressed-tensors")["modules"] == 7
    assert "lm_head" in ask.recipe.skipped  # its weight is the embedding's
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        out = theirs(input_ids=ids)[0]
    torch.testing.assert_close(out, simulated(ask), rtol=0, atol=1e-5)
