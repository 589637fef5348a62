"""Blocks under autocast or no_grad are part of the graph."""

import pytest
import torch
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.errors import UnsupportedModelError
from qviz.execute import Program
from qviz.graph import Graph

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x).relu()
        with torch.enable_grad():
            y: Tensor = self.head(x) + x.sum(1, keepdim=True)
        return y


class Autocast(nn.Module):
    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=self.enabled):
            y = self.linear(x)
            with torch.autocast("cpu", enabled=self.enabled):
                z = y @ y.T
        return y.float(), z.float() @ x


def _captured(model: nn.Module) -> Graph:
    return capture(model, Batch((X[:2],), {}, None, 2))


def _run(graph: Graph) -> list[Tensor]:
    program = Program(graph)
    values: list[Tensor] = program.run(program.inputs(Batch((X,), {}, None, 3)))
    return values


def test_ops_under_no_grad_are_quantizable() -> None:
    model = Frozen()
    with torch.no_grad():
        graph = _captured(model)
        torch.testing.assert_close(_run(graph), [model(X)])
    assert [op.name for op in graph.quantizable] == ["stem", "head"]


def test_ops_under_disabled_autocast_are_ops_of_the_graph() -> None:
    model = Autocast(enabled=False)
    graph = _captured(model)
    torch.testing.assert_close(_run(graph), list(model(X)))
    assert [op.type for op in graph.quantizable] == ["linear", "matmul", "matmul"]


def test_autocast_to_a_lower_precision_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        _captured(Autocast(enabled=True))
    assert str(caught.value) == (
        "Autocast: a part of forward runs under autocast in bfloat16, ranges need float32. "
        "Take torch.autocast out of forward, or pass enabled=False."
    )
