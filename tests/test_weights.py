"""Tuned weights: another model under the same names, and nothing of the first one touched."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import network
from torch import Tensor, nn

from qviz.capture import capture
from qviz.collate import Batch
from qviz.errors import RecipeError, ShapeError
from qviz.execute import Program
from qviz.graph import Graph
from qviz.recipe import Recipe
from qviz.simulate import Simulator
from qviz.weights import (
    NOTHING,
    TunedWeights,
    bias_of,
    can_have_bias,
    shared,
    tuned_graph,
    weight_of,
    with_bias,
)


class Twice(nn.Module):
    """A linear without a bias, read twice, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(2, 2, bias=False)
        self.last = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.both.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            self.last.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.both(self.both(x)))
        return out


X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


@functools.cache
def twice() -> Graph:
    return capture(Twice().eval(), Batch((X,), {}, None, 2))


def ran(graph: Graph) -> Tensor:
    program = Program(graph)
    out: Tensor = program.run(program.inputs(Batch((X,), {}, None, 2)))[0]
    return out


def test_a_tuned_graph_computes_with_the_new_values_and_the_old_one_as_before() -> None:
    graph = twice()
    before = ran(graph)
    tuned = tuned_graph(graph, TunedWeights({"last.weight": torch.eye(2)}))
    assert torch.equal(ran(tuned), torch.tensor([[1.0, 8.0], [3.0, -4.0]]))
    assert torch.equal(ran(graph), before)


def test_nothing_tuned_is_the_graph_itself() -> None:
    graph = twice()
    assert tuned_graph(graph, NOTHING) is graph
    assert NOTHING.key == ""


def test_a_tuned_graph_has_the_names_of_the_first() -> None:
    graph = network("residual")[1]
    bias = with_bias(graph, "conv1", torch.zeros(4))
    tuned = tuned_graph(graph, bias)
    assert list(tuned.ops) == list(graph.ops)
    assert [n.name for n in tuned.module.graph.nodes] == [n.name for n in graph.module.graph.nodes]


def test_an_op_without_a_bias_gets_one() -> None:
    graph = twice()
    assert bias_of(graph, "last") is None
    tuned = tuned_graph(graph, with_bias(graph, "last", torch.tensor([10.0, 20.0])))
    assert torch.equal(ran(tuned), ran(graph) + torch.tensor([10.0, 20.0]))
    assert bias_of(tuned, "last") is not None
    again = tuned_graph(tuned, with_bias(tuned, "last", torch.zeros(2)))
    assert torch.equal(ran(again), ran(graph))


def test_a_weight_that_two_ops_read_is_known_as_shared() -> None:
    graph = twice()
    assert shared(graph, "both.weight")
    assert not shared(graph, "last.weight")


def test_an_op_that_is_no_product_cannot_have_a_bias() -> None:
    graph = network("residual")[1]
    add = next(op.name for op in graph.quantizable if op.type == "add")
    assert not can_have_bias(graph, add)
    with pytest.raises(RecipeError) as raised:
        with_bias(graph, add, torch.zeros(4))
    assert str(raised.value) == (
        f"{add}: has no bias of its own that could be changed. Leave it out of the ops to tune."
    )


def test_a_limit_makes_the_grid_of_a_weight_at_its_width_only() -> None:
    graph = twice()
    operand = weight_of(graph, "last")
    assert operand is not None
    limits = {operand.name: {4: torch.tensor([0.5, 1.0])}}
    simulator = Simulator(tuned_graph(graph, TunedWeights(limits=limits)))
    params, value = simulator.weight(operand, 4, True)
    assert torch.equal(params.scale, torch.tensor([0.5, 1.0]) / 7)
    assert torch.allclose(value, torch.tensor([[0.5, 0.5], [1.0, -1.0]]))
    assert torch.equal(simulator.weight(operand, 8, True)[0].scale, torch.ones(2) / 127)
    assert torch.equal(simulator.weight(operand, 4, False)[0].scale, torch.tensor(1.0) / 7)


@given(st.integers(2, 8), st.integers(0, 2**31))
def test_a_weight_on_its_grid_with_its_limit_keeps_its_codes(bits: int, seed: int) -> None:
    top = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-top, top + 1, (2, 2), generator=generator)
    amax = torch.rand(2, generator=generator) + 0.01
    graph = twice()
    operand = weight_of(graph, "last")
    assert operand is not None
    tuned = TunedWeights(
        {"last.weight": codes * (amax / top)[:, None]}, limits={operand.name: {bits: amax}}
    )
    simulator = Simulator(tuned_graph(graph, tuned))
    params, value = simulator.weight(operand, bits, True)
    assert torch.equal((value / params.scale[:, None]).round().long(), codes)


def test_what_was_saved_is_what_is_read() -> None:
    graph = twice()
    first = with_bias(graph, "last", torch.ones(2)).then(
        TunedWeights({"last.weight": torch.eye(2)}, limits={"last/weight": {4: torch.ones(2)}})
    )
    again = TunedWeights.from_arrays(first.to_arrays())
    assert again.key == first.key
    assert torch.equal(ran(tuned_graph(graph, again)), ran(tuned_graph(graph, first)))


def test_the_later_of_two_changes_wins() -> None:
    one = TunedWeights({"a": torch.zeros(1), "b": torch.zeros(1)}, limits={"o": {8: torch.ones(1)}})
    two = TunedWeights({"a": torch.ones(1)}, limits={"o": {4: torch.zeros(1)}})
    both = one.then(two)
    assert float(both.values["a"]) == 1
    assert float(both.values["b"]) == 0
    assert sorted(both.limits["o"]) == [4, 8]
    assert one.then(None) is one


def test_weights_of_another_model_are_refused() -> None:
    graph = twice()
    with pytest.raises(RecipeError) as raised:
        tuned_graph(graph, TunedWeights({"conv1.weight": torch.zeros(1)}))
    assert str(raised.value) == (
        "tuned weights conv1.weight: Twice has no such thing. Tune it again."
    )
    with pytest.raises(ShapeError) as wrong:
        tuned_graph(graph, TunedWeights({"last.weight": torch.zeros(3, 2)}))
    assert str(wrong.value) == (
        "tuned last.weight: is (3, 2), the model's is (2, 2). Tune the model again."
    )


def test_a_recipe_file_says_nothing_of_weights_that_are_the_models_own() -> None:
    assert '"weights"' not in Recipe().to_json()
    named = Recipe(weights="ab12")
    assert Recipe.from_json(named.to_json()) == named
