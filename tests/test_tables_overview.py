"""The table of all ops, its small histograms and its filter."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from qviz.coverage import CoverageRow
from qviz.histogram import collect, empty
from qviz.tables_overview import COLUMNS, Entering, matching, mini_histogram, overview_table

ROWS = (
    CoverageRow("stem", "conv2d", "int8", "", 1000, 40, (4, -1, 8), "m.py:1"),
    CoverageRow("stem:relu", "relu", "float", "relu has no int8 arithmetic", 0, 0, (4, 8, 8), ""),
    CoverageRow("head", "linear", "float by choice", "", 50, 55, (5,), ""),
)


@pytest.fixture
def table() -> pd.DataFrame:
    entering = {"stem": Entering("x", -1.0, 2.0, 31.5), "head": Entering("y", 0, 0, float("inf"))}
    return overview_table(ROWS, entering, {"x": (0.5, 1.0)})


def test_an_op_says_what_enters_it(table: pd.DataFrame) -> None:
    row = table.iloc[0]
    assert (row["tensor"], row["lo"], row["hi"], row["sqnr_db"]) == ("x", -1.0, 2.0, 31.5)
    assert row["histogram"] == [0.5, 1.0]


def test_a_size_that_varies_is_a_question_mark(table: pd.DataFrame) -> None:
    assert table["shape"].tolist() == ["4 × ? × 8", "4 × 8 × 8", "5"]


def test_an_op_that_reads_nothing_as_int8_has_no_range(table: pd.DataFrame) -> None:
    row = table.iloc[1]
    assert row[["lo", "hi", "sqnr_db"]].isna().all()
    assert row["histogram"] is None


def test_a_lossless_input_has_no_finite_sqnr(table: pd.DataFrame) -> None:
    assert pd.isna(table.iloc[2]["sqnr_db"])


def test_a_table_of_no_ops_has_the_same_columns(table: pd.DataFrame) -> None:
    nothing = overview_table((), {}, {})
    assert list(nothing.columns) == list(COLUMNS) == list(table.columns)
    assert (nothing.dtypes == table.dtypes).all()


def test_no_filter_leaves_everything(table: pd.DataFrame) -> None:
    assert matching(table).equals(table)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("STEM", ["stem", "stem:relu"]),
        ("relu stem", ["stem:relu"]),
        ("no int8", ["stem:relu"]),
        ("st.m", []),
        ("(", []),
    ],
    ids=["any case", "all words", "a reason", "a dot is a dot", "a bracket is a bracket"],
)
def test_a_search_looks_for_every_word(table: pd.DataFrame, text: str, found: list[str]) -> None:
    assert matching(table, text=text)["op"].tolist() == found


def test_filters_by_type_and_status_both_hold(table: pd.DataFrame) -> None:
    assert matching(table, types=["relu", "linear"], statuses=["float"])["op"].tolist() == [
        "stem:relu"
    ]


def test_a_small_histogram_goes_from_the_least_to_the_largest_value() -> None:
    bars = mini_histogram(collect(torch.tensor([0.0] * 7 + [1.0])), bins=4)
    # log(1 + 7), nothing, nothing, log(1 + 1)
    assert bars == (1.0, 0.0, 0.0, 0.333)


def test_a_tensor_with_one_value_is_one_bar() -> None:
    assert mini_histogram(collect(torch.ones(5)), bins=3) == (1.0, 0.0, 0.0)


def test_a_tensor_without_values_has_no_bars() -> None:
    assert mini_histogram(empty()) == ()
