"""What the tables say, and that their columns keep their types."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qviz import tables
from qviz.affine import Grid
from qviz.calibration import CalibratorRow
from qviz.calibrators import candidates
from qviz.capture import capture
from qviz.coverage import CoverageRow, coverage
from qviz.data import Batch
from qviz.graph import Graph
from qviz.histogram import collect
from qviz.intervals import Interval
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity


class Small(nn.Module):
    """A linear, which has int8 arithmetic, and a cumulative sum, which has none."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.fc(x), dim=1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Small(), Batch((torch.zeros(4, 8),), {}, None, 4))


def test_candidates_are_rows_in_the_order_given() -> None:
    ranges = candidates(collect(torch.linspace(-1, 2, 1000)), Grid())
    table = tables.candidates_table(ranges)
    assert table["calibrator"].tolist() == [one.calibrator for one in ranges]
    assert table["hi"].tolist() == [one.range.hi for one in ranges]
    assert table["step"].tolist() == [one.scale for one in ranges]
    assert table["clipped_percent"].tolist() == [100 * one.clipped_fraction for one in ranges]


def test_exactly_one_candidate_is_best_and_has_the_highest_sqnr() -> None:
    table = tables.candidates_table(candidates(collect(torch.linspace(-1, 2, 1000)), Grid()))
    assert table["best"].sum() == 1
    assert table.loc[table["best"], "sqnr_db"].item() == table["sqnr_db"].max()


def test_a_tensor_row_counts_what_the_histogram_counted() -> None:
    histogram = collect(torch.tensor([0.0, 0.0, 1.0, -3.0, float("nan"), float("inf")]))
    found = {"x": candidates(histogram, Grid())}
    row = tables.tensors_table({"x": histogram}, found).iloc[0]
    assert (row["tensor"], row["values"]) == ("x", 6)
    assert (row["min"], row["max"], row["not_finite"]) == (-3.0, 1.0, 2)
    assert row["zeros_percent"] == 100 * 2 / 4
    assert row["sqnr_db"] == max(one.sqnr_db for one in found["x"])


def test_a_tensor_without_candidates_has_no_best() -> None:
    row = tables.tensors_table({"x": collect(torch.ones(3))}, {}).iloc[0]
    assert row["best_calibrator"] == ""
    assert row.isna()["sqnr_db"]


def test_every_op_is_listed_with_the_reason_it_stays_float(graph: Graph) -> None:
    table = tables.coverage_table(coverage(graph))
    assert table["op"].tolist() == ["fc", "cumsum"]
    assert table["status"].tolist() == ["int8", "float"]
    assert table["reason"].tolist() == ["", "cumsum has no int8 arithmetic"]
    assert table["shape"].tolist() == ["4", "4"]
    assert table["macs"].tolist() == [32, 0]


def test_a_size_that_varies_is_a_question_mark() -> None:
    row = CoverageRow("op", "linear", "int8", "", 0, 0, (4, -1), "")
    assert tables.coverage_table([row])["shape"].tolist() == ["4 × ?"]


def test_measured_and_estimated_ops_stand_in_one_table(ranking: Sensitivity) -> None:
    table = tables.sensitivity_table(ranking)
    assert table["name"].tolist() == ["conv", "fc"]
    assert table["rank"].tolist() == [1, 2]
    assert table["measured"].tolist() == [True, False]
    assert table["change_percent"].tolist()[0] == -2.0
    assert table["share_percent"].tolist() == pytest.approx([75.0, 100.0])
    assert table.isna()["divergence_low"].tolist() == [False, True]


def test_the_chosen_point_of_a_search_is_marked(found: SearchResult) -> None:
    table = tables.curve_table(found)
    assert table["chosen"].tolist() == [False, True]
    assert table["ops_in_float"].tolist() == [0, 1]
    assert table["drop_percent"].tolist() == [2.0, 0.5]
    assert table["skipped"].tolist() == ["", "conv"]


def test_calibrators_are_compared_with_per_tensor_weights_beside_them() -> None:
    interval = Interval(-0.02, 0.01)
    row = CalibratorRow("max", False, 0.9, -0.01, interval, 0.5, True, False, 0)
    table = tables.calibrators_table([row])
    assert table["weights"].tolist() == ["per tensor"]
    assert table[["low_percent", "change_percent", "high_percent"]].iloc[0].tolist() == [-2, -1, 1]


def test_empty_tables_have_the_columns_and_types_of_full_ones(
    graph: Graph, ranking: Sensitivity, found: SearchResult
) -> None:
    histogram = collect(torch.ones(3))
    ranges = candidates(histogram, Grid())
    full = tables.candidates_table(ranges)
    assert tables.candidates_table([]).dtypes.equals(full.dtypes)
    full = tables.tensors_table({"x": histogram}, {"x": ranges})
    assert tables.tensors_table({}, {}).dtypes.equals(full.dtypes)
    full = tables.coverage_table(coverage(graph))
    assert tables.coverage_table([]).dtypes.equals(full.dtypes)
    full = tables.sensitivity_table(ranking)
    assert tables.sensitivity_table(replace(ranking, rows=())).dtypes.equals(full.dtypes)
    full = tables.curve_table(found)
    assert tables.curve_table(replace(found, curve=())).dtypes.equals(full.dtypes)
