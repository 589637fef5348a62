"""Channels that are scaled together: found where they are, and the float function stays."""

from __future__ import annotations

from collections.abc import Callable

import networks
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tune_kit import generator, of_module, simulator

from qviz.data import Data, as_data
from qviz.rewrite import get_attr
from qviz.simulate import Simulator
from qviz.tune.channel_groups import Group, Scaled, groups, reasons
from qviz.tune.scaled_weight import Layout
from qviz.weights import TunedWeights, tuned_graph


class Wrapped(nn.Module):
    """Layers and a function of them."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class RMSNorm(nn.Module):
    """Written out, as in most language models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Positions(nn.Module):
    """A table of positions is added between two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.table = nn.Parameter(torch.zeros(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(F.relu(self.a(x) + self.table))
        return out


def conv(a: int, b: int, kernel: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, padding=kernel // 2, **more)  # type: ignore[arg-type]


def norm(width: int) -> nn.Module:
    made = nn.BatchNorm2d(width)
    nn.init.uniform_(made.weight, 0.5, 2.0, generator=generator())
    return made


def gated(m: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))  # type: ignore[operator]
    gate = torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))  # type: ignore[operator]
    out: Tensor = m.b(y * gate)  # type: ignore[operator]
    return out


def shortcut(m: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))  # type: ignore[operator]
    wide = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
    out: Tensor = m.c(F.relu(m.b(y) + wide))  # type: ignore[operator]
    return out


def attention(m: nn.Module, x: Tensor) -> Tensor:
    b, n, c = x.shape
    q, k, v = m.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[operator]
    mixed = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
    out: Tensor = m.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
    return out


def pooled(m: nn.Module, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.leaky_relu(m.a(x), 0.1), 2)  # type: ignore[operator]
    y = F.interpolate(m.p(y), scale_factor=2.0, mode="nearest")  # type: ignore[operator]
    out: Tensor = m.b(F.adaptive_avg_pool2d(y, 2).flatten(1))  # type: ignore[operator]
    return out


def joined(m: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = m.c(F.channel_shuffle(torch.cat([m.a(x), F.relu(m.b(x))], 1), 2))  # type: ignore[operator]
    return out


IMAGES = (4, 3, 6, 6)
TOKENS = (4, 5, 4)

#: Name -> module, shape of its inputs, and the groups that must be found.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "depthwise": (
        lambda: nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, groups=4), nn.ReLU(), conv(8, 2)),
        IMAGES,
        {"0 -> 2", "2 -> 4"},
    ),
    "grouped": (
        lambda: nn.Sequential(conv(3, 4, bias=0), conv(4, 6, groups=2), nn.PReLU(6), conv(6, 2)),
        IMAGES,
        {"0 -> 1", "1 -> 3"},
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)),
        IMAGES,
        {"0 -> 2"},
    ),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(5, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1)),
        (4, 5, 9),
        {"0 -> 2"},
    ),
    "squeeze and excitation": (
        lambda: Wrapped(gated, a=conv(3, 4), down=conv(4, 2, 1), up=conv(2, 4, 1), b=conv(4, 2)),
        IMAGES,
        {"a -> down, b", "down -> up"},
    ),
    "shortcut padded with zero channels": (
        lambda: Wrapped(shortcut, a=conv(3, 4), b=conv(4, 6, stride=2), c=conv(6, 2)),
        IMAGES,
        {"a, b -> b, c"},
    ),
    "concatenation": (
        lambda: Wrapped(joined, a=conv(3, 4), b=conv(3, 4), c=conv(8, 2)),
        IMAGES,
        {"a -> c", "b -> c"},
    ),
    "pooled and resized": (
        lambda: Wrapped(pooled, a=conv(3, 4), p=nn.AvgPool2d(3, 1, 1), b=nn.Linear(16, 2)),
        IMAGES,
        {"a -> b"},
    ),
    "attention": (
        lambda: Wrapped(attention, qkv=nn.Linear(4, 12), proj=nn.Linear(4, 3)),
        TOKENS,
        {"qkv -> proj"},
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
        TOKENS,
        {"0 -> 1", "1 -> 3"},
    ),
    "norm without a bias": (
        lambda: nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)),
        TOKENS,
        {"0 -> 1"},
    ),
    "norm written out": (
        lambda: nn.Sequential(RMSNorm(4), nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2)),
        TOKENS,
        {"0:mul.1 -> 1"},
    ),
    "batch norm before the conv": (
        lambda: nn.Sequential(norm(3), nn.ReLU(), conv(3, 4), nn.SiLU(), conv(4, 2)),
        IMAGES,
        {"0 -> 2"},
    ),
    "positions added": (Positions, TOKENS, {"a -> b"}),
}


def subject_of(name: str) -> Simulator:
    make, shape, _ = CASES[name]
    model = networks.made(make())
    return of_module(model, torch.randn(shape, generator=generator())).simulator


def found_in(own: Simulator, shape: tuple[int, ...]) -> tuple[Group, ...]:
    return groups(own, as_data((torch.randn(shape, generator=generator()), None), "data"))[0]


def outputs(own: Simulator, tuned: TunedWeights, shape: tuple[int, ...]) -> Tensor:
    program = Simulator(tuned_graph(own.graph, tuned)).program
    x = torch.randn(shape, generator=generator(3))
    (made,) = program.run(program.inputs(networks.batch(x)))
    assert isinstance(made, Tensor)
    return made


@pytest.mark.parametrize("name", CASES)
def test_powers_of_two_leave_every_bit_of_the_output(name: str) -> None:
    own, shape = subject_of(name), CASES[name][1]
    every = found_in(own, shape)
    assert {g.name for g in every} == CASES[name][2]
    scaled, chance = Scaled(own.graph), generator(1)
    for group in every:
        scaled.scale(group, 2.0 ** torch.randint(-3, 4, (group.channels,), generator=chance))
    tuned = scaled.tuned()
    assert tuned.values
    plain = outputs(own, TunedWeights(), shape)
    assert float(plain.abs().max()) > 0
    assert torch.equal(outputs(own, tuned, shape), plain)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_powers_of_two_leave_every_bit_of_the_shared_networks(name: str) -> None:
    own, data = simulator(name), networks.data(name, 8)
    every, _ = groups(own, data)
    scaled, chance = Scaled(own.graph), generator(1)
    for group in every:
        scaled.scale(group, 2.0 ** torch.randint(-3, 4, (group.channels,), generator=chance))
    other = Simulator(tuned_graph(own.graph, scaled.tuned())).program
    batch = next(data.batches(8))
    before = own.program.run(own.program.inputs(batch))
    assert torch.equal(other.run(other.inputs(batch))[0], before[0])


def test_the_groups_of_a_residual_block_by_hand() -> None:
    every, found = groups(simulator("residual"), networks.data("residual", 4))
    assert [g.name for g in every] == ["conv1, conv3 -> conv2, fc", "conv2 -> conv3"]
    assert [g.channels for g in every] == [4, 4]
    assert every[0].tensors == ("relu:relu", "conv3", "relu:relu.2")
    # each of its 4 channels is 4 x 4 columns of the classifier
    (where,) = (w for r, w in every[0].readers if r.op == "fc")
    assert where.tolist() == [channel for channel in range(4) for _ in range(16)]
    assert reasons(found) == ("fc: left alone, its output is an output of the model",)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 20.0), min_size=4, max_size=4), st.integers(0, 1))
def test_any_factors_leave_the_function_but_for_rounding(factors: list[float], which: int) -> None:
    own = simulator("residual")
    every, _ = groups(own, networks.data("residual", 4))
    scaled = Scaled(own.graph)
    scaled.scale(every[which], torch.tensor(factors, dtype=torch.float64))
    other = Simulator(tuned_graph(own.graph, scaled.tuned())).program
    batch = next(networks.data("residual", 8).batches(8))
    before = own.program.run(own.program.inputs(batch))[0]
    torch.testing.assert_close(other.run(other.inputs(batch))[0], before, rtol=1e-4, atol=1e-4)


# ---- clamps ----


def clamped(weight: list[float], bias: list[float]) -> Simulator:
    """ReLU6, then one weight per channel, then ReLU6, then a linear: inputs in [0, 6] are known."""
    first, last = nn.Linear(1, 1), nn.Linear(len(weight), 1)
    middle = nn.Linear(1, len(weight))
    with torch.no_grad():
        middle.weight.copy_(torch.tensor(weight)[:, None])
        middle.bias.copy_(torch.tensor(bias))
    model = nn.Sequential(first, nn.ReLU6(), middle, nn.ReLU6(), last)
    return of_module(model, torch.randn(4, 1, generator=generator())).simulator


def test_a_channel_that_never_reaches_the_clamp_is_free_up_to_its_bound() -> None:
    # reaches 6 * 0.25 + 1.5 = 3, half of the limit; 6 * 1 + 0 = 6, just it; 6 * 2 = 12, beyond
    own = clamped([0.25, 1.0, 2.0, -3.0], [1.5, 0.0, 0.0, 0.0])
    (group,), found = (g := groups(own, own_data()))[0], g[1]
    assert group.name == "2 -> 4"
    assert group.channels == 3
    assert group.floor.tolist() == [0.5, 1.0, 0.0]
    assert reasons(found)[1] == "2: left alone, its output may reach the clamp at 6"


def own_data() -> Data:
    return as_data((torch.randn(4, 1, generator=generator()), None), "data")


def test_a_clamp_of_what_has_no_bounds_ends_a_group() -> None:
    own = of_module(nn.Sequential(nn.Linear(1, 4), nn.ReLU6(), nn.Linear(4, 1)), torch.ones(4, 1))
    every, found = groups(own.simulator, own_data())
    assert every == ()
    assert reasons(found) == (
        "0: left alone, its output goes through hardtanh, which no factor passes",
        "2: left alone, its output is an output of the model",
    )


def test_a_clamp_to_zero_and_infinity_is_a_relu() -> None:
    model = Wrapped(lambda m, x: m.b(m.a(x).clamp(min=0)), a=nn.Linear(1, 4), b=nn.Linear(4, 1))  # type: ignore[operator]
    own = of_module(networks.made(model), torch.ones(4, 1))
    assert [g.name for g in groups(own.simulator, own_data())[0]] == ["a -> b"]


# ---- what may not be scaled ----


class Tied(nn.Module):
    """One weight, read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(F.relu(self.a(x)))
        return out


