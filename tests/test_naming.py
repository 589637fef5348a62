"""Names: what a person reads, once each, the same every time."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, batch, inputs, made, network
from torch import Tensor, nn

from qviz.capture import capture
from qviz.graph import Graph


def names(model: nn.Module) -> list[str]:
    return list(capture(made(model), batch(torch.randn(2, 6))).ops)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.fc(x)).relu() + x
        return out


def test_a_module_that_makes_one_op_gives_it_its_name() -> None:
    assert names(nn.Sequential(nn.Linear(6, 6), nn.ReLU())) == ["0", "1"]


def test_a_module_s_own_ops_are_named_by_kind_and_number() -> None:
    expected = ["0.fc", "0:add", "0:relu", "0:add.1", "1"]
    assert names(nn.Sequential(Block(), nn.Linear(6, 4))) == expected


def test_the_ops_of_the_model_itself_have_no_path() -> None:
    assert names(Block()) == ["fc", "add", "relu", "add.1"]


def test_each_call_of_a_reused_module_has_a_number() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.fc(x).relu())
            return out

    assert names(Twice()) == ["fc:linear", "relu", "fc:linear.1"]


def test_an_op_is_never_called_like_a_module_or_its_child() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
            self.add = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.add(self.relu((x.relu() - 1).relu()) + x)
            return out

    assert names(Clash()) == ["relu", "sub", "relu.2", "relu.0", "relu.1", ":add", "add"]


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_the_same_for_every_capture_and_batch_size(name: str) -> None:
    graph = network(name)[1]
    again = capture(made(NETWORKS[name](), seed=5), batch(*inputs(name, 4)))
    assert list(again.ops) == list(graph.ops)
    assert list(again.tensors) == list(graph.tensors)
    assert list(again.operands) == list(graph.operands)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_stands_for_one_thing(name: str) -> None:
    graph = network(name)[1]
    nodes = [op.node for op in graph.ops.values()]
    assert len(nodes) == len(set(nodes))
    assert not graph.ops.keys() & graph.operands.keys()
    tensors = {t.node: t.name for t in graph.tensors.values()}
    for op in graph.ops.values():
        assert tensors.get(op.node, op.name) == op.name
        assert all(o.op == op.name and o.name.startswith(f"{op.name}/") for o in op.operands)
        assert set(op.reads) <= graph.tensors.keys()


def test_parts_of_a_split_are_numbered() -> None:
    class Split(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = x.chunk(2, 1)
            return a.exp() + b

    graph = capture(Split(), batch(torch.randn(2, 6)))
    assert list(graph.tensors) == ["x", "chunk[0]", "chunk[1]", "exp", "add"]
    assert list(graph.ops) == ["chunk", "exp", "add"]
    assert graph.ops["add"].reads == ("exp", "chunk[1]")


def test_an_op_knows_the_line_that_called_it_and_its_module() -> None:
    graph: Graph = network("residual")[1]
    assert graph.ops["conv1"].source.startswith("networks.py:")
    assert (graph.ops["conv1"].module, graph.ops["add"].module) == ("conv1", "")
