"""IFMR, HFMG and GELU clipping as methods, and all methods of statistics from a session."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tune_kit import cancel, generator, histograms, of_module, subject

import qviz
from qviz.affine import Grid, quantize, range_params
from qviz.calibrators import ClipRange, clip_range, describe, parse
from qviz.errors import Cancelled, TuneError
from qviz.histogram import collect
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tune import gelu_clip, hfmg, ifmr
from qviz.tune.step import Subject

RESIDUAL = networks.recipe("residual")


# ---- IFMR and HFMG ----


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("method", "spec"), [(ifmr, "ifmr"), (hfmg, "hfmg")])
def test_every_range_is_the_calibrators_at_the_tensors_bits(
    method: object, spec: str, bits: int
) -> None:
    given = subject("residual", replace(RESIDUAL, activation_bits=bits))
    step = method.apply(given)  # type: ignore[attr-defined]
    assert step.weights is None
    names = method.sites(given)  # type: ignore[attr-defined]
    assert len(names) > 3
    for name in names:
        found = step.recipe.range_of[name]
        grid = Grid(bits).for_values(nonnegative=given.graph.tensors[name].nonnegative)
        clip = clip_range(histograms("residual")[name], spec, grid)
        assert (found.lo, found.hi) == (clip.lo, clip.hi)
        assert parse(found.calibrator)[0] == spec


def test_options_reach_the_calibrator() -> None:
    given = subject("residual", ops=("conv1",))
    step = hfmg.apply(given, bins=512)
    assert step.recipe.range_of["x"].calibrator == "hfmg:512"
    step = ifmr.apply(given, max_percent=99.99999, step=0.1)
    assert step.recipe.range_of["x"].calibrator == "ifmr:99.99999:99.9999:0.7:1.3:0.1"


def test_a_change_says_what_the_error_was_and_is() -> None:
    given = subject("residual", replace(RESIDUAL, activation_bits=4))
    for change in ifmr.apply(given).changes:
        h = histograms("residual")[change.target]
        grid = Grid(4).for_values(nonnegative=given.graph.tensors[change.target].nonnegative)
        old = RESIDUAL.range_of[change.target]
        assert change.before == describe(h, ClipRange(old.lo, old.hi), grid).mse
        assert change.after is not None
        assert change.before is not None
        assert change.after <= change.before


@pytest.mark.parametrize("ops", [("conv3",), ("relu:relu.1",)], ids=["reader", "tensor"])
def test_a_tensor_is_named_by_itself_or_by_an_op_that_reads_it(ops: tuple[str, ...]) -> None:
    given = subject("residual", ops=ops)
    assert ifmr.sites(given) == ("relu:relu.1",)
    changed = set(ifmr.apply(given).recipe.ranges) - set(RESIDUAL.ranges)
    assert {r.tensor for r in changed} == {"relu:relu.1"}


def test_sites_come_with_the_worst_first() -> None:
    given = subject("residual", replace(RESIDUAL, activation_bits=4))
    quality = {}
    for name in hfmg.sites(given):
        grid = Grid(4).for_values(nonnegative=given.graph.tensors[name].nonnegative)
        known = RESIDUAL.range_of[name]
        found = describe(histograms("residual")[name], ClipRange(known.lo, known.hi), grid)
        quality[name] = found.sqnr_db
    assert list(quality) == sorted(quality, key=lambda name: quality[name])
    assert len(quality) > 3


def test_a_recipe_without_int8_activations_is_refused() -> None:
    with pytest.raises(TuneError) as caught:
        ifmr.apply(subject("residual", replace(RESIDUAL, int8=False)))
    assert str(caught.value) == "IFMR: no activation is read as int8. Make an op int8."


def test_the_user_can_stop_it() -> None:
    with pytest.raises(Cancelled):
        hfmg.apply(subject("residual", progress=cancel))


# ---- GELU clipping ----


class Lobes(nn.Module):
    """Everything with a small negative lobe, each read by a linear; and a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(7))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x + 1)
        silu = F.silu(x)
        found = [F.gelu(x), silu, F.hardswish(x), x * torch.sigmoid(x), silu * gate, F.relu(x), x]
        heads = zip(self.heads, found, strict=True)
        return torch.stack([head(value) for head, value in heads]).sum(0)


EVERY = {"gelu", "silu", "hardswish", "mul", "mul.1"}


@functools.cache
def lobes(top: float) -> Subject:
    model = Lobes()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5, generator=generator())
    x = torch.randn(200, 4, generator=generator())
    return of_module(model, torch.cat([x, torch.full((1, 4), top)]))


def test_functions_with_a_lobe_are_recognized_written_out_and_gated_too() -> None:
    assert set(gelu_clip.lobed(lobes(60.0).graph)) == EVERY