def product(m: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = m.c(m.a(x) * m.b(x))  # type: ignore[operator]
    return out


def shifted(m: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = m.b(m.a(x) + 1.0)  # type: ignore[operator]
    return out


def mixed(m: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = m.b(m.a(x) + x)  # type: ignore[operator]
    return out


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            lambda: Wrapped(product, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4)),
            "a, b: left alone, its output goes through mul, which no factor passes",
        ),
        (
            lambda: Wrapped(shifted, a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
            "a: left alone, its output goes through add, which no factor passes",
        ),
        (
            lambda: Wrapped(mixed, a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
            "a: left alone, its output is added to a value that must keep its scale",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4)),
            "0: left alone, its output goes through layer_norm, which no factor passes",
        ),
    ],
    ids=["a product of both", "a number added", "the input added", "a norm"],
)
def test_what_is_not_homogeneous_keeps_its_scale(model: Callable[[], nn.Module], why: str) -> None:
    own = of_module(networks.made(model()), torch.randn(4, 4, generator=generator()))
    every, found = groups(own.simulator, own.calibration)
    assert every == ()
    assert why in reasons(found)


def test_a_weight_that_two_ops_read_keeps_its_scale() -> None:
    own = of_module(networks.made(Tied()), torch.randn(4, 4, generator=generator()))
    assert groups(own.simulator, own.calibration)[0] == ()


