"""QATModel: an ordinary nn.Module that gives what its finished recipe gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import batch, inputs, made, network, recipe
from qat_kit import four_bits, simulated, simulator, trained
from torch import Tensor, nn
from tune_kit import of_module

from qviz.capture import capture
from qviz.data import as_data
from qviz.errors import ShapeError, TuneError
from qviz.execute import Program
from qviz.graph import Graph
from qviz.observe import observe
from qviz.recipe import Recipe, TensorRange
from qviz.tune.qat import finish, prepare
from qviz.tune.qat_options import FROZEN_BATCH_NORM, LEARNED_RANGES, Ranges
from qviz.tune.qat_parameters import trainable
from qviz.tune.step import bits_of
from qviz.weights import TunedWeights, tuned_graph

RANGES: tuple[Ranges, ...] = ("fixed", "pact", "lsq")


def ranged(graph: Graph, *args: Tensor, bits: int = 8) -> Recipe:
    histograms = observe(Program(graph), as_data((args, None), "data"), workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in histograms.items())
    return Recipe(ranges=ranges, weight_bits=bits, activation_bits=bits)


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_a_trained_model_gives_bit_for_bit_what_its_recipe_gives(name: str, ranges: Ranges) -> None:
    for profile, bits in (("cuda", 4), ("ort-cpu", 8)):
        chosen = replace(recipe(name, profile), weight_bits=bits, activation_bits=bits)
        model = prepare(simulator(name), chosen, ranges)
        x = inputs(name, 6)
        losses = trained(model, *x)
        assert losses[0] != losses[-1]
        step = finish(model)
        with torch.no_grad():
            own = model(*x)
        assert torch.equal(own, simulated(model.graph, step, *x)[0])


@pytest.mark.parametrize("ranges", RANGES)
def test_before_training_it_gives_what_the_recipe_gives(ranges: Ranges) -> None:
    (x,) = inputs("residual", 6)
    model = prepare(simulator(), four_bits(), ranges)
    with torch.no_grad():
        own = model(x)
    sim = simulator()
    assert torch.equal(
        own, sim.program.run(sim.program.inputs(batch(x)), sim.edits(four_bits()))[0]
    )


def test_a_plain_loop_trains_it_and_the_graph_stays_as_it_is() -> None:
    graph = network("residual")[1]
    before = {k: v.clone() for k, v in graph.module.state_dict().items()}
    (x,) = inputs("residual", 16)
    losses = trained(prepare(graph, four_bits()), x, steps=10)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in graph.module.state_dict().items())


def test_gradients_pass_straight_through_the_rounding() -> None:
    """Of y = Q(x) W^T + b with everything inside the ranges: dW = g^T Q(x), dx = g Q(W)."""
    (graph, chosen), x = _linear(), torch.tensor([[0.5, -1.0], [0.25, 1.0]])
    model = prepare(graph, chosen)
    x.requires_grad_()
    g = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    model(x).backward(g)
    grid = torch.fake_quantize_per_tensor_affine(x.detach(), 1 / 7, 0, -8, 7)
    weight = model.weights.fc.weight  # type: ignore[union-attr]
    rounded = torch.tensor([[1.0, -3 / 7], [2 / 7, 0.5]])  # 7 and -3 of 1/7; 4 and 7 of 1/14
    assert torch.allclose(weight.grad, g.T @ grid)  # type: ignore[arg-type]
    assert x.grad is not None
    assert torch.allclose(x.grad, g @ rounded, atol=1e-6)


def _linear() -> tuple[Graph, Recipe]:
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(2, 2))
    fc = model.fc
    assert isinstance(fc, nn.Linear)
    with torch.no_grad():
        fc.weight.copy_(torch.tensor([[1.0, -0.4], [0.3, 0.5]]))
        fc.bias.zero_()
    graph = capture(model.eval(), batch(torch.zeros(2, 2)))
    ranges = (TensorRange(graph.inputs[0].tensor, -1.0, 1.0, "max"),)
    return graph, Recipe(ranges=ranges, weight_bits=4, activation_bits=4)


def test_its_state_dict_restores_it() -> None:
    (x,) = inputs("residual", 4)
    model = prepare(simulator(), four_bits(), "lsq")
    trained(model, x)
    again = prepare(simulator(), four_bits(), "lsq")
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert "weights.fc.weight" in model.state_dict()
    assert "learned.fc/weight.step" in model.state_dict()


def test_it_can_be_copied() -> None:
    (x,) = inputs("residual", 4)
    model = prepare(simulator(), four_bits(), "pact")
    twin = copy.deepcopy(model)
    trained(twin, x)
    with torch.no_grad():
        assert not torch.equal(twin(x), model(x))
    assert finish(model).weights is None  # the original stays as it was


def test_training_mode_changes_nothing() -> None:
    (x,) = inputs("residual", 4)
    model = prepare(simulator(), four_bits())
    with torch.no_grad():
        assert torch.equal(model.train()(x), model.eval()(x))


class Named(nn.Module):
    """Two inputs, one by keyword; a dict of outputs; a tied weight, one more that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.norm = nn.LayerNorm(4)

    def forward(self, ids: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.embed(ids) + self.position) + shift
        return {"scores": F.linear(x, self.embed.weight), "energy": x * (self.norm.weight * 2)}


