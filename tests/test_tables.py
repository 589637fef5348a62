"""What the tables say, and that their columns keep their types."""

from __future__ import annotations

import torch
from qviz.calibrators import candidates
from qviz.histogram import collect
from torch import fx

from qviz import tables
from qviz.affine import Grid
from qviz.graph import Graph, Op, Operand, TensorInfo


def small_graph() -> Graph:
    """An input, a linear and a sort: one op of int8 and one that cannot be."""
    operand = Operand("fc/input", "fc", "activation", "x", 0)
    op = Op(
        "fc", "linear", "aten.linear.default", "fc", (operand,), ("x",), False, None, "fc",
        (4, -1), 32, 12, "model.py:7",
    )  # fmt: skip
    other = Op(
        "sort", "sort", "aten.sort.default", "sort", (), ("fc",), False, "no int8 arithmetic", "",
        (4, -1), 0, 0, "model.py:8",
    )  # fmt: skip
    tensor = TensorInfo("x", "x", (8,), "float32", 0, 1, 1, "x", ("fc/input",), False)
    return Graph(
        name="Small",
        module=fx.GraphModule(torch.nn.Module(), fx.Graph()),
        ops={"fc": op, "sort": other},
        tensors={"x": tensor},
        inputs=(),
        outputs=("sort",),
        weights={},
        folded={},
    )


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
    row = tables.tensors_table(small_graph(), {"x": histogram}, found).iloc[0]
    assert (row["tensor"], row["shape"], row["read_by"]) == ("x", "8", "fc/input")
    assert (row["min"], row["max"], row["not_finite"]) == (-3.0, 1.0, 2)
    assert row["zeros_percent"] == 100 * 2 / histogram.size
    assert row["sqnr_db"] == max(one.sqnr_db for one in found["x"])


def test_a_tensor_without_candidates_has_no_best() -> None:
    row = tables.tensors_table(small_graph(), {"x": collect(torch.ones(3))}, {}).iloc[0]
    assert row["best_calibrator"] == ""
    assert row.isna()["sqnr_db"]


def test_every_op_is_listed_with_the_reason_it_stays_float() -> None:
    table = tables.ops_table(small_graph())
    assert table["op"].tolist() == ["fc", "sort"]
    assert table["int8"].tolist() == ["yes", "no"]
    assert table["reason"].tolist() == ["", "no int8 arithmetic"]
    assert table["shape"].tolist() == ["4 × ?", "4 × ?"]


def test_empty_tables_have_the_columns_and_types_of_full_ones() -> None:
    histogram = collect(torch.ones(3))
    found = candidates(histogram, Grid())
    full = tables.candidates_table(found)
    assert tables.candidates_table([]).dtypes.equals(full.dtypes)
    full = tables.tensors_table(small_graph(), {"x": histogram}, {"x": found})
    assert tables.tensors_table(small_graph(), {}, {}).dtypes.equals(full.dtypes)
