"""Small models that between them hold everything the lowering has to get right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import Batch
from qviz.int8.lower import Lowered, lower
from qviz.recipe import Override, Recipe, TensorRange
from qviz.simulate import Simulator


class Residual(nn.Module):
    """Batch norm, depthwise, residual add with ReLU, ReLU6, max-pool, cat, slice, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.left = nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.right = nn.Conv2d(16, 8, 3, stride=2, padding="valid")
        self.head = nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = F.relu(self.point(F.relu6(self.depthwise(x))) + x)
        x = torch.cat([self.left(x), self.right(F.pad(x, (1, 1, 1, 1)))], 1)
        out: Tensor = self.head(x[:, :, :3, :3].flatten(1))
        return out


class Block(nn.Module):
    """A transformer block: fused qkv, scaled_dot_product_attention, GELU, two residual adds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.project = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 32)
        x = x + self.project(attended)
        out: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return out


class OneDimension(nn.Module):
    """1d convolution, padding="same" with an even kernel, 1d pool, 1d transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(4, 8, 4, padding="same")
        self.b = nn.Conv1d(8, 8, 3, stride=2, groups=2)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(F.relu(self.b(F.max_pool1d(F.relu(self.a(x)), 2))))
        return out


class ThreeDimensions(nn.Module):
    """3d convolution, 3d pool, 3d transposed convolution, adaptive max-pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(2, 8, 3, padding=1)
        self.up = nn.ConvTranspose3d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(F.max_pool3d(F.relu(self.a(x)), 2))
        return out


class UpAndPool(nn.Module):
    """2d transposed convolution with ReLU, ceil-mode and adaptive max-pool, a value read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 8, 3, stride=2, padding=1, output_padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.up(x))
        y = self.a(F.max_pool2d(x, 3, 2, ceil_mode=True))
        z = self.b(F.adaptive_max_pool2d(x, 2))
        return y, z.sigmoid() * x.mean()


class Products(nn.Module):
    """addmm, a stored matrix on the right of a matmul, mm of a constant, baddbmm, both adds."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(12))
        self.first = nn.Parameter(torch.randn(8, 12))
        self.second = nn.Parameter(torch.randn(12, 16))
        self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.bias, x, self.first).relu() @ self.second
        x = torch.clamp(self.left(x), -1.0, 1.5) + torch.tanh(self.right(x))
        y = x.reshape(-1, 4, 4)
        return torch.baddbmm(y, y.tanh(), y.transpose(1, 2))


class Named(nn.Module):
    """Two inputs, one by keyword; a dict and a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.a = nn.Linear(8, 8)

    def forward(self, ids: Tensor, *, scale: Tensor) -> dict[str, Any]:
        x = self.a(self.words(ids)) * scale[:, None, None]
        return {"mean": x.mean(1), "parts": (x, ids + 1)}


@dataclass(frozen=True)
class Case:
    """A model, inputs for it, and how many ops become integer ops under a plain recipe."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Batch]
    integer_ops: int


def _batch(*shape: int) -> Callable[[int], Batch]:
    return lambda n: Batch((torch.randn(n, *shape),), {}, None, n)


def _named(n: int) -> Batch:
    ids = torch.randint(0, 20, (n, 5))
    return Batch((ids,), {"scale": torch.rand(n) + 1}, None, n)


CASES = {
    "residual CNN": Case(Residual, _batch(3, 16, 16), 10),
    "transformer block": Case(Block, _batch(6, 32), 8),
    "1d": Case(OneDimension, _batch(4, 21), 5),
    "3d": Case(ThreeDimensions, _batch(2, 6, 6, 6), 3),
    "transposed 2d and pools": Case(UpAndPool, _batch(3, 7, 7), 4),
    "products": Case(Products, _batch(8), 8),
    "keywords and trees": Case(Named, _named, 1),
}


@dataclass(frozen=True, eq=False)
class Made:
    """Everything about one lowered model."""

    model: nn.Module
    batch: Batch
    simulator: Simulator
    recipe: Recipe
    lowered: Lowered

    def simulated(self, batch: Batch) -> list[Any]:
        program = self.simulator.program
        return program.run(program.inputs(batch), self.simulator.edits(self.recipe))


def max_recipe(simulator: Simulator, batch: Batch, **choices: Any) -> Recipe:
    """Every tensor's largest magnitude on one batch as its range."""
    program, graph = simulator.program, simulator.graph
    names = {program.slot_of_tensor[n]: n for n in graph.observed}
    amax: dict[str, float] = {}

    def watch(slot: int, value: Tensor) -> None:
        if slot in names:
            amax[names[slot]] = float(value.abs().max())

    values = program.inputs(batch)
    for item in graph.inputs:
        watch(program.slot_of[item.node], values[program.slot_of[item.node]])
    program.run(values, watch=watch)
    ranges = tuple(TensorRange(n, -a, a, "max") for n, a in amax.items())
    return Recipe(ranges=ranges, **choices)


@cache
def captured(case: Case) -> tuple[nn.Module, Batch, Simulator]:
    """The model of a case, inputs for it, and its graph ready to run."""
    torch.manual_seed(0)
    model = case.make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
    batch = case.inputs(8)
    return model, batch, Simulator(capture(model, batch))


def make(case: Case | str = "residual CNN", *overrides: Override, **choices: Any) -> Made:
    """Build, capture, range and lower a case."""
    case = CASES[case] if isinstance(case, str) else case
    model, batch, simulator = captured(case)
    recipe = max_recipe(simulator, batch, **choices).override(*overrides)
    return Made(model, batch, simulator, recipe, lower(simulator.graph, recipe, simulator))
