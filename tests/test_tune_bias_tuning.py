"""Bias tuning: towards the float model's outputs, judged by samples it did not train on."""

from __future__ import annotations

from dataclasses import replace

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tune_kit import cancel, generator, of_module, subject

from qviz.errors import Cancelled, TuneError
from qviz.recipe import Recipe, TensorRange
from qviz.tune import bias_tuning
from qviz.tune.bias_fit import BiasFit, Samples
from qviz.tune.step import Step, Subject
from qviz.weights import TunedWeights

TOKENS = Recipe(ranges=networks.recipe("tokens").ranges, weight_bits=3, activation_bits=6)


class One(nn.Module):
    """y = x . (1, 0.4), without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1.0, 0.4]]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


#: Two bits round the weight to (1, 0).
TWO_BITS = Recipe(weight_bits=2, ranges=(TensorRange("x", -127.0, 127.0, "fixed"),))


def one() -> Subject:
    """Second inputs are 2 on average, so the best bias is 0.8."""
    second = torch.tensor([1.0, 3.0]).repeat(20)
    first = torch.randint(-9, 9, (40,), generator=generator()).float()
    return of_module(One(), torch.stack([first, second], 1), TWO_BITS)


def held_out(step: Step) -> tuple[float, float]:
    return float(step.record["held_out_before"]), float(step.record["held_out_after"])


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.02), ("adam", 0.02)])
def test_the_best_bias_is_found_by_hand(optimizer: str, rate: float) -> None:
    step = bias_tuning.apply(
        one(), optimizer=optimizer, rate=rate, epochs=40, patience=40, batch=10
    )
    assert step.weights is not None
    (value,) = step.weights.values.values()
    assert float(value) == pytest.approx(0.8, abs=0.15)
    before, after = held_out(step)
    assert after < 0.5 * before


def test_only_biases_change() -> None:
    given = subject("tokens", TOKENS)
    step = bias_tuning.apply(given, epochs=6)
    assert step.recipe == TOKENS
    assert step.weights is not None
    assert set(step.weights.values) == {"attn.qkv.bias", "attn.proj.bias", "head.bias"}
    assert step.weights.limits == {}


def test_the_record_proves_the_gain_on_samples_it_did_not_train_on() -> None:
    step = bias_tuning.apply(subject("tokens", TOKENS), epochs=6)
    before, after = held_out(step)
    assert after < before
    assert (step.record["samples"], step.record["held_out_samples"]) == (18, 6)
    losses = [float(v) for v in str(step.record["held_out_losses"]).split()]
    assert len(losses) == int(step.record["epochs"]) + 1
    assert min(losses) == losses[int(step.record["chosen_epoch"])] == pytest.approx(after, 1e-4)
    assert step.notes[0].startswith("KL from float on 6 held-out samples ")


def test_the_recorded_loss_is_that_of_the_tuned_model() -> None:
    """Measured again as an evaluation does, over all samples it used."""
    given = subject("tokens", TOKENS)
    step = bias_tuning.apply(given, epochs=6)
    sums = 0.0
    for own, key in ((given, "before"), (given.after(step), "after")):
        batch = next(given.calibration.batches(100))
        program = own.simulator.program
        made = program.run(program.inputs(batch), own.simulator.edits(TOKENS))[0]
        wanted = given.original.program.run(given.original.program.inputs(batch))[0]
        p, q = F.log_softmax(wanted.double(), 1), F.log_softmax(made.double(), 1)
        sums = float((p.exp() * (p - q)).sum(1).mean())
        trained = [float(v) for v in str(step.record["trained_losses"]).split()]
        epoch = 0 if key == "before" else int(step.record["chosen_epoch"])
        mixed = (18 * trained[epoch] + 6 * float(step.record[f"held_out_{key}"])) / 24
        assert sums == pytest.approx(mixed, rel=1e-3)


def test_gradients_are_those_of_the_module() -> None:
    """Nothing rounded, biases moved: the same KL by autograd through torch's own modules."""
    module = networks.network("tokens")[0]
    given = subject("tokens", replace(TOKENS, int8=False))
    shift = torch.tensor([0.5, -0.3, 0.1, 0.2])
    bias = module.head.bias.detach() + shift  # type: ignore[union-attr, operator]
    moved = given.after(Step(given.recipe, TunedWeights({"head.bias": bias}), ()))
    fit = BiasFit(moved, ("attn.qkv", "head"), relative=False)
    samples = Samples.of(moved, 24)
    fit.divergence(samples, torch.arange(24), grad=True).mean().backward()

    copy = networks.made(networks.Tokens())
    with torch.no_grad():
        copy.head.bias.copy_(bias)  # type: ignore[union-attr, operator]
    wanted = module(samples.batch.args[0]).log_softmax(1)
    own = copy(samples.batch.args[0]).log_softmax(1)
    (wanted.exp() * (wanted - own)).sum(1).mean().backward()
    for parameter, name in zip(fit.parameters, ("attn.qkv.bias", "head.bias"), strict=True):
        gradient = copy.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_seed_decides_the_result() -> None:
    found = [
        bias_tuning.apply(subject("tokens", TOKENS, seed=seed), epochs=2).record
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_it_stops_when_the_held_out_samples_gain_no_more() -> None:
    """A rate that overshoots: the samples get worse from the first pass on."""
    step = bias_tuning.apply(one(), optimizer="sgd", rate=100.0, patience=2)
    assert step.weights is None
    assert step.changes == ()
    assert step.record["epochs"] == 2
    assert step.notes == (
        "no pass lowered the loss on the 10 held-out samples: nothing is changed",
    )


def test_a_gain_that_the_held_out_samples_cannot_tell_from_noise_changes_nothing() -> None:
    step = bias_tuning.apply(subject("residual"), epochs=3)
    before, after = held_out(step)
    assert after < before
    assert float(step.record["held_out_change_high"]) > 0
    assert step.weights is None
    assert step.changes == ()
    assert step.notes[0].endswith(": noise, nothing is changed")


def test_a_fit_that_diverges_is_named() -> None:
    with pytest.raises(TuneError) as caught:
        bias_tuning.apply(one(), optimizer="sgd", rate=100.0, epochs=60, patience=60)
    assert str(caught.value) == (
        "bias tuning: the loss became NaN or infinite with sgd at a learning rate of 100; nothing "
        "is changed. Use a smaller rate."
    )


def test_too_few_samples_to_hold_some_out_are_refused() -> None:
    with pytest.raises(TuneError) as caught:
        bias_tuning.apply(replace(subject("tokens"), calibration=networks.data("tokens", 4)))
    assert str(caught.value) == (
        "bias tuning: 4 calibration samples are too few to train on some and judge by the others. "
        "Give more calibration samples."
    )


def test_a_model_without_a_bias_to_train_is_refused() -> None:
    with pytest.raises(TuneError) as caught:
        bias_tuning.apply(subject("twins"))
    assert str(caught.value) == (
        "bias tuning: no int8 op has a stored weight and a bias of its own. Leave ops=None, or "
        "make a conv or linear int8."
    )


def test_the_user_can_stop_it() -> None:
    with pytest.raises(Cancelled):
        bias_tuning.apply(subject("tokens", progress=cancel))