def test_a_tensor_is_proposed_where_half_a_step_swallows_its_lobe() -> None:
    """Half a step of 100 / 127 is 0.39: all lobes; of 60 / 127 it is 0.24, of 30 / 127 0.12."""

    def clipped(top: float) -> set[str]:
        step = gelu_clip.apply(lobes(top), better=False)
        return {change.target for change in step.changes}

    assert clipped(100.0) == EVERY
    assert "hardswish" not in clipped(60.0)
    assert "gelu" in clipped(60.0)
    with pytest.raises(TuneError, match="loses its negative values under this recipe"):
        clipped(30.0)


def test_the_lobe_is_lost_up_to_half_a_step_exactly() -> None:
    h = collect(torch.tensor([-0.5, 1.0, 100.0]))
    assert gelu_clip.lost(h, ClipRange(-127.0, 127.0), Grid(8))
    assert not gelu_clip.lost(h, ClipRange(-126.0, 126.0), Grid(8))
    assert not gelu_clip.lost(collect(torch.tensor([0.0, 1.0])), ClipRange(-127.0, 127.0), Grid(8))


def test_ten_is_the_limit_and_the_lobe_has_codes_again() -> None:
    given = lobes(60.0)
    step = gelu_clip.apply(given, better=False)
    found = step.recipe.range_of["gelu"]
    assert (found.lo, found.hi, found.calibrator) == (-10.0, 10.0, "fixed")
    lowest = torch.tensor([-0.17])
    old = given.recipe.range_of["gelu"]
    codes = [int(quantize(lowest, range_params(r.lo, r.hi, Grid(8)))) for r in (old, found)]
    assert codes == [0, -2]
    untouched = set(given.recipe.range_of) - {c.target for c in step.changes}
    assert all(step.recipe.range_of[t] == given.recipe.range_of[t] for t in untouched)


NOW = ClipRange(-60.0, 60.0)


def test_the_histogram_chooses_where_that_is_clearly_better() -> None:
    """All values are below 2: the range of least error has five times finer steps than 10."""
    h = collect(F.gelu(torch.linspace(-4, 2, 5000)))
    found = gelu_clip.limited(h, NOW, Grid(8), 10.0, better=True)
    assert found == clip_range(h, "mse", Grid(8))
    assert gelu_clip.limited(h, NOW, Grid(8), 10.0, better=False) == ClipRange(-10.0, 10.0)


def test_ten_stays_where_the_histogram_gains_little() -> None:
    h = collect(torch.cat([torch.linspace(-0.17, 10.0, 5000), torch.tensor([10.4])]))
    assert gelu_clip.limited(h, NOW, Grid(8), 10.0, better=True) == ClipRange(-10.0, 10.0)


def test_a_limit_above_the_range_leaves_the_choice_to_the_histogram() -> None:
    h = collect(F.gelu(torch.linspace(-4, 2, 5000)))
    best = clip_range(h, "mse", Grid(8))
    assert gelu_clip.limited(h, NOW, Grid(8), 1000.0, better=True) == best
    assert gelu_clip.limited(h, NOW, Grid(8), 1000.0, better=False) is None


def test_nothing_is_clipped_where_that_costs_more_than_the_lobe() -> None:
    """One value of 60 in 200 weighs so much that 10 has more error than before."""
    given = lobes(60.0)
    assert gelu_clip.sites(given) == ()
    with pytest.raises(TuneError) as caught:
        gelu_clip.apply(given)
    assert str(caught.value) == (
        "GELU clipping: tensors that lose all negative values under any good range: 2. Leave it "
        "out; it helps where few values are far out and half a step hides the lobe."
    )


def test_nothing_to_clip_is_said() -> None:
    with pytest.raises(TuneError) as caught:
        gelu_clip.apply(subject("residual"))
    assert str(caught.value) == (
        "GELU clipping: no output of GELU, SiLU or Hardswish loses its negative values under this "
        "recipe. Leave it out; it helps where few values are far out and half a step hides the "
        "lobe."
    )


# ---- from a session ----


class Net(nn.Module):
    """Conv, batch norm, GELU that reaches far, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.gelu(self.norm(self.conv(x))).flatten(1))
        return out


@functools.cache
def session() -> Session:
    model = networks.made(Net())

    def samples(count: int, seed: int) -> tuple[Tensor, None]:
        return torch.randn(count, 1, 4, 4, generator=generator(seed)), None

    return qviz.open(model, samples(40, 1), samples(60, 2), "agreement")


@pytest.mark.parametrize(
    "method",
    [
        "gelu_clip",
        "ifmr",
        "hfmg",
        "weight_range",
        "bias_correction",
        "statistics",
        "bias_tuning",
    ],
)
def test_a_session_tunes_with_it_and_measures(method: str) -> None:
    recipe = session().recipe("max", weight_bits=3, activation_bits=6)
    if method == "gelu_clip":
        recipe = recipe.with_range("gelu", -60.0, 60.0)
    options: dict[str, Any] = {"epochs": 5, "rate": 0.02} if method == "bias_tuning" else {}
    made = session().tune(method, recipe, **options)
    assert made.changes or made.notes
    assert made.after is not None
    assert made.interval is not None
    assert made.calibration == 40
    assert session().evaluate(made.recipe) is made.after
    assert isinstance(recipe, Recipe)
