"""Where ops are drawn, and what the picture of a network shows."""

from __future__ import annotations

import math
import time

import pytest
import torch
from networks import Residual

from qviz.capture import capture
from qviz.coverage import coverage
from qviz.data import Batch
from qviz.figures_graph import Place, layout, network_figure
from qviz.graph import Graph, Op
from qviz.node_data import OpNumber, op_numbers


def op(name: str, *reads: str) -> Op:
    return Op(name, "conv2d", "", name, (), reads, False, None, "", (), 0, 0, "")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Residual().eval(), Batch((torch.zeros(4, 3, 8, 8),), {}, None, 4))


@pytest.fixture(scope="module")
def numbers(graph: Graph) -> dict[str, OpNumber]:
    return {n.key: n for n in op_numbers(coverage(graph), {"conv1": 30.0})}


def test_a_chain_is_one_line() -> None:
    places = layout([op("a", "x"), op("b", "a"), op("c", "b")])
    assert [(p.x, p.y) for p in places.values()] == [(0, 0), (1, 0), (2, 0)]


def test_depth_is_the_longest_path() -> None:
    places = layout([op("a", "x"), op("b", "a"), op("c", "b"), op("d", "a", "c")])
    assert places["d"].depth == 3


def test_a_branch_has_a_lane_of_its_own() -> None:
    places = layout([op("a", "x"), op("b", "a"), op("c", "a"), op("d", "b", "c")])
    assert {places["b"].lane, places["c"].lane} == {0, 1}
    assert places["d"].lane == 0


def test_a_long_line_is_broken_into_rows() -> None:
    places = layout([op(str(i), str(i - 1)) for i in range(7)], columns=3)
    assert [(p.x, p.row) for p in places.values()] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (1, 1),
        (2, 1),
        (0, 2),
    ]
    assert [places[n].y for n in ("0", "3", "6")] == [0, 2, 4]


def test_a_result_of_a_split_comes_from_the_split() -> None:
    places = layout([op("split", "x"), op("b", "split[1]")])
    assert places["b"] == Place(depth=1, lane=0, x=1, y=0, row=0)


def test_no_two_ops_share_a_place() -> None:
    # every op reads the two before it and one far back
    ops = [op(str(i), str(i - 1), str(i - 2), str(i // 2)) for i in range(60)]
    ops += [op(f"side{i}", str(i), f"side{i - 7}") for i in range(60)]
    places = layout(sorted(ops, key=lambda o: int(o.name.removeprefix("side"))))
    assert len({(p.x, p.y) for p in places.values()}) == len(ops)


def test_every_op_is_a_point_that_hands_its_name_over(
    graph: Graph, numbers: dict[str, OpNumber]
) -> None:
    for number in numbers.values():
        figure = network_figure(graph, number, details={})
        named = [name for trace in figure.data for name in trace.customdata or ()]
        assert sorted(named) == sorted(graph.ops)


def test_the_bar_of_a_number_over_many_sizes_counts_in_powers(
    graph: Graph, numbers: dict[str, OpNumber]
) -> None:
    figure = network_figure(graph, numbers["macs"], details={})
    (marker,) = [trace.marker for trace in figure.data if trace.name == "ops"]
    assert list(marker.color) == [math.log10(v) for v in (6912, 9216, 9216, 320)]
    assert list(marker.colorbar.ticktext) == ["320", "1 k", "9.22 k"]
    assert marker.colorbar.title.text == "MACs"


def test_status_is_told_by_colour_and_shape(graph: Graph, numbers: dict[str, OpNumber]) -> None:
    figure = network_figure(graph, numbers["status"], details={})
    shown = {t.name: (t.marker.color, t.marker.symbol) for t in figure.data if t.showlegend is None}
    assert shown == {"int8": ("#0072B2", "circle")}
    assert figure.layout.showlegend


def test_the_chosen_op_is_ringed(graph: Graph, numbers: dict[str, OpNumber]) -> None:
    figure = network_figure(graph, numbers["macs"], chosen="conv3", details={})
    place = layout(tuple(graph.ops.values()))["conv3"]
    assert (figure.data[-1].name, figure.data[-1].x, figure.data[-1].y) == (
        "chosen: conv3",
        (place.x,),
        (place.y,),
    )


def test_names_of_blocks_stay_inside_the_picture(
    graph: Graph, numbers: dict[str, OpNumber]
) -> None:
    figure = network_figure(graph, numbers["macs"], details={})
    (names,) = [trace for trace in figure.data if trace.name == "blocks"]
    assert names.text[0] == "conv1"
    assert names.textposition[0] == "middle right"


def test_a_number_that_no_op_has_draws_grey_points(graph: Graph) -> None:
    figure = network_figure(graph, OpNumber("sqnr", "SQNR", "dB", {}), details={})
    assert sum(len(trace.customdata or ()) for trace in figure.data) == len(graph.ops)


def test_a_thousand_ops_are_laid_out_within_a_second() -> None:
    ops = [op(str(i), str(i - 1), str(i - 4)) for i in range(1000)]
    started = time.process_time()
    layout(ops)
    assert time.process_time() - started < 1
