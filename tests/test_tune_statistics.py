"""Statistics tuning: by hand, against torch's own batch norm, and what may not change."""

from __future__ import annotations

from dataclasses import replace

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tune_kit import cancel, deviations, error, means, of_module, subject, values, weighed

from qviz.affine import quantize
from qviz.errors import Cancelled, TuneError
from qviz.recipe import Recipe, TensorRange
from qviz.tune import statistics
from qviz.tune.step import Step, Subject
from qviz.weights import NOTHING, TunedWeights, bias_of, weight_of, with_bias

RESIDUAL = Recipe(ranges=networks.recipe("residual").ranges, weight_bits=3, activation_bits=5)
TOKENS = Recipe(ranges=networks.recipe("tokens").ranges, weight_bits=3, activation_bits=5)


class Normed(nn.Module):
    """Batch norm behind a linear; both together are x . (1, 0.4)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=False)
        self.norm = nn.BatchNorm1d(1)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1.0, 0.4]]))
            self.norm.running_var.fill_(1.0 - self.norm.eps)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.fc(x))
        return out


#: Outputs -1.8 and 4.6: mean 1.4, deviation 3.2. Two bits leave the first input: -1 and 3.
X = torch.tensor([[-1.0, -2.0], [3.0, 4.0]])
TWO_BITS = Recipe(weight_bits=2, ranges=(TensorRange("x", -127.0, 127.0, "fixed"),))


def axis(op: str) -> int:
    return 1 if op.startswith("conv") else -1


def test_mean_and_deviation_come_back_by_hand() -> None:
    given = of_module(Normed(), X, TWO_BITS)
    step = statistics.apply(given)
    assert step.weights is not None
    found = step.weights.values
    assert found["fc.weight"].flatten().tolist() == pytest.approx([1.6, 0.64], rel=1e-5)
    assert found["fc.bias"].tolist() == pytest.approx([-0.2], abs=1e-5)
    assert step.weights.limits["fc/weight"][2].tolist() == pytest.approx([1.6], rel=1e-5)
    out = values(given, step.weights, recipe=True)["fc"].flatten()
    assert out.tolist() == pytest.approx([-1.8, 4.6], abs=1e-4)


def test_gamma_and_beta_are_the_goal_where_that_is_asked_for() -> None:
    """Gamma 1 and beta 0: outputs -1 and 3 become -1 and 1."""
    given = of_module(Normed(), X, TWO_BITS)
    step = statistics.apply(given, target="folded")
    out = values(given, step.weights, recipe=True)["fc"].flatten()
    assert out.tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert step.notes == ()


def test_half_of_the_way_is_half_of_the_mean_and_a_mixture_of_the_variances() -> None:
    given = of_module(Normed(), X, TWO_BITS)
    step = statistics.apply(given, strength=0.5)
    out = values(given, step.weights, recipe=True)["fc"]
    running = 0.5 * 3.2**2 + 0.5 * 2.0**2
    assert float(out.mean()) == pytest.approx(0.5 * 1.4 + 0.5 * 1.0, abs=1e-5)
    assert float(out.std(correction=0)) == pytest.approx(2.0 * 3.2 / running**0.5, rel=1e-4)


def absorbed(given: Subject, weights: TunedWeights, op: str, raw: Tensor, goal: Tensor) -> Step:
    """CalibTIP's absorb_bn of a batch norm in train mode, in its own order of steps."""
    mean, std = means(goal, axis(op)), deviations(goal, axis(op))
    running_mean, running_var = mean.clone(), std.square()
    gamma, beta = (std.square() + 1e-5).sqrt(), mean
    F.batch_norm(raw.double(), running_mean, running_var, gamma, beta, training=True, momentum=1.0)
    count = raw.numel() / raw.shape[1]
    running_var *= (count - 1) / count  # torch's running variance is divided by n - 1
    operand, own = weight_of(given.graph, op), given.simulator.program
    assert operand is not None
    name = str(bias_of(given.graph, op))
    w, b = (weights.values.get(n, own.parameter(n)).double() for n in (operand.tensor, name))
    b = b - running_mean
    invstd = (running_var + 1e-5) ** -0.5
    shape = (-1, *[1] * (w.dim() - 1))
    w, b = w * invstd.reshape(shape), b * invstd
    w, b = w * gamma.reshape(shape), b * gamma
    value = TunedWeights({operand.tensor: w.float()}).then(
        with_bias(given.graph, op, (b + beta).float())
    )
    return Step(given.recipe, weights.then(value), ())


def test_it_equals_torchs_batch_norm_in_train_mode_absorbed_as_calibtip_does() -> None:
    given = subject("residual", RESIDUAL)
    wanted, naive = values(given, None, recipe=False), NOTHING
    for op in ("conv1", "conv2"):
        raw = values(given, naive, recipe=True)[op]
        found = absorbed(given, naive, op, raw, wanted[op]).weights
        assert found is not None
        naive = found
    step = statistics.apply(given)
    assert step.weights is not None
    assert step.weights.values.keys() == naive.values.keys()
    for name, value in naive.values.items():
        torch.testing.assert_close(step.weights.values[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "recipe"), [("residual", RESIDUAL), ("tokens", TOKENS)])
