"""What the tables of the plan say, and that their columns keep their types."""

from __future__ import annotations

import pytest

from qviz.search.skip import SkipPoint
from qviz.tables_plan import ChoiceRow, Mark, choices_table, points_table

CONV = ChoiceRow("conv", "conv2d", True, 0.3, True, 0, 0.25, 4000, "")
FC = ChoiceRow("fc", "linear", False, 0.1, False, None, 0.75, 400, "partly float: fc/input")
ADD = ChoiceRow("add", "add", False, None, False, None, 0.0, 0, "")


def test_a_row_says_how_much_of_the_divergence_it_causes_and_how_that_is_known() -> None:
    table = choices_table([CONV, FC, ADD])
    assert table["float"].tolist() == [True, False, False]
    assert table["share_percent"].tolist()[:2] == pytest.approx([75.0, 25.0])
    assert table["known"].tolist() == ["measured", "estimated", ""]
    assert table.isna()["divergence"].tolist() == [False, False, True]


def test_sizes_and_shares_have_the_units_of_their_columns() -> None:
    table = choices_table([CONV, FC])
    assert table["macs_percent"].tolist() == [25.0, 75.0]
    assert table["size_kb"].tolist() == [4.0, 0.4]


def test_ops_that_cannot_be_told_apart_share_a_sign() -> None:
    assert choices_table([CONV, FC])["tied"].tolist() == ["≈ 1", ""]


def test_a_point_stands_with_its_prediction() -> None:
    point = SkipPoint(("conv", "fc"), 0.009, 0.0, 0.02, None, 0.023, 0.9, "add", 0.02, 0.01)
    row = points_table([Mark(2, point, "draft", flag="Not as predicted.")]).iloc[0]
    assert row["ops_in_float"] == 2
    assert row[["drop_percent", "high_percent"]].tolist() == pytest.approx([0.9, 2.0])
    assert (row["divergence"], row["predicted_divergence"]) == (0.02, 0.01)
    assert (row["from"], row["flag"], row["skipped"]) == ("draft", "Not as predicted.", "conv, fc")
    assert row.isna()["predicted_percent"]


def test_empty_tables_have_the_columns_and_types_of_full_ones() -> None:
    point = SkipPoint((), 0.0, 0.0, 0.0, None, 0.0, 0.9, "add")
    assert choices_table([]).dtypes.equals(choices_table([CONV]).dtypes)
    assert points_table([]).dtypes.equals(points_table([Mark(0, point)]).dtypes)
