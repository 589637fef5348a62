"""Layers, mixes of widths and their losses: what is predicted is what the mixed network does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import batch, data, made, network, recipe
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import as_data
from qviz.errors import TuneError
from qviz.evaluate import outputs
from qviz.graph import Graph
from qviz.metrics import METRICS, score
from qviz.ranking import Measured
from qviz.recipe import Override, Recipe, TensorRange, resolve
from qviz.rewrite import get_attr
from qviz.search.layer_losses import measure
from qviz.search.layers import layers_of, rest_of
from qviz.search.mixing import Networks, Prepared, with_width
from qviz.search.widths import BASE, Width
from qviz.simulate import Simulator
from qviz.weights import TunedWeights, tuned_graph, weight_of, with_bias

W4 = Width(4, 4)
W48 = Width(4, 8)
W3 = Width(3, 3)
RECIPE = recipe("residual")
GRAPH = network("residual")[1]
DATA = data("residual", 8)


class Shared(nn.Module):
    """One linear used twice between two others without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.twice = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.twice(self.twice(self.first(x)).relu()))
        return out


@cache
def shared() -> Graph:
    return capture(made(Shared()), batch(torch.zeros(2, 4)))


@cache
def simulator() -> Simulator:
    return Simulator(GRAPH)


def tightened(share: float) -> Recipe:
    """The recipe with every range this part as wide."""
    return replace(
        RECIPE,
        ranges=tuple(replace(r, lo=share * r.lo, hi=share * r.hi) for r in RECIPE.ranges),
    )


def tuned(bits: int, seed: int) -> TunedWeights:
    """Other weights, biases and limits for every layer, as a reconstruction makes them."""
    generator = torch.Generator().manual_seed(seed)
    weights = TunedWeights()
    for layer in layers_of(GRAPH, RECIPE):
        operand = weight_of(GRAPH, layer.name)
        assert operand is not None
        value = get_attr(GRAPH.module, operand.tensor)
        value = value + 0.05 * torch.randn(value.shape, generator=generator)
        limit = value.flatten(1).abs().amax(1) * 0.8
        bias = torch.randn(len(value), generator=generator)
        weights = weights.then(
            TunedWeights({operand.tensor: value}, {}, {operand.name: {bits: limit}})
        ).then(with_bias(GRAPH, layer.name, bias))
    return weights


@cache
def plain() -> Networks:
    narrow = Prepared(tightened(0.6))
    at = {BASE: Prepared(RECIPE), W48: Prepared(RECIPE), W4: narrow, W3: Prepared(tightened(0.4))}
    return Networks(GRAPH, simulator(), at)


@cache
def reconstructed() -> Networks:
    at = {
        BASE: Prepared(RECIPE, tuned(8, 0)),
        W4: Prepared(tightened(0.6), tuned(4, 1)),
        W3: Prepared(tightened(0.4), tuned(3, 2)),
    }
    return Networks(GRAPH, simulator(), at)


def run(networks: Networks, widths: dict[str, Width]) -> Tensor:
    """The outputs of a mix as whoever keeps it runs it: from its recipe and its weights."""
    chosen, weights = networks.mixed(widths)
    own = Simulator(tuned_graph(GRAPH, weights))
    return outputs(own.program, DATA, own.edits(chosen), batch_size=8).values


def test_layers_are_ops_with_products_and_adds_are_none() -> None:
    layers = layers_of(GRAPH, RECIPE)
    assert [layer.name for layer in layers] == ["conv1", "conv2", "conv3", "fc"]
    assert [layer.elements for layer in layers] == [108, 144, 144, 320]
    assert layers[1].macs == GRAPH.ops["conv2"].macs
    assert rest_of(GRAPH, layers) == 4 + 4 + 4 + 5


def test_first_and_last_layers_are_marked() -> None:
    assert [la.name for la in layers_of(GRAPH, RECIPE) if la.end] == ["conv1", "fc"]


def test_products_of_two_activations_have_a_width_but_no_weight_and_are_no_end() -> None:
    layers = layers_of(network("tokens")[1], recipe("tokens"))
    product = {layer.name: layer for layer in layers}["attn:matmul"]
    assert (product.elements, product.end) == (0, False)
    # the projection lies behind the product of what the first one gives
    assert [layer.name for layer in layers if layer.end] == ["attn.qkv", "head"]


