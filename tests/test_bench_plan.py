"""What leaving an op in float costs, and which recipes no other one beats."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from int8_models import make

from qviz.bench import Bench, OpTime
from qviz.bench_plan import Border, LatencyMark, Prices, Trade, marks, pareto, trades
from qviz.estimate import Anchor, Effects
from qviz.figures_latency import latency_figure
from qviz.int8.gpus import Gpu
from qviz.int8.roofline import estimate
from qviz.int8.timing_subject import Subject
from qviz.intervals import Interval
from qviz.search.skip import SkipPoint
from qviz.ui import plan_latency

points = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.0, math.nan]), st.sampled_from([0.0, 1.0, 2.0])),
    max_size=8,
)


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@given(points)
def test_the_front_is_what_nothing_beats(found: list[tuple[float, float]]) -> None:
    for point, front in zip(found, pareto(found), strict=True):
        known = not math.isnan(point[0])
        assert front == (known and not any(beats(other, point) for other in found))


@given(points)
def test_whatever_is_not_on_the_front_is_beaten_from_there(
    found: list[tuple[float, float]],
) -> None:
    front = [p for p, on in zip(found, pareto(found), strict=True) if on]
    for point, on in zip(found, pareto(found), strict=True):
        if not on and not math.isnan(point[0]):
            assert any(beats(best, point) for best in front)


@given(points, st.randoms())
def test_the_front_does_not_depend_on_the_order(
    found: list[tuple[float, float]], rnd: object
) -> None:
    order = list(range(len(found)))
    rnd.shuffle(order)  # type: ignore[attr-defined]
    mixed = pareto([found[i] for i in order])
    assert [mixed[order.index(i)] for i in range(len(found))] == list(pareto(found))


# conv1 + relu -> (codes of relu) -> conv2 + add + relu.1 -> fc; x and the codes of relu are read
ROWS = (
    OpTime(1, "x", "quantize", "quantize", (), 1, 0.0, 5.0, 0.0),
    OpTime(1, "conv1", "conv2d", "int8 conv", (("conv1", 20.0), ("relu", 4.0)), 1, 24.0, 10.0, 5.0,
           requantize_us=3.0),
    OpTime(1, "conv2", "conv2d", "int8 conv", (("conv2", 30.0), ("add", 6.0), ("relu.1", 4.0)), 1,
           40.0, 12.0, 0.0, requantize_us=2.0),
    OpTime(1, "fc", "linear", "int8 linear", (("fc", 5.0),), 1, 5.0, 7.0, 0.0),
)  # fmt: skip
BORDERS = {
    "x": Border(5.0, True, None, frozenset({"conv1"})),
    "relu": Border(3.0, False, "conv1", frozenset({"conv2", "add"})),
    "relu.1": Border(2.0, False, "conv2", frozenset({"fc"})),
}
KERNEL_OF = {n: r.op for r in ROWS for n, _ in r.parts}
PRICES = Prices(
    label="measured on a CPU, 1 thread",
    estimated=False,
    float_type="fp32",
    batch=1,
    int8_us=34.0,
    float_us=69.0,
    kernels={r.op: r for r in ROWS if r.is_int8},
    borders=BORDERS,
    slower=(ROWS[3],),
    _kernel_of=KERNEL_OF,
    _borders_of={
        "conv1": ("x", "relu"),
        "relu": ("relu",),
        "conv2": ("relu", "relu.1"),
        "add": ("relu", "relu.1"),
        "relu.1": ("relu.1",),
        "fc": ("relu.1",),
    },
)


@pytest.mark.parametrize(
    ("left", "change"),
    [
        ((), 0.0),
        # 24 for 10; x need not be quantized, its own output must be
        (("conv1",), 14 - 5 + 3),
        # 40 for 12, the add and the ReLU leave with it; its output must be quantized, and so must
        # its input: the add still reads codes of it
        (("conv2",), 28 + 2 + 3),
        # the product stays, add and ReLU leave its kernel: 10 more; both tensors have two kinds
        # of readers or a float producer
        (("add",), 10 + 2 + 3),
        # 5 for 7, and nobody else reads its codes
        (("fc",), -2.0),
        # whoever reads the codes of relu is float: none are made
        (("conv2", "add"), 28 + 2),
        (("conv1", "conv2", "add", "fc"), 14 - 5 + 28 - 2),
        # an op without a kernel of its own
        (("pool",), 0.0),
    ],
)
def test_leaving_ops_in_float_costs_their_kernels_and_borders(
    left: tuple[str, ...], change: float
) -> None:
    assert PRICES.latency(left) == pytest.approx(34.0 + change)
    if len(left) == 1:
        assert PRICES.extra(left[0]) == pytest.approx(change)


def test_with_everything_in_float_the_sum_is_the_float_model() -> None:
    assert PRICES.latency(("conv1", "conv2", "add", "fc")) == pytest.approx(PRICES.float_us)


def bench(case: str) -> tuple[Bench, Prices]:
    made = make(case)
    device = Gpu("toy", 1.0, 0.5, 1.0, "")
    found = estimate(Subject.of_lowered(made.lowered), device, (2,))
    return found, Prices.of(found, made.simulator.graph, made.recipe)


@pytest.mark.parametrize("case", ["residual CNN", "transformer block", "products", "1d", "3d"])
def test_prices_of_a_program_name_its_kernels_and_the_tensors_they_read(case: str) -> None:
    made, (found, prices) = make(case), bench(case)
    assert prices.latency(()) == pytest.approx(sum(row.int8_us for row in found.rows))
    assert {row.op for row in found.rows if row.kernel == "quantize"} >= {
        name for name, border in prices.borders.items() if border.paid
    }
    graph = made.simulator.graph
    assert set(prices.borders) <= set(graph.tensors)
    assert all(border.cost_us > 0 for border in prices.borders.values())


def test_leaving_everything_in_float_comes_to_the_float_model() -> None:
    """But for the moves of codes, which become moves of floats: they are not priced."""
    made, (found, prices) = make("residual CNN"), bench("residual CNN")
    ops = [op.name for op in made.simulator.graph.quantizable]
    moves = sum(r.float_us - r.int8_us for r in found.rows if not r.is_int8 and r.calls)
    moves += sum(r.int8_us for r in found.rows if r.kernel == "quantize")
    pools = sum(r.float_us - r.int8_us for r in found.rows if r.kernel == "int8 max_pool")
    assert prices.latency(ops) == pytest.approx(prices.float_us - moves - pools)


ANCHOR = Anchor(0.02, Interval(0.01, 0.03), 0.10)


def test_the_gain_of_an_op_is_measured_where_it_was_and_estimated_elsewhere() -> None:
    graph = make("residual CNN").simulator.graph
    found = trades(
        replace(PRICES, slower=()),
        graph,
        ("stem", "head", "point"),
        Effects({"stem": 0.05, "head": 0.01}),
        ANCHOR,
        {frozenset(): 0.02, frozenset({"head"}): 0.005},
    )
    assert [(t.op, t.measured) for t in found] == [
        ("head", True), ("stem", False), ("point", False),
    ]  # fmt: skip
    assert [t.gain for t in found] == [pytest.approx(0.015), pytest.approx(0.01), None]


def test_a_trade_says_how_both_of_its_numbers_are_known() -> None:
    assert Trade("conv1", "conv2d", 12.0, 0.004, False, False).said(PRICES) == (
        "leaving conv1 float: +0.400 % accuracy (estimated), +12.0 us (measured on a CPU, 1 thread)"
    )
    estimated = replace(PRICES, label="roofline estimate for L4", estimated=True)
    assert Trade("fc", "linear", -2.0, None, False, True).said(estimated) == (
        "leaving fc float: accuracy not known, -2.00 us (roofline estimate for L4)"
    )


def test_the_page_names_what_is_slower() -> None:
    assert plan_latency.slower(PRICES.slower, PRICES) == (
        "int8 is slower here than fp32 (measured on a CPU, 1 thread): fc (7.00 against 5.00 µs). "
        "Left in float they would save time."
    )


def point(drop: float) -> SkipPoint:
    return SkipPoint((), drop, drop - 0.01, drop + 0.01, None, 0.0, 0.9, "add")


FOUND = marks(
    PRICES,
    [((), point(0.03)), (("fc",), point(0.02)), (("conv1",), point(0.025))],
    current=1,
    labels=["search", "draft", "mine"],
)


def test_measured_recipes_stand_at_their_latency_with_the_front_marked() -> None:
    assert [(m.ops, m.us) for m in FOUND] == [(0, 34.0), (1, 32.0), (1, 46.0)]
    assert [m.front for m in FOUND] == [False, True, False]
    assert [m.current for m in FOUND] == [False, True, False]


def traces(found: tuple[LatencyMark, ...], **more: object) -> dict[str, object]:
    figure = latency_figure(found, PRICES, target=0.01, metric="top1", **more)  # type: ignore[arg-type]
    assert figure.layout.xaxis.title.text == (
        "latency at batch 1 (ms, measured)<br><sup>measured on a CPU, 1 thread</sup>"
    )
    return {trace.name: trace for trace in figure.data}


def test_the_figure_has_the_recipes_the_draft_and_the_float_model() -> None:
    drawn = traces(FOUND)
    measured, draft, real = (drawn[n] for n in ("measured", "this draft", "the float model (fp32)"))
    assert list(measured.x) == [0.034, 0.046]  # type: ignore[attr-defined]
    assert list(measured.customdata) == [0, 2]  # type: ignore[attr-defined]
    assert draft.marker.symbol == "diamond"  # type: ignore[attr-defined]
    assert (list(real.x), list(real.y)) == ([0.069], [0.0])  # type: ignore[attr-defined]


def test_the_front_is_a_line_of_steps() -> None:
    two = marks(PRICES, [((), point(0.03)), (("conv1",), point(0.01))])
    line = traces(two)["Pareto front"]
    assert list(line.x) == [0.034, 0.046]  # type: ignore[attr-defined]
    assert line.line.shape == "hv"  # type: ignore[attr-defined]
    assert "Pareto front" not in traces(FOUND)


def test_until_it_is_measured_the_draft_stands_at_its_estimated_drop() -> None:
    drawn = traces(marks(PRICES, [((), point(0.03))]), here=(50.0, 0.02))
    draft = drawn["this draft, drop estimated"]
    assert (list(draft.x), list(draft.y)) == ([0.05], [2.0])  # type: ignore[attr-defined]
