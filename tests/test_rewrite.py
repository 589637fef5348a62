"""Rewrites: what changes in the graph computes the same as before."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import batch, made, run
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from qviz.capture import capture
from qviz.graph import Graph

IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, x: Tensor, *, fold: bool = True, samples: int = 3) -> Graph:
    """Capture; the graph must give what the model gives, and leave its input alone."""
    model = made(model)
    graph = capture(model, batch(x), fold_batch_norm=fold)
    given = torch.cat([x, x.flip(0) * 0.5])[:samples]
    with torch.no_grad():
        # in float64, so that the order of a sum does not matter
        want = copy.deepcopy(model).double()(given.double())
    before = given.clone()
    (found,) = run(graph, given)
    torch.testing.assert_close(found, want.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(given, before)
    return graph


# batch norm

LAYERS: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), IMAGES[..., 0]),
    "conv2d": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), IMAGES),
    "conv2d without bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), IMAGES),
    "grouped conv2d": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), IMAGES),
    "same padding": (nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), IMAGES),
    "conv3d": (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), IMAGES[..., None].repeat(1, 1, 1, 1, 3)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), IMAGES[..., 0]),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), IMAGES),
    "grouped conv_transpose2d": (
        nn.ConvTranspose2d(4, 6, 3, groups=2, output_padding=1, stride=2, dilation=2),
        nn.BatchNorm2d(6),
        IMAGES,
    ),
    "linear": (nn.Linear(8, 6), nn.BatchNorm1d(6), TOKENS[:, 0]),
    "norm without scale": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), IMAGES),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_folded_batch_norm_computes_the_same(case: str) -> None:
    layer, norm, x = LAYERS[case]
    graph = check(nn.Sequential(layer, norm), x)
    assert list(graph.ops) == ["0"]
    assert graph.folded == {"1": "0"}


def test_folding_is_exact_to_the_last_bits_of_float64_arithmetic() -> None:
    conv, norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    model = made(nn.Sequential(conv, norm))
    graph = capture(model, batch(IMAGES))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    gamma, beta, mean = norm.weight.double(), norm.bias.double(), norm.running_mean.double()
    factor = gamma / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * factor[:, None, None, None]
    bias = (conv.bias.double() - mean) * factor + beta
    state = graph.module.state_dict()
    torch.testing.assert_close(state["0.weight"].double(), weight, rtol=2**-24, atol=1e-30)
    torch.testing.assert_close(state["0.bias"].double(), bias, rtol=2**-24, atol=1e-30)


def test_folding_can_be_switched_off() -> None:
    graph = check(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGES, fold=False)
    assert list(graph.ops) == ["0", "1"]
    assert graph.folded == {}
    assert graph.ops["1"].reason == "not folded into the conv2d before it"


class Shared(nn.Module):
    """One convolution, called twice, with a batch norm of its own behind each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.conv(self.first(self.conv(x))))
        return out


def test_a_shared_convolution_gets_one_folded_weight_per_call() -> None:
    graph = check(Shared(), IMAGES)
    weights = [o.tensor for o in graph.operands.values() if o.kind == "weight"]
    assert weights == ["conv.call1.weight", "conv.weight"]
    assert graph.folded == {"first": "conv:conv2d", "second": "conv:conv2d.1"}


class Unfoldable(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(6, 6)
        self.norm = nn.BatchNorm2d(4, track_running_stats=kind != "batch statistics")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x) if self.kind == "channels not of the linear" else self.conv(x)
        if self.kind == "other readers":
            out: Tensor = self.norm(y) * y
            return out
        if self.kind == "relu between":
            y = y.relu()
        if self.kind == "computed scale":
            mean, var = self.norm.running_mean, self.norm.running_var
            return F.batch_norm(y, mean, var, self.norm.weight * 2, self.norm.bias)
        out = self.norm(y)
        return out


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("other readers", "the conv2d before it has other readers, so it cannot be folded"),
        ("relu between", "no conv or linear directly before it to be folded into"),
        ("computed scale", "not folded into the conv2d before it"),
        ("channels not of the linear", "not folded into the linear before it"),
        (
            "batch statistics",
            "normalizes with the statistics of the batch, so there is nothing to fold",
        ),
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays_with_its_reason(kind: str, reason: str) -> None:
    graph = check(Unfoldable(kind), IMAGES)
    (norm,) = (op for op in graph.ops.values() if op.type == "batch_norm")
    assert norm.reason == reason
    assert graph.folded == {}


def test_a_weight_of_another_name_can_be_folded() -> None:
    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.empty(6, 4, 3, 3))
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(F.conv2d(x, self.kernel))
            return out

    assert check(Kernel(), IMAGES).folded == {"norm": "conv2d"}


# weights that are computed