class Split(nn.Module):
    """A middle linear between two others, behind a split that is no op of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.middle = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).reshape(-1, 2, 4).unbind(1)
        out: Tensor = self.last(self.middle(left) + right)
        return out


def test_what_lies_behind_a_split_is_not_a_first_op() -> None:
    graph = capture(made(Split()), batch(torch.zeros(2, 4)))
    layers = layers_of(graph, Recipe(ranges=_ranges(graph)))
    assert [layer.name for layer in layers if layer.end] == ["first", "last"]


def test_ops_that_share_a_weight_are_one_layer() -> None:
    layers = layers_of(shared(), Recipe(ranges=_ranges(shared())))
    assert [layer.ops for layer in layers] == [
        ("first",),
        ("twice:linear", "twice:linear.1"),
        ("last",),
    ]
    assert [layer.elements for layer in layers] == [16, 16, 12]


def _ranges(graph: Graph) -> tuple[TensorRange, ...]:
    return tuple(TensorRange(name, -1.0, 1.0, "max") for name in graph.observed)


def test_what_a_recipe_leaves_in_float_is_no_layer() -> None:
    layers = layers_of(GRAPH, RECIPE.skip("conv2", "fc/weight"))
    assert [layer.name for layer in layers] == ["conv1", "conv3", "fc"]
    assert layers[-1].elements == 0


def test_a_recipe_without_products_in_int8_has_nothing_to_allocate() -> None:
    with pytest.raises(TuneError) as caught:
        layers_of(GRAPH, RECIPE.only("add"))
    assert str(caught.value) == (
        "bit allocation: the recipe leaves no conv, linear or matmul int8. Quantize at least one."
    )


def test_a_width_is_an_override_of_the_op_or_of_its_operands() -> None:
    layer = layers_of(GRAPH, RECIPE)[1]
    assert with_width(RECIPE, GRAPH, layer, W4).overrides == (Override("conv2", bits=4),)
    both = with_width(RECIPE, GRAPH, layer, W48)
    assert set(both.overrides) == {
        Override("conv2/input", bits=8),
        Override("conv2/weight", bits=4),
    }
    assert with_width(both, GRAPH, layer, W4).overrides == (Override("conv2", bits=4),)


def test_a_width_leaves_in_float_what_is_float() -> None:
    layer = layers_of(GRAPH, RECIPE)[1]
    found = with_width(RECIPE.skip("conv2/input"), GRAPH, layer, W4)
    decisions = resolve(found, GRAPH)
    assert not decisions["conv2/input"].int8
    assert decisions["conv2/weight"].bits == 4


def test_a_tensor_takes_the_range_of_its_narrowest_reader() -> None:
    networks = plain()
    tensor = GRAPH.operands["conv2/input"].tensor
    assert tensor == GRAPH.operands["add/1"].tensor  # the add reads it at 8 bits
    whole = RECIPE.range_of[tensor].hi
    assert networks.mixed({})[0].range_of[tensor].hi == whole
    assert networks.mixed({"conv2": W48})[0].range_of[tensor].hi == whole
    assert networks.mixed({"conv2": W4})[0].range_of[tensor].hi == 0.6 * whole
    assert networks.mixed({"conv2": W3})[0].range_of[tensor].hi == 0.4 * whole


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([BASE, W4, W3]), min_size=4, max_size=4))
def test_a_mix_measured_is_the_mix_that_is_kept(chosen: list[Width]) -> None:
    networks = reconstructed()
    widths = dict(zip(("conv1", "conv2", "conv3", "fc"), chosen, strict=True))
    edits = networks.edits_of(widths)()
    found = outputs(networks.simulator.program, DATA, edits, batch_size=8).values
    assert torch.equal(found, run(networks, widths))


def test_a_mix_takes_each_layers_weights_from_its_width() -> None:
    networks = reconstructed()
    _, weights = networks.mixed({"conv2": W4})
    for name, bits, seed in (("conv1", 8, 0), ("conv2", 4, 1)):
        operand = weight_of(GRAPH, name)
        assert operand is not None
        own = tuned(bits, seed)
        assert torch.equal(weights.values[operand.tensor], own.values[operand.tensor])
        assert weights.limits[operand.name].keys() == {bits}


def test_a_bias_that_only_one_width_has_is_zero_at_the_others() -> None:
    graph = shared()
    base = Recipe(ranges=_ranges(graph))
    bias = with_bias(graph, "first", torch.full((4,), 0.5))
    sim = Simulator(graph)
    networks = Networks(graph, sim, {BASE: Prepared(base), W4: Prepared(base, bias)})
    x = as_data((torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), None), "x")
    for widths, own, weights in (
        ({}, base, TunedWeights()),
        ({"first": W4}, base.override(Override("first", bits=4)), bias),
    ):
        edits = networks.edits_of(widths)()
        found = outputs(networks.simulator.program, x, edits, batch_size=6).values
        plain = Simulator(tuned_graph(graph, weights))
        assert torch.equal(found, outputs(plain.program, x, plain.edits(own), batch_size=6).values)


def test_a_loss_is_the_divergence_of_the_network_with_one_layer_narrow() -> None:
    networks = plain()
    found = measure(networks, DATA, batch_size=3)
    float_model = outputs(simulator().program, DATA, batch_size=8).values
    assert found.base_loss == pytest.approx(
        score("kl", run(networks, {}), None, float_model).value, rel=1e-6
    )
    loss = {(row.layer, row.width): row.loss for row in found.rows}
    assert loss.keys() == {
        (layer, width) for layer in ("conv1", "conv2", "conv3", "fc") for width in (W48, W4, W3)
    }
    for layer, width in (("conv1", W4), ("fc", W3), ("conv3", W48)):
        own = score("kl", run(networks, {layer: width}), None, float_model).value
        assert loss[layer, width] == pytest.approx(own, rel=1e-6)
    assert (found.loss, found.samples, found.metric) == ("kl", 8, "")


def test_a_product_without_a_weight_has_no_loss_at_a_width_of_weights_alone() -> None:
    graph, base = network("tokens")[1], recipe("tokens")
    at = {width: Prepared(base) for width in (BASE, W48, W4)}
    found = measure(Networks(graph, Simulator(graph), at), data("tokens", 4))
    assert [row.width for row in found.rows if row.layer == "attn:matmul"] == [W4]


def test_the_metric_can_be_measured_beside_the_loss_and_be_made_the_loss() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    (one,) = DATA.batches(8)
    labelled = as_data((one.args[0], labels), "labelled")
    found = measure(plain(), labelled, metric=METRICS["top1"])
    right = (run(plain(), {"conv1": W3}).argmax(1) == labels).double().mean()
    row = next(r for r in found.rows if (r.layer, r.width) == ("conv1", W3))
    assert row.metric == float(right)
    by_metric = found.by_metric()
    assert by_metric.loss == "top1 drop"
    assert by_metric.base_loss == 0.0
    base = (run(plain(), {}).argmax(1) == labels).double().mean()
    loss = next(r.loss for r in by_metric.rows if (r.layer, r.width) == ("conv1", W3))
    assert loss == float(base - right)


def test_losses_without_a_metric_cannot_be_by_metric() -> None:
    with pytest.raises(TuneError) as caught:
        measure(plain(), DATA.head(2)).by_metric()
    assert str(caught.value) == (
        "losses by metric: the metric was not measured beside the loss. Measure the losses again "
        "with the metric, on labelled calibration data."
    )


def test_parts_measured_before_are_not_measured_again() -> None:
    kept: list[Measured] = []
    first = measure(plain(), DATA, save=kept.append)
    again: list[Measured] = []
    assert measure(plain(), DATA, known=kept, save=again.append) == first
    assert again == []
    measure(plain(), DATA, known=kept[:-2], save=again.append)
    assert [part.key for part in again] == [part.key for part in kept[-2:]]


def test_a_loss_that_is_nan_is_named() -> None:
    broken = tuned(4, 1)
    operand = weight_of(GRAPH, "conv2")
    assert operand is not None
    bias = with_bias(GRAPH, "conv2", torch.full((4,), float("nan")))
    at = {BASE: Prepared(RECIPE), W4: Prepared(RECIPE, broken.then(bias))}
    with pytest.raises(TuneError) as caught:
        measure(Networks(GRAPH, simulator(), at), DATA)
    assert str(caught.value) == (
        "loss of conv2 W4A4: is NaN on data. Look at the ranges of its tensors, or leave the op in "
        "float."
    )


def test_networks_need_the_base() -> None:
    with pytest.raises(TuneError) as caught:
        Networks(GRAPH, simulator(), {W4: Prepared(RECIPE)})
    assert str(caught.value) == "bit allocation: nothing is prepared at W8A8. Prepare it."