def test_it_takes_and_gives_what_the_model_does() -> None:
    ids, shift = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.full((2, 3, 4), 0.1)
    user = made(Named())
    graph = capture(user, batch(ids, shift=shift))
    model = prepare(graph, Recipe(int8=False))
    found, wanted = model(ids, shift=shift), user(ids, shift=shift)
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found, wanted)


def test_what_is_no_weight_or_bias_stays_as_it_is() -> None:
    graph = capture(made(Named()), batch(torch.zeros(2, 3, dtype=torch.int64),
                                         shift=torch.zeros(2, 3, 4)))  # fmt: skip
    model = prepare(graph, Recipe(int8=False))
    assert set(trainable(graph)) == {"embed.weight", "norm.weight", "norm.bias"}
    assert model.frozen == ("position",)


def test_what_is_computed_from_a_trained_weight_moves_with_it() -> None:
    """Twice the norm's weight does not depend on the input, so a program computes it once."""
    ids, shift = torch.tensor([[0, 1, 2]] * 2), torch.full((2, 3, 4), 0.1)
    user = made(Named())
    model = prepare(capture(user, batch(ids, shift=shift)), Recipe(int8=False))
    with torch.no_grad():
        for weight in (user.norm.weight, model.weights.norm.weight):  # type: ignore[union-attr]
            weight.add_(0.5)  # type: ignore[operator]
        torch.testing.assert_close(model(ids, shift=shift), user(ids, shift=shift))
    model(ids, shift=shift)["energy"].sum().backward()
    user(ids, shift=shift)["energy"].sum().backward()
    torch.testing.assert_close(
        model.weights.norm.weight.grad,  # type: ignore[union-attr]
        user.norm.weight.grad,  # type: ignore[union-attr]
    )


def test_batch_norm_left_unfolded_keeps_its_statistics() -> None:
    (x,) = inputs("residual", 8)
    graph = capture(network("residual")[0], batch(x), fold_batch_norm=False)
    model = prepare(graph, ranged(graph, x))
    assert "bn1.weight" in trainable(graph)
    assert {"bn1.running_mean", "bn1.running_var"} <= set(model.frozen)
    trained(model, x)
    step = finish(model)
    assert step.weights is not None
    assert "bn1.weight" in step.weights.values
    assert not any("running" in name for name in step.weights.values)
    with torch.no_grad():
        assert torch.equal(model(x), simulated(graph, step, x)[0])