class Standardized(nn.Conv2d):
    """A convolution whose weight is normalized on every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize(
    "layer",
    [weight_norm(nn.Conv2d(4, 6, 3)), Standardized(4, 6, 3)],
    ids=["weight norm", "standardized"],
)
def test_a_weight_made_from_parameters_alone_is_stored_and_quantizable(layer: nn.Module) -> None:
    graph = check(nn.Sequential(layer, nn.BatchNorm2d(6)), IMAGES)
    assert list(graph.operands) == ["0/input", "0/weight"]
    assert graph.folded == {"1": "0"}


def test_a_transposed_weight_has_its_channels_on_the_last_axis() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.t()

    graph = check(Transposed(), TOKENS)
    assert graph.operands["matmul/weight"].axis == 1


# in-place ops


class Mutating(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Conv2d(4, 4, 3, padding=1)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.fc(x))


def iadd(y: Tensor) -> Tensor:
    z = y.exp()
    z += y
    return z * z


def relu_twice(y: Tensor) -> Tensor:
    before = y * 2
    F.relu_(y)
    return before + y


def view(y: Tensor) -> Tensor:
    y[:, 0].mul_(2)
    return y


def item(y: Tensor) -> Tensor:
    y[:, 1] = 0
    return y


def viewed(y: Tensor) -> Tensor:
    z = y.transpose(1, 2)
    y.add_(1)
    return z


def moved(y: Tensor) -> Tensor:
    y.movedim(1, -1).mul_(2)
    return y


def chunk(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    a.add_(b)
    return y


def split(y: Tensor) -> Tensor:
    y.split([1, 3], 1)[1].mul_(2)
    return y


@pytest.mark.parametrize(
    "change",
    [iadd, relu_twice, view, item, viewed, moved, chunk, split],
    ids=lambda f: f.__name__,
)
def test_in_place_ops_become_functional(change: Callable[[Tensor], Tensor]) -> None:
    graph = check(Mutating(change), IMAGES)
    targets = [n.target for n in graph.module.graph.nodes if n.op == "call_function"]
    schemas = [t._schema for t in targets if isinstance(t, torch._ops.OpOverload)]
    assert not any(s.is_mutable for s in schemas)


def test_changing_the_input_in_place_leaves_the_caller_s_tensor() -> None:
    class Normalizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x.sub_(0.5).div_(2))
            return out

    model = made(Normalizes())
    graph = capture(model, batch(TOKENS.clone()))
    given = TOKENS.clone()
    (found,) = run(graph, given)
    assert torch.equal(given, TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(found, model(TOKENS.clone()))


def test_a_buffer_that_counts_calls_counts_none_in_the_graph() -> None:
    class Counts(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out: Tensor = self.fc(x) * self.calls
            return out

    model = Counts().eval()
    graph = capture(model, batch(TOKENS))
    (first,), (second,) = run(graph, TOKENS), run(graph, TOKENS)
    assert torch.equal(first, second)
    assert float(model.calls) == 0


# attention


class Attends(nn.Module):
    def __init__(self, mask: Tensor | None = None, **options: object) -> None:
        super().__init__()
        self.options = options
        self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 2).transpose(1, 2)
        heads = 2 if self.options.get("enable_gqa") else 4
        kv = self.kv(x).view(b, n, 4, 2).transpose(1, 2)[:, :heads]
        mask = self.mask
        if isinstance(mask, Tensor) and mask.is_floating_point():
            mask = mask.to(x.dtype)
        options: dict[str, object] = {"attn_mask": mask, **self.options}
        return F.scaled_dot_product_attention(q, kv, kv * 2, **options)  # type: ignore[arg-type]


SEEN = torch.rand(5, 5, generator=torch.Generator().manual_seed(2)) > 0.4


@pytest.mark.parametrize(
    "model",
    [
        Attends(),
        Attends(SEEN | torch.eye(5, dtype=torch.bool)),
        Attends(SEEN & (torch.arange(5) != 2)[:, None]),
        Attends(torch.randn(5, 5, generator=torch.Generator().manual_seed(3))),
        Attends(torch.zeros(5, 5).masked_fill(~SEEN & (torch.arange(5) == 1)[:, None], -torch.inf)),
        Attends(is_causal=True),
        Attends(scale=0.3),
        Attends(enable_gqa=True),
    ],
    ids=["plain", "bool mask", "bool mask that hides a row", "float mask", "infinite mask",
         "causal", "scale", "grouped queries"],
)  # fmt: skip
def test_decomposed_attention_computes_the_same(model: nn.Module) -> None:
    graph = check(model, TOKENS)
    assert [op.type for op in graph.quantizable].count("matmul") == 2
    assert [op.type for op in graph.ops.values()].count("softmax") == 1


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_torch_s_own_attention_module_shows_its_products(batch_first: bool, weights: bool) -> None:
    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            y = x if batch_first else x.transpose(0, 1)
            out: Tensor = self.attn(y, y, y, need_weights=weights)[0]
            return out if batch_first else out.transpose(0, 1)

    graph = check(Torch(), TOKENS)
    assert [op.type for op in graph.quantizable] == ["linear", "matmul", "matmul", "linear"]


def test_torch_s_encoder_layer_shows_its_products() -> None:
    graph = check(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), TOKENS)
    kinds = [op.type for op in graph.quantizable]
    assert kinds == ["linear", "matmul", "matmul", "linear", "add", "linear", "linear", "add"]


# the rest


def test_dropout_and_copies_are_dropped() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Linear(8, 4), nn.Dropout(0.5))
    assert list(check(model, TOKENS).ops) == ["2"]


def test_squeezing_never_takes_the_batch_axis_of_a_single_sample() -> None:
    class Squeezes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.pool(x).squeeze())
            return out

    graph = check(Squeezes(), IMAGES)
    assert run(graph, IMAGES[:1])[0].shape == (1, 3)


def test_a_view_of_a_channels_last_value_works() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y.view(y.shape[0], -1).view_as(y)

    check(Views(), IMAGES)
