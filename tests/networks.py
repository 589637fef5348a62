"""Tiny networks that the tests of capture, simulation and measurement share."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qviz.capture import capture
from qviz.collate import Batch
from qviz.data import Data, as_data
from qviz.execute import Program
from qviz.graph import Graph
from qviz.observe import observe
from qviz.recipe import Recipe, TensorRange


class Residual(nn.Module):
    """conv-bn-relu, a residual block, max-pool, classifier; one ReLU module used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv3(self.relu(self.bn2(self.conv2(x))))
        y += x
        out: Tensor = self.fc(self.pool(self.relu(y)).flatten(1))
        return out


class Attention(nn.Module):
    """One self-attention block over tokens, the product by scaled_dot_product_attention."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        out: Tensor = x + self.proj(mixed.transpose(1, 2).reshape(b, n, c))
        return out


class Tokens(nn.Module):
    """Token ids to class scores through one attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.attn = Attention()
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.attn(self.embed(ids)).mean(1))
        return out


class SeqFirst(nn.Module):
    """torch's own attention, which puts the sequence before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        y = self.attn(y, y, y)[0]
        out: Tensor = self.head(y.mean(0))
        return out


class Twins(nn.Module):
    """Both inputs stacked into one batch, so that its samples cannot be cut apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        both = self.body(torch.cat([a, b]).tanh()).tanh()
        left, right = self.body(F.pad(both, (0, 2))).chunk(2)
        difference: Tensor = left - right
        return difference


NETWORKS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "tokens": Tokens,
    "seq first": SeqFirst,
    "twins": Twins,
}


def made(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights, and statistics of its batch norms, from a seed; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.4, generator=generator)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(0, 0.4, generator=generator)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def batch(*args: Tensor, **kwargs: Tensor) -> Batch:
    return Batch(args, kwargs, None, len([*args, *kwargs.values()][0]))


def inputs(name: str, count: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of one of ``NETWORKS``."""
    generator = torch.Generator().manual_seed(seed)
    if name == "residual":
        return (torch.randn(count, 3, 8, 8, generator=generator),)
    if name == "tokens":
        return (torch.randint(0, 16, (count, 6), generator=generator),)
    if name == "seq first":
        return (torch.randn(count, 5, 8, generator=generator),)
    return tuple(torch.randn(count, 6, generator=generator) for _ in range(2))


@functools.cache
def network(name: str) -> tuple[nn.Module, Graph]:
    """One of ``NETWORKS`` and its graph; neither may be changed."""
    model = made(NETWORKS[name]())
    return model, capture(model, batch(*inputs(name, 2)))


@functools.cache
def program(name: str) -> Program:
    return Program(network(name)[1])


def data(name: str, count: int, seed: int = 0) -> Data:
    return as_data((inputs(name, count, seed), None), "data")


@functools.cache
def recipe(name: str, profile: str = "cuda") -> Recipe:
    """Everything int8, ranges from minimum to maximum over 16 samples."""
    histograms = observe(program(name), data(name, 16), workers=1)
    ranges = tuple(TensorRange(t, h.min, h.max, "max") for t, h in histograms.items())
    return Recipe(profile=profile, ranges=ranges)


def run(graph: Graph, *args: Tensor, **kwargs: Tensor) -> list[Tensor]:
    """The outputs of a graph, in the order of its tree."""
    prepared = Program(graph)
    return prepared.run(prepared.inputs(batch(*args, **kwargs)))