def test_a_limit_of_the_graph_holds_while_the_weight_trains() -> None:
    graph = network("residual")[1]
    limit = torch.full((5,), 0.5)
    limited = tuned_graph(graph, TunedWeights({}, {}, {"fc/weight": {4: limit}}))
    (x,) = inputs("residual", 4)
    model = prepare(limited, four_bits())
    trained(model, x)
    step = finish(model)
    with torch.no_grad():
        assert torch.equal(model(x), simulated(limited, step, x)[0])
    assert step.weights is not None
    assert step.weights.limits == {}


def test_finishing_says_what_changed() -> None:
    (x,) = inputs("residual", 4)
    model = prepare(simulator(), four_bits(), "lsq")
    assert finish(model).weights is not None  # the learned limits alone
    trained(model, x)
    step = finish(model)
    kinds = {c.what for c in step.changes}
    assert kinds == {"weight", "bias", "range", "limit"}
    assert step.notes == (FROZEN_BATCH_NORM, LEARNED_RANGES)
    row = next(c for c in step.changes if c.target == "fc" and c.what == "weight")
    assert (row.before, row.unit, row.note) == (0.0, "relative change", "fc.weight")
    assert row.after is not None
    assert row.after > 0
    learned = {r.tensor for r in step.recipe.ranges if r.calibrator == "lsq"}
    assert learned == set(bits_of(four_bits(), model.graph))


def test_a_model_without_batch_norm_is_told_nothing_of_it() -> None:
    assert finish(prepare(simulator("tokens"), four_bits("tokens"))).notes == ()


def test_only_the_ops_asked_for_are_trained() -> None:
    model = prepare(simulator(), four_bits(), ops=["fc"])
    assert set(model.tuned()) == {"fc.weight", "fc.bias"}


def test_ops_without_weights_cannot_be_trained() -> None:
    with pytest.raises(TuneError) as caught:
        prepare(simulator(), four_bits(), ops=["pool"])
    assert str(caught.value) == (
        "pool: has no weights that could be trained. Name ops that have some."
    )


def test_an_input_of_another_shape_is_named() -> None:
    with pytest.raises(ShapeError) as caught:
        prepare(simulator(), four_bits())(torch.zeros(2, 3, 9, 9))
    assert str(caught.value) == (
        "input x: samples are float32 (3, 9, 9), the model takes float32 (3, 8, 8). Give data as "
        "the model was trained on, preprocessing included."
    )


def test_a_weight_that_became_nan_is_named() -> None:
    model = prepare(simulator(), four_bits())
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    for attempt in (lambda: model(*inputs("residual", 2)), lambda: finish(model)):
        with pytest.raises(TuneError, match="training made it NaN or infinite") as caught:
            attempt()
        assert "conv1.weight" in str(caught.value)


@pytest.mark.parametrize("ranges", ["pact", "lsq"])
def test_only_ranges_that_no_other_op_reads_are_learned(ranges: Ranges) -> None:
    """conv3 reads what only it reads; the rest belongs to ops that are not asked for."""
    model = prepare(simulator(), four_bits(), ranges, ops=["conv3"])
    assert list(model.ranges()) == ["relu:relu.1"]
    assert list(model.limits()) == ([] if ranges == "pact" else ["conv3/weight"])


@pytest.mark.parametrize("ranges", ["pact", "lsq"])
def test_a_range_that_a_person_set_is_not_learned(ranges: Ranges) -> None:
    chosen = four_bits().with_range("relu:relu", 0.0, 1.5)
    assert "relu:relu" not in prepare(simulator(), chosen, ranges).ranges()
    assert "relu:relu" in prepare(simulator(), four_bits(), ranges).ranges()


class Attention(nn.Module):
    """Layers with the names of a dictionary's methods, as attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.values(self.keys(x))
        return y


@pytest.mark.parametrize("ranges", ["pact", "lsq"])
def test_layers_may_have_any_name(ranges: Ranges) -> None:
    given = of_module(Attention(), torch.randn(8, 4))
    model = prepare(given.simulator, given.recipe, ranges)
    assert {"keys"} <= set(model.ranges())
    assert model(torch.ones(2, 4)).shape == (2, 4)
