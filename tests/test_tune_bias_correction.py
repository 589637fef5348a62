"""Bias correction: exact on a case by hand, and equal to a naive loop over whole forward passes."""

from __future__ import annotations

import networks
import pytest
import torch
from torch import Tensor, nn
from tune_kit import (
    cancel,
    error,
    generator,
    means,
    of_module,
    subject,
    values,
    weighed,
)

from qviz.data import as_data
from qviz.errors import Cancelled, TuneError
from qviz.recipe import Recipe, TensorRange
from qviz.tune import bias_correction, lockstep
from qviz.tune.samples import drawn
from qviz.tune.step import Step
from qviz.weights import NOTHING, TunedWeights, bias_of, with_bias

FOUR_BITS = {
    name: Recipe(ranges=networks.recipe(name).ranges, weight_bits=4, activation_bits=6)
    for name in ("residual", "tokens", "seq first")
}


class One(nn.Module):
    """y = x . (1, 0.4), without a bias."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=bias)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1.0, 0.4]]))
            if bias:
                self.fc.bias.fill_(7.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


X = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
#: Two bits round the weight to (1, 0); whole inputs stay what they are.
TWO_BITS = Recipe(weight_bits=2, ranges=(TensorRange("x", -127.0, 127.0, "fixed"),))


def axis(op: str) -> int:
    return 1 if op.startswith("conv") else -1


def test_the_lost_mean_is_added_by_hand() -> None:
    """0.4 is lost of inputs 1 and 3, whose mean is 2."""
    given = of_module(One(), X, TWO_BITS)
    step = bias_correction.apply(given)
    assert step.weights is not None
    (name,) = step.weights.biases.values()
    assert step.weights.values[name].tolist() == pytest.approx([0.8])
    assert step.recipe == TWO_BITS


def test_a_bias_that_is_there_is_changed() -> None:
    given = of_module(One(bias=True), X, TWO_BITS)
    step = bias_correction.apply(given)
    assert step.weights is not None
    assert step.weights.biases == {}
    assert step.weights.values["fc.bias"].tolist() == pytest.approx([7.8])


def test_the_change_is_the_mean_error_in_output_deviations() -> None:
    """Outputs 1.4 and 2.2 have a deviation of 0.4; the error of -0.8 is two of them."""
    (change,) = bias_correction.apply(of_module(One(), X, TWO_BITS)).changes
    assert change.target == "fc"
    assert change.before == pytest.approx(2.0)
    assert change.after == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", FOUR_BITS)
def test_every_corrected_op_has_the_mean_of_the_float_model(name: str) -> None:
    given = subject(name, FOUR_BITS[name])
    step = bias_correction.apply(given)
    wanted, made = values(given, None, recipe=False), values(given, step.weights, recipe=True)
    for change in step.changes:
        op = change.target
        rows = [weighed(given, op, value[op], axis(op)) for value in (made, wanted)]
        found, goal = (means(value, 0, weights) for value, weights in rows)
        torch.testing.assert_close(found, goal, atol=1e-5, rtol=1e-5)


def test_it_equals_a_loop_that_runs_the_model_anew_for_every_op() -> None:
    given = subject("residual", FOUR_BITS["residual"])
    wanted = values(given, None, recipe=False)
    naive = NOTHING
    for op in ("conv1", "conv2", "conv3", "fc"):
        made = values(given, naive, recipe=True)
        shift = means(made[op], axis(op)) - means(wanted[op], axis(op))
        bias = given.simulator.program.parameter(str(bias_of(given.graph, op)))
        naive = naive.then(with_bias(given.graph, op, (bias - shift).float()))
    step = bias_correction.apply(given)
    assert step.weights is not None
    assert step.weights.values.keys() == naive.values.keys()
    for name, value in naive.values.items():
        torch.testing.assert_close(step.weights.values[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FOUR_BITS)
def test_the_outputs_come_nearer(name: str) -> None:
    given = subject(name, FOUR_BITS[name])
    assert error(given, bias_correction.apply(given)) < error(given, Step(given.recipe, None, ()))


def test_correcting_again_changes_nothing() -> None:
    given = subject("residual", FOUR_BITS["residual"])
    again = bias_correction.apply(given.after(bias_correction.apply(given)))
    assert max(c.before or 0.0 for c in again.changes) < 1e-4


def test_outputs_rescaled_on_purpose_are_compared_in_their_own_scale() -> None:
    """Channels of conv1 multiplied by a factor: its bias is corrected in proportion."""
    given = subject("residual", FOUR_BITS["residual"])
    factor = torch.tensor([2.0, 0.5, 4.0, 1.0])
    weight, bias = (given.simulator.program.parameter(f"conv1.{n}") for n in ("weight", "bias"))
    scaled = TunedWeights(
        {"conv1.weight": weight * factor.reshape(-1, 1, 1, 1), "conv1.bias": bias * factor},
        rescaled={"conv1": factor},
    )
    plain = bias_correction.apply(given)
    after = given.after(Step(given.recipe, scaled, ()))
    own = bias_correction.apply(after)
    assert plain.weights is not None
    assert own.weights is not None
    wanted = plain.weights.values["conv1.bias"] * factor
    torch.testing.assert_close(own.weights.values["conv1.bias"], wanted, atol=1e-5, rtol=1e-5)


def test_only_the_ops_asked_for_are_corrected() -> None:
    given = subject("residual", ops=("conv2", "fc"))
    assert [c.target for c in bias_correction.apply(given).changes] == ["conv2", "fc"]


def test_ops_left_in_float_are_left_alone() -> None:
    given = subject("residual", networks.recipe("residual").skip("conv2"))
    assert bias_correction.sites(given) == ("conv1", "conv3", "fc")


def test_a_shared_bias_is_refused() -> None:
    with pytest.raises(TuneError) as caught:
        bias_correction.apply(subject("twins"))
    assert str(caught.value) == (
        "bias correction: no int8 op has a stored weight and a bias of its own. "
        "Leave ops=None, or make a conv or linear int8."
    )


def test_the_user_can_stop_it() -> None:
    with pytest.raises(Cancelled):
        bias_correction.apply(subject("residual", progress=cancel))


def test_fewer_samples_are_used_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    given = subject("residual")
    per_sample = lockstep.peak_bytes(given.simulator.program)
    monkeypatch.setattr(lockstep, "BUDGET", 20 * per_sample)
    step = bias_correction.apply(given)
    assert step.record["samples"] == 10
    assert step.notes == ("10 of 24 samples: the values of more would not fit in 0 MiB",)


def test_the_peak_is_that_of_the_values_alive_together() -> None:
    """Residual: the relu, and conv's input and output, 4 x 8 x 8 floats each, are alive at once."""
    assert lockstep.peak_bytes(subject("residual").simulator.program) == 3 * 4 * 8 * 8 * 4


def test_moments_in_parts_are_those_of_the_whole() -> None:
    x = torch.randn(40, 3, 5, generator=generator()) + 100.0
    found = lockstep.moments(x.split(7), 1)
    torch.testing.assert_close(found.mean, means(x, 1))
    torch.testing.assert_close(found.variance, x.double().var((0, 2), unbiased=False))


def test_samples_are_drawn_from_all_of_the_data_in_its_order() -> None:
    data = as_data((torch.arange(100.0).reshape(100, 1), None), "data")
    found = torch.cat([b.args[0] for b in drawn(data, 20, seed=0, size=8)]).flatten()
    assert len(found) == 20
    assert torch.equal(found, found.sort().values)
    assert (found < 50).sum() in range(5, 16)
    again = torch.cat([b.args[0] for b in drawn(data, 20, seed=0, size=8)]).flatten()
    assert torch.equal(found, again)
