"""The coverage table: every op once, with its status and the reason for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from networks import batch, made, network, recipe
from torch import Tensor, nn

from qviz.capture import capture
from qviz.coverage import CoverageRow, coverage
from qviz.graph import Graph
from qviz.recipe import FUSED, Recipe, TensorRange

GRAPH = network("residual")[1]


def rows(chosen: Recipe | None = None, graph: Graph = GRAPH) -> dict[str, CoverageRow]:
    return {row.op: row for row in coverage(graph, chosen)}


def told(row: CoverageRow) -> tuple[str, str]:
    return row.status, row.reason


def test_every_op_has_one_row_in_execution_order() -> None:
    assert [row.op for row in coverage(GRAPH)] == list(GRAPH.ops)


def test_a_row_tells_type_size_and_source() -> None:
    row = rows()["conv1"]
    assert (row.type, row.macs, row.parameters, row.shape) == ("conv2d", 6912, 112, (4, 8, 8))
    assert row.source == GRAPH.ops["conv1"].source


def test_without_a_recipe_what_has_int8_arithmetic_is_int8() -> None:
    assert {row.status for row in rows().values()} == {"int8"}
    found = rows(None, network("tokens")[1])
    assert {op for op, row in found.items() if row.type in ("linear", "matmul", "add")} == {
        op for op, row in found.items() if row.status == "int8" and not row.reason
    }


def test_an_activation_behind_an_int8_product_is_part_of_it() -> None:
    part = ("int8", "part of conv1: applied before rounding")
    assert told(rows(recipe("residual"))["relu:relu"]) == part
    alone = rows(recipe("residual").skip("conv1"))["relu:relu"]
    assert told(alone) == ("float", "relu has no int8 arithmetic")


def test_int8_ops_have_no_reason_but_what_is_special() -> None:
    found = rows(recipe("residual"))
    assert told(found["conv1"]) == ("int8", "")
    assert told(found["add"]) == ("int8", FUSED)
    assert told(found["pool"]) == ("int8", "passes codes on with their scale")
    assert told(rows(recipe("residual", "ort-cpu"))["add"]) == ("int8", "")


def test_a_skipped_op_is_float_by_choice() -> None:
    assert told(rows(recipe("residual").skip("conv1"))["conv1"]) == ("float by choice", "")
    assert told(rows(recipe("residual").skip("add"))["add"]) == ("float by choice", "")


def test_an_op_with_one_skipped_operand_names_it() -> None:
    found = rows(recipe("residual").skip("conv1/input"))["conv1"]
    assert told(found) == ("float by choice", "conv1/input left in float")


def test_what_passes_on_a_float_value_is_float() -> None:
    found = rows(recipe("residual").skip("fc"))
    for op in ("pool", "flatten"):
        assert told(found[op]) == ("float", "passes on what it reads, and that is float")
    assert told(found["conv1"]) == ("int8", "")


def test_an_op_whose_input_never_saw_data_is_float() -> None:
    chosen = replace(
        recipe("residual"), ranges=tuple(r for r in recipe("residual").ranges if r.tensor != "x")
    )
    assert told(rows(chosen)["conv1"]) == ("float", "never saw data: no range")


def test_an_add_whose_identity_branch_never_saw_data_is_float() -> None:
    kept = tuple(r for r in recipe("residual").ranges if r.tensor != "relu:relu")
    found = rows(replace(recipe("residual"), ranges=kept))
    assert told(found["add"]) == ("float", "never saw data: no range")


def test_parts_of_a_split_pass_codes_if_one_of_them_is_read_as_int8() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 8)
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.fc(x).chunk(2, 1)
            result: Tensor = self.out(a) * b.sum()
            return result

    graph = capture(made(Split()), batch(torch.randn(2, 6)))
    ranges = tuple(TensorRange(t, -1.0, 1.0, "fixed") for t in graph.observed)
    chosen = Recipe(ranges=ranges)
    assert told(rows(chosen, graph)["chunk"]) == ("int8", "passes codes on with their scale")
    assert told(rows(chosen.skip("out"), graph)["chunk"])[0] == "float"


def test_unsupported_and_constant_ops_give_their_reason() -> None:
    found = rows(recipe("tokens"), network("tokens")[1])
    assert told(found["embed"]) == (
        "float",
        "embedding looks values up by index: no arithmetic to quantize",
    )
    assert told(found["attn.norm"]) == ("float", "layer_norm has no int8 arithmetic")