def test_a_weight_that_was_rounded_before_keeps_its_scale() -> None:
    graph = simulator("residual").graph
    limit = TunedWeights(limits={"conv2/weight": {8: torch.ones(4)}})
    own = Simulator(tuned_graph(graph, limit))
    every, found = groups(own, networks.data("residual", 4))
    assert every == ()
    assert (
        "conv1: left alone, its output is read by conv2: its weight was rounded or given a range "
        "before" in reasons(found)
    )


def test_the_graph_is_not_changed() -> None:
    own = simulator("residual")
    before = {n: get_attr(own.graph.module, n).clone() for n in own.graph.weights}
    every, _ = groups(own, networks.data("residual", 4))
    scaled = Scaled(own.graph)
    scaled.scale(every[0], torch.full((4,), 3.0, dtype=torch.float64))
    assert scaled.tuned().values
    assert all(torch.equal(get_attr(own.graph.module, n), v) for n, v in before.items())


# ---- stored weights ----


def test_rows_and_columns_of_a_grouped_convolution_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0], [-7.0, 8.0]]).reshape(4, 2, 1, 1)
    layout = Layout(groups=2)  # outputs 0 and 1 read inputs 0 and 1, outputs 2 and 3 the others
    assert layout.rows(weight).tolist() == [2.0, 4.0, 6.0, 8.0]
    assert layout.columns(weight).tolist() == [3.0, 4.0, 7.0, 8.0]
    wider = layout.multiplied(weight, torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert wider.flatten().tolist() == [1.0, -20.0, 3.0, 40.0, 500.0, 6000.0, -700.0, 8000.0]
    lower = layout.divided(weight, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert lower.flatten().tolist() == [1.0, -2.0, 1.5, 2.0, 1.25, 1.5, -0.875, 1.0]


def test_bounds_are_reached_by_the_worst_input() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    low, high = Layout().bounds(weight, torch.tensor([1.0, 0.0]), -1.0, 3.0)
    assert low.tolist() == [1.0 - 1.0 - 6.0, -0.75]
    assert high.tolist() == [1.0 + 3.0 + 2.0, 2.25]
