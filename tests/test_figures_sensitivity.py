"""What the sensitivity pictures and tables show, read from their own data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qviz.figures_sensitivity import brief, proxy_figure, ranking_figure, tied
from qviz.intervals import Interval
from qviz.ranking import Sensitivity, SensitivityRow
from qviz.tables_sensitivity import causes_table, ranking_table


def measured(name: str, divergence: float, tie: int, spread: float = 0.0) -> SensitivityRow:
    interval = Interval(divergence - spread, divergence + spread)
    return SensitivityRow(
        name, "conv2d", divergence, interval, 0.0, Interval(0.0, 0.0), 0.9, 100, True, tie, tie
    )


def whole(*rows: SensitivityRow, **changes: object) -> Sensitivity:
    made = Sensitivity(rows, "only_this", "both", "top1", "kl", {r.name: 0.5 for r in rows})
    return replace(made, **changes)  # type: ignore[arg-type]


def test_measured_bars_are_filled_with_intervals_and_estimated_ones_are_hollow(
    ranking: Sensitivity,
) -> None:
    exact, guessed = ranking_figure(replace(ranking, proxy={"fc": 0.1})).data
    assert (exact.name, guessed.name) == ("measured, 95 % interval", "estimated")
    assert (list(exact.y), list(guessed.y)) == (["conv"], ["fc"])
    assert list(exact.error_x.array) == pytest.approx([0.2])
    assert list(exact.error_x.arrayminus) == pytest.approx([0.1])
    assert guessed.error_x.array is None
    assert exact.marker.color != guessed.marker.color
    assert exact.hovertext == (
        "<b>conv</b>, conv2d<br>measured 0.3 (0.2 to 0.5)<br>metric -2.000 % relative "
        "(-3.000 to -1.000)<br>100 samples",
    )
    assert guessed.hovertext == ("<b>fc</b>, linear<br>estimated 0.1",)


def test_what_has_no_estimate_is_not_called_estimated(ranking: Sensitivity) -> None:
    rest = ranking_figure(replace(ranking, mode="all_but_this")).data[1]
    assert rest.name == "not measured yet"
    assert rest.hovertext == ("<b>fc</b>, linear<br>not measured yet",)


def test_bars_stand_worst_first_whether_measured_or_not(ranking: Sensitivity) -> None:
    layout = ranking_figure(ranking).layout
    assert layout.yaxis.categoryarray == ("conv", "fc")
    assert layout.yaxis.autorange == "reversed"
    assert layout.xaxis.title.text == "KL from float (nats), caused by this alone"


def test_a_click_hands_over_the_name(ranking: Sensitivity) -> None:
    assert [list(trace.customdata) for trace in ranking_figure(ranking).data] == [["conv"], ["fc"]]


def test_the_chosen_op_is_bold_and_skipped_ones_are_marked(ranking: Sensitivity) -> None:
    figure = ranking_figure(ranking, chosen="fc", in_float=("conv",))
    assert figure.layout.yaxis.ticktext == ("<i>float</i> · conv", "<b>fc</b>")


def test_rows_that_cannot_be_told_apart_lie_on_one_band() -> None:
    found = whole(*(measured(n, d, t) for n, d, t in (("a", 3, 0), ("b", 2, 1), ("c", 1, 1))))
    assert tied(found.rows) == [(1, 2)]
    (band,) = ranking_figure(found).layout.shapes
    assert (band.y0, band.y1) == (0.55, 2.45)


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm() -> None:
    found = whole(measured("a", 1.0, 0), measured("b", -1.0, 1))
    figure = ranking_figure(found, log=True)
    assert list(figure.data[0].y) == ["a"]
    assert figure.layout.xaxis.type == "log"


def test_only_the_worst_are_drawn(ranking: Sensitivity) -> None:
    assert ranking_figure(ranking, most=1).layout.yaxis.categoryarray == ("conv",)


def test_long_names_keep_their_end() -> None:
    assert brief("encoder.layers.11.attention.output.dense") == "…attention.output.dense"


def test_estimate_against_measurement_has_a_point_per_measured_row(ranking: Sensitivity) -> None:
    points, line = proxy_figure(replace(ranking, proxy={"conv": 0.2, "fc": 0.1})).data
    assert (list(points.x), list(points.y), list(points.customdata)) == ([0.2], [0.3], ["conv"])
    assert list(line.x) == list(line.y) == [0.2, 0.3]


def test_the_table_says_what_each_number_rests_on(ranking: Sensitivity) -> None:
    table = ranking_table(replace(ranking, proxy={"fc": 0.1}))
    assert list(table["basis"]) == ["measured", "estimated"]
    assert list(table["tie"]) == [1, 2]
    assert list(table["divergence"]) == [0.3, 0.1]
    bare = ranking_table(replace(ranking, proxy={}))
    assert list(bare["basis"]) == ["measured", "not measured"]
    assert list(bare["divergence"].isna()) == [False, True]


def test_the_table_has_the_same_types_when_it_is_empty(ranking: Sensitivity) -> None:
    empty = ranking_table(replace(ranking, rows=()))
    assert empty.dtypes.equals(ranking_table(ranking).dtypes)
    assert causes_table({}).dtypes.equals(causes_table({"both": ranking}).dtypes)


def test_the_cause_is_the_part_that_does_most_of_the_harm() -> None:
    rows = {
        "weights": (
            measured("a", 9.0, 0, 1.0),
            measured("b", 1.0, 1, 0.1),
            measured("c", 3.0, 2, 0.1),
            measured("d", 3.0, 3, 3.0),
        ),
        "activations": (
            measured("a", 1.0, 0, 0.5),
            measured("b", 5.0, 1, 0.5),
            measured("c", 2.0, 2, 0.1),  # less than twice
            measured("d", 1.0, 3, 0.5),  # intervals overlap
            measured("e", 4.0, 4),
        ),
    }
    table = causes_table(
        {"weights": whole(*rows["weights"]), "activations": whole(*rows["activations"])}
    )
    assert dict(zip(table["name"], table["cause"], strict=True)) == {
        "a": "mostly weights",
        "b": "mostly activations",
        "e": "activations only",
        "c": "both alike",
        "d": "both alike",
    }
    assert list(table["name"]) == ["a", "b", "e", "c", "d"]


def test_a_cause_waits_for_both_parts_to_be_measured() -> None:
    table = causes_table({"weights": whole(measured("a", 1.0, 0))})
    assert list(table["cause"]) == ["not measured yet"]
    assert table["activations"].isna().all()