def test_every_op_has_mean_and_deviation_of_the_float_model(name: str, recipe: Recipe) -> None:
    given = subject(name, recipe)
    step = statistics.apply(given, where="all")
    wanted, made = values(given, None, recipe=False), values(given, step.weights, recipe=True)
    assert len(step.changes) == (4 if name == "residual" else 3)
    for op in (c.target for c in step.changes):
        for number in (means, deviations):
            rows = [weighed(given, op, value[op], axis(op)) for value in (made, wanted)]
            found, goal = (number(value, 0, weights) for value, weights in rows)
            torch.testing.assert_close(found, goal, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "recipe"), [("residual", RESIDUAL), ("tokens", TOKENS)])
def test_the_outputs_come_nearer(name: str, recipe: Recipe) -> None:
    given = subject(name, recipe)
    after = error(given, statistics.apply(given, where="all"))
    assert after < error(given, Step(given.recipe, None, ()))


def test_the_codes_of_the_weights_stay() -> None:
    given = subject("residual", RESIDUAL)
    after = given.after(statistics.apply(given))
    for operand in given.graph.operands.values():
        if operand.kind == "weight":
            codes = [
                quantize(
                    s.simulator.program.parameter(operand.tensor),
                    s.simulator.weight(operand, 3, True)[0],
                )
                for s in (given, after)
            ]
            assert torch.equal(*codes)


def test_limits_of_other_widths_grow_with_the_weight() -> None:
    given = subject("residual", RESIDUAL)
    limits = {"conv1/weight": {4: torch.full((4,), 0.5), 8: torch.tensor(2.0)}}
    given = given.after(Step(RESIDUAL, TunedWeights(limits=limits), ()))
    step = statistics.apply(given)
    assert step.weights is not None
    own = given.simulator.program.parameter("conv1.weight")
    factor = (step.weights.values["conv1.weight"] / own).flatten(1)[:, 0]
    found = step.weights.limits["conv1/weight"]
    torch.testing.assert_close(found[4], 0.5 * factor)
    torch.testing.assert_close(found[8], 2.0 * factor.max())


def test_nothing_changes_at_strength_zero() -> None:
    given = subject("residual", RESIDUAL)
    step = statistics.apply(given, strength=0.0)
    assert step.weights is not None
    assert set(step.weights.values) == {"conv1.bias", "conv2.bias"}
    for name, value in step.weights.values.items():
        torch.testing.assert_close(value, given.simulator.program.parameter(name))


def test_one_scale_per_tensor_leaves_the_means_to_correct() -> None:
    given = subject("residual", replace(RESIDUAL, per_channel=False))
    step = statistics.apply(given)
    assert step.weights is not None
    assert set(step.weights.values) == {"conv1.bias", "conv2.bias"}
    assert step.notes == (
        "2 ops keep their weights, which are shared or have one scale per tensor: only their "
        "means are corrected",
    )


def test_channels_that_became_constant_are_only_shifted() -> None:
    """A range so wide that every input rounds to zero."""
    wide = replace(TWO_BITS, ranges=(TensorRange("x", -1e6, 1e6, "fixed"),))
    given = of_module(Normed(), X, wide)
    step = statistics.apply(given)
    out = values(given, step.weights, recipe=True)["fc"].flatten()
    assert out.tolist() == pytest.approx([1.4, 1.4])
    assert step.notes == ("channels constant once quantized, only their mean is corrected: 1",)


def test_unknown_batch_norms_are_measured_and_named() -> None:
    step = statistics.apply(subject("tokens", TOKENS), where="all", target="folded")
    assert step.notes == (
        "gamma and beta of 3 of 3 ops are not known: their statistics are measured on the float "
        "model",
    )


def test_a_model_without_batch_norm_is_refused_with_what_to_do() -> None:
    with pytest.raises(TuneError) as caught:
        statistics.apply(subject("tokens", TOKENS))
    assert str(caught.value) == (
        "statistics tuning: no int8 op had a batch norm folded into it. Use where=all to bring "
        "every op back to the statistics measured on the float model."
    )


def test_one_sample_has_no_statistics() -> None:
    with pytest.raises(TuneError) as caught:
        statistics.apply(replace(subject("residual"), calibration=networks.data("residual", 1)))
    assert str(caught.value) == (
        "statistics tuning: data is one sample, which has no statistics. Give more calibration "
        "samples."
    )


def test_the_user_can_stop_it() -> None:
    with pytest.raises(Cancelled):
        statistics.apply(subject("residual", progress=cancel))
