"""The frontier and the pipelines: what is swept, what is measured, what is kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from allocation_kit import W2, W4, losses
from networks import data, network, program, recipe

from qviz.errors import MissingExtraError, TuneError
from qviz.evaluate import Evaluation
from qviz.histogram import Histogram
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.observe import observe
from qviz.recipe import resolve
from qviz.rewrite import get_attr
from qviz.search import pipelines
from qviz.search.allocation_problem import Problem
from qviz.search.checking import divided
from qviz.search.choosing import Within, offered_to
from qviz.search.frontier import cheapest, frontier, limits_of, measured
from qviz.search.layer_losses import LayerLosses, measure
from qviz.search.mixing import Networks
from qviz.search.pipelines import Options, PipelineName, read_options, run
from qviz.search.preparing import CANDIDATES, at_bits, base_recipe, offered, prepare
from qviz.search.widths import BASE, Allocation, Frontier, Limit, Width
from qviz.simulate import Simulator
from qviz.tune.methods import METHODS
from qviz.tune.step import Change, Step, Subject
from qviz.weights import TunedWeights, tuned_graph, weight_of, with_bias

LOSSES = losses(
    {
        "a": {W4: 0.1, W2: 0.9},
        "b": {W4: 0.5, W2: 3.0},
        "c": {W4: 0.2, W2: 0.3},
    },
    {"a": 8000, "b": 1000, "c": 4000},
    base=0.05,
)
PROBLEM = Problem.of(LOSSES)
GRAPH = network("residual")[1]
DATA = data("residual", 16)
BOTH = (BASE, Width(4, 4))


def evaluation(divergence: float, drop: float) -> Evaluation:
    value = 1.0 - drop
    return Evaluation(
        metric=METRICS["top1"],
        scores=Scores("top1", value, 10),
        reference=Scores("top1", 1.0, 10),
        change=value - 1.0,
        interval=Interval(value - 1.01, value - 0.99),
        divergence=divergence,
        divergence_name="kl",
        flips=(),
        p_value=None,
    )


def additive(allocation: Allocation) -> Evaluation:
    """A model that loses twice what is predicted."""
    return evaluation(2 * allocation.loss, allocation.loss / 10)


def subject(name: str = "residual") -> Subject:
    simulator = Simulator(network(name)[1])
    histograms: dict[str, Mapping[str, Histogram]] = {}

    def observed() -> Mapping[str, Histogram]:
        if not histograms:
            histograms[""] = observe(program(name), data(name, 16), workers=1)
        return histograms[""]

    return Subject(simulator, recipe(name), data(name, 16), simulator, observed)


def test_limits_go_from_the_smallest_that_can_be_met_to_the_base() -> None:
    values = [limit.value for limit in limits_of(PROBLEM, "size", 4)]
    assert values == pytest.approx([0.0625, 0.125, 0.1875, 0.25])


def test_the_frontier_falls_with_the_limit_and_greed_lies_on_or_above_it() -> None:
    found = frontier(PROBLEM)
    predicted = [point.allocation.loss for point in found.points]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] == pytest.approx(0.05 + 0.9 + 3.0 + 0.3)
    assert predicted[-1] == 0.05
    for point in found.greedy:
        size = point.allocation.costs.size
        best = min(p.allocation.loss for p in found.points if p.allocation.costs.size <= size)
        assert point.allocation.loss >= best - 1e-9


def test_an_allocation_is_on_the_frontier_once() -> None:
    found = frontier(PROBLEM, limits=[Limit("size", 0.25), Limit("size", 0.26)])
    assert len(found.points) == 1
    assert found.points[0].allocation.limit == Limit("size", 0.25)


def test_measuring_says_how_far_the_order_can_be_trusted() -> None:
    seen: list[Frontier] = []
    found = measured(frontier(PROBLEM), additive, on_point=seen.append)
    assert found.spearman == pytest.approx(1.0)
    assert found.spearman_drop == pytest.approx(1.0)
    assert len(seen) == len(found.points)
    assert [p.measured for p in seen[0].points].count(True) == 1
    point = found.points[0]
    assert point.divergence == 2 * point.allocation.loss
    assert point.drop is not None
    assert (point.low, point.high) == pytest.approx((point.drop - 0.01, point.drop + 0.01))
    assert (found.metric, found.samples, found.float_value) == ("top1", 10, 1.0)
    assert not any(p.measured for p in found.greedy)


def test_greedy_points_are_measured_where_asked() -> None:
    found = measured(frontier(PROBLEM), additive, with_greedy=True)
    assert all(p.measured for p in (*found.points, *found.greedy))


def test_the_cheapest_within_a_drop_is_taken() -> None:
    found = measured(frontier(PROBLEM), additive)
    chosen = cheapest(found, 0.06)
    assert chosen.drop is not None
    assert chosen.drop <= 0.06
    dearer = [p for p in found.points if p.allocation.costs.size < chosen.allocation.costs.size]
    assert all(p.drop is not None and p.drop > 0.06 for p in dearer)


def test_a_drop_that_nothing_keeps_to_is_refused() -> None:
    found = measured(frontier(PROBLEM), additive)
    with pytest.raises(TuneError) as caught:
        cheapest(found, 0.001)
    assert str(caught.value) == (
        "drop of 0.10%: no allocation measured keeps to it: the smallest drop is 0.50%. Allow "
        "more, or tune the layers first: the advanced pipeline does."
    )


def test_the_widths_offered_hold_the_base() -> None:
    assert offered((4,)) == (BASE, Width(4, 8))
    assert offered((4, 2), "same") == (BASE, W4, W2)
    assert offered((4,), "both") == (BASE, Width(4, 8), W4)


def test_ranges_below_8_bits_are_made_for_their_grid() -> None:
    one = subject()
    networks = prepare(one, (BASE, W4, Width(4, 8)), calibrator="mse")
    assert networks.at[BASE].recipe == networks.at[Width(4, 8)].recipe == base_recipe(one.recipe)
    assert networks.at[W4].recipe == at_bits(one, one.recipe, 4, "mse")
    narrow, wide = (networks.at[w].recipe.range_of["x"].hi for w in (W4, BASE))
    assert narrow < wide


def test_a_range_that_a_person_set_stays() -> None:
    one = subject()
    fixed = one.recipe.with_range("x", -1.0, 1.0)
    assert at_bits(one, fixed, 4, "mse").range_of["x"] == fixed.range_of["x"]


def test_the_calibrator_that_does_best_at_few_bits_is_found_on_calibration_data() -> None:
    one = subject()
    found = prepare(one, (BASE, W2)).at[W2].recipe
    assert found in [at_bits(one, one.recipe, 2, spec) for spec in CANDIDATES]


def test_samples_to_check_on_are_not_fitted_on() -> None:
    fit, check = divided(DATA, 5)
    assert (fit.count, check.count) == (12, 4)
    assert fit.sample_digests + check.sample_digests == DATA.sample_digests
    fit, check = divided(DATA, 3)
    assert (fit.count, check.count) == (13, 3)
    assert divided(DATA.head(1))[0].count == 1


def stub(monkeypatch: pytest.MonkeyPatch, **applied: object) -> None:
    """Methods of these names do what the functions do."""
    monkeypatch.setattr(
        pipelines,
        "method",
        lambda name: SimpleNamespace(
            title=name,
            module=SimpleNamespace(
                apply=applied[name],
                sites=lambda _: ("conv1",),
                OPTIONS=METHODS[name].module.OPTIONS,
            ),
        ),
    )


def worse(one: Subject) -> Step:
    return Step(one.recipe, with_bias(one.graph, "fc", torch.full((5,), 100.0)), (), ("tried",))


def unchanged(one: Subject) -> Step:
    return Step(one.recipe, TunedWeights(), ())


def impossible(one: Subject) -> Step:
    raise TuneError("statistics", "there are none", "Give some")


def test_a_step_that_leads_away_from_float_is_dropped_with_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub(monkeypatch, statistics=worse)
    found = run(subject(), "light", Within(Limit("size", 0.2)), widths=BOTH, measure=losses_of)
    allocation, statistics = found.stages
    assert (allocation.kept, statistics.kept) == (True, False)
    assert found.last is allocation
    assert statistics.notes == (
        "tried",
        f"not kept: divergence {allocation.divergence:.4g} -> {statistics.divergence:.4g}",
    )
    assert (found.held_out, found.losses.samples) == (4, 16)


def test_a_step_that_cannot_be_applied_says_why_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub(monkeypatch, statistics=impossible, bias_tuning=unchanged, adaquant=rounding)
    found = run(subject(), "advanced", Within(Limit("size", 0.2)), widths=BOTH, measure=losses_of)
    names = ["adaquant", "adaquant", "allocation", "statistics", "bias_tuning"]
    assert [stage.name for stage in found.stages] == names
    assert found.stages[3].notes == ("statistics: there are none. Give some.",)
    assert [stage.kept for stage in found.stages[2:]] == [True, False, False]
    assert found.stages[4].notes == ()  # nothing was changed, so nothing was lost either


def losses_of(networks: Networks) -> LayerLosses:
    return measure(networks, DATA)


#: Bits that AdaQuant was asked for, and samples it was given, in turn.
ASKED: list[tuple[int, int]] = []


def rounding(one: Subject, mode: str) -> Step:
    """A reconstruction that moves every weight by its bits in thousandths."""
    assert mode == "parallel"
    bits = resolve(one.recipe, one.graph)["conv2/weight"].bits
    ASKED.append((bits, one.calibration.count))
    weights = TunedWeights()
    for name in ("conv1", "conv2", "conv3", "fc"):
        operand = weight_of(one.graph, name)
        assert operand is not None
        value = get_attr(one.graph.module, operand.tensor) + bits / 1000
        weights = weights.then(TunedWeights({operand.tensor: value}))
    return Step(one.recipe, weights, (), (f"{bits} bits",))


def test_the_advanced_pipeline_takes_each_layers_weights_from_its_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub(monkeypatch, adaquant=rounding, statistics=impossible, bias_tuning=impossible)
    ASKED.clear()
    found = run(subject(), "advanced", Within(Limit("size", 0.2)), widths=BOTH, measure=losses_of)
    assert ASKED == [(8, 12), (4, 12)]
    assert [(stage.title, stage.notes) for stage in found.stages[:2]] == [
        ("adaquant, all at W8A8", ("8 bits",)),
        ("adaquant, all but first and last at W4A4", ("4 bits",)),
    ]
    tuned = tuned_graph(GRAPH, found.last.weights)
    for name, width in found.allocation.widths:
        operand = weight_of(GRAPH, name)
        assert operand is not None
        moved = get_attr(tuned.module, operand.tensor) - get_attr(GRAPH.module, operand.tensor)
        assert torch.allclose(moved, torch.tensor(width.weights / 1000), atol=1e-6)


def test_the_plain_pipeline_is_the_allocation_with_a_row_per_narrowed_layer() -> None:
    found = run(subject(), "plain", Within(Limit("size", 0.2)), widths=BOTH, measure=losses_of)
    narrowed = [layer for layer, width in found.allocation.widths if width == W4]
    assert [stage.name for stage in found.stages] == ["allocation"]
    assert found.last.changes == tuple(Change(n, "bits", 8, 4, "bits", "W4A4") for n in narrowed)
    assert {"conv1", "fc"}.isdisjoint(narrowed)
    assert found.last.weights.key == ""
    assert replace(found.last.recipe, ranges=(), overrides=()) == replace(
        recipe("residual"), ranges=()
    )


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_what_is_checked_first_has_the_choices_that_are_measured_later(name: str) -> None:
    widths = (BASE, W4, Width(4, 8))
    first = offered_to(subject(name), widths)
    later = measure(prepare(subject(name), widths, calibrator="max"), data(name, 2))
    assert first.layers == later.layers
    assert first.rest == later.rest
    assert Problem.of(first).choices == Problem.of(later).choices


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (
            Within(Limit("size", 0.1)),
            "size limit 0.1: cannot be met: the smallest is 0.1998 of the float32 weights, with "
            "first and last ops at 8 bits. Raise it, or offer fewer bits.",
        ),
        (
            Within(Limit("size", 0.2), keep=["relu"]),
            "relu: gets no width of its own. Name ops with multiply-accumulates.",
        ),
        (
            Within(Limit("loss", 0.1), cost="latency"),
            "latency limit: no times per layer and width are known. Give them, as qviz bench "
            "measures them, or limit the size.",
        ),
        (
            Within(Limit("loss", -1.0)),
            "limit on the loss -1: is below 0. Allow at least what 8 bits lose.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_fitted(
    monkeypatch: pytest.MonkeyPatch, choose: Within, said: str
) -> None:
    stub(monkeypatch, adaquant=rounding)
    ASKED.clear()
    with pytest.raises(TuneError) as caught:
        run(subject(), "advanced", choose, widths=BOTH, measure=losses_of)
    assert str(caught.value) == said
    assert ASKED == []


def test_without_a_solver_nothing_is_fitted_either(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, adaquant=rounding)
    ASKED.clear()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError) as caught:
        run(subject(), "advanced", Within(Limit("size", 0.2)), widths=BOTH, measure=losses_of)
    assert str(caught.value) == (
        "bit allocation: scipy is not installed. Install it: pip install 'qviz[search]'."
    )
    assert ASKED == []


def test_options_given_as_texts_reach_the_method_as_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def fitted(one: Subject, mode: str, iterations: int) -> Step:
        asked.append((mode, iterations))
        return rounding(one, mode)

    stub(monkeypatch, adaquant=fitted, statistics=impossible, bias_tuning=impossible)
    run(
        subject(),
        "advanced",
        Within(Limit("size", 0.2)),
        widths=BOTH,
        measure=losses_of,
        options={"adaquant": {"iterations": "3000"}},
    )
    assert asked == [("parallel", 3000), ("parallel", 3000)]


def test_only_options_that_are_given_are_passed_on() -> None:
    given: Options = {"adaquant": {"iterations": "3000"}, "bias_tuning": {"epochs": 2}}
    assert read_options("advanced", given) == {
        "adaquant": {"iterations": 3000},
        "bias_tuning": {"epochs": 2},
    }


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "plain",
            {"statistics": {"where": "all"}},
            "option statistics.where: the plain pipeline does not run that method. Take the light "
            "or advanced pipeline.",
        ),
        (
            "light",
            {"adaquant": {"mode": "parallel"}},
            "option adaquant.mode: the light pipeline does not run that method. Take the advanced "
            "pipeline.",
        ),
        (
            "advanced",
            {"codebook": {"bits": 4}},
            "option codebook.bits: the advanced pipeline does not run that method. Leave it out.",
        ),
    ],
)
def test_an_option_of_a_method_that_does_not_run_is_refused(
    name: PipelineName, given: Options, said: str
) -> None:
    with pytest.raises(TuneError) as caught:
        read_options(name, given)
    assert str(caught.value) == said
