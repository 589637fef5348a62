"""Each aten op that can be written as ONNX is the same function in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import onnx_kit as kit
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qviz.errors import UnsupportedModelError
from qviz.export.onnx_model import onnx_model
from qviz.simulate import Simulator

Many = tuple[Tensor, ...]


def arithmetic(x: Tensor) -> Many:
    return (
        *(x * 2 + 1 - x / 3, torch.sub(x, x.abs(), alpha=2), x.pow(2), x.abs().pow(0.5), -x),
        *(x.sum((1, 2)), x.mean(-1, keepdim=True), x.amax(-1), x.amin(1), x.cumsum(1)),
        *(torch.rsqrt(x.abs() + 1), x.exp(), x.sin() + x.cos(), torch.erf(x), x.floor()),
        *(torch.div(x, 0.3, rounding_mode="floor"), x.square(), x.abs().log(), x.reciprocal()),
        *(torch.maximum(x, x * 2), torch.minimum(x, -x), x.clamp(-0.5, 0.5), x.clamp(min=0.1)),
    )


def activations(x: Tensor) -> Many:
    return (
        *(F.relu6(x * 9), F.hardtanh(x), F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh")),
        *(F.hardswish(x * 4), F.hardsigmoid(x * 4), F.elu(x), F.leaky_relu(x, 0.2), F.softplus(x)),
        *(F.mish(x), x.softmax(-1), x.log_softmax(1), x.sigmoid(), x.tanh(), F.selu(x)),
    )


def logic(x: Tensor) -> Many:
    return (
        *(x > 0, x.le(x.mean()), (x == x) & (x != 0.5), (x.int() >= 1) | ~(x < 0)),
        *(torch.where(x > 0, x, 0.0), x.masked_fill(x < 0, -9.0), x.argmax(2), x.argmin(1)),
        *(x.to(torch.int64).float(), x.int() + 2, x.gt(x.flip(1)), torch.where(x > 0, x, -x)),
    )


def moves(x: Tensor) -> Many:
    return (
        *(x.reshape(-1, 6, 8), x.reshape(x.shape[0] * 4, 12), x.flatten(1), x.flatten(2)),
        *(x.permute(0, 3, 1, 2), x.transpose(1, -1), x[:, 1:3], x[:, :, ::2, -2:], x[:, 0]),
        *(x.unsqueeze(1).expand(-1, 3, -1, -1, -1), x.mean(1, True).squeeze(1), x.movedim(1, 2)),
        *(*x.split(2, 1), *x.chunk(3, -1), *x.unbind(1), *x.split([1, 3], 1), x.repeat(1, 2, 1, 3)),
        *(torch.cat([x, x * 2], 1), torch.stack([x, -x], 2), x.roll((1, -2), (1, 3)), x.flip(2)),
        *(F.pad(x, (1, 2, 0, 1)), F.pad(x, (0, 1), value=2.0), F.pixel_shuffle(x, 2)),
        *(F.pad(x, (1, 1, 0, 1), mode="reflect"), F.pad(x, (1, 0, 0, 1), mode="replicate")),
        *(x.repeat_interleave(2, 1), x.tril(), x.triu(1), x.unflatten(1, (2, 2))),
        *(x[:, :1].expand_as(x), F.normalize(x, dim=1), x.abs().sum(1).unsqueeze(0).squeeze()),
    )


def made(x: Tensor) -> Many:
    first = torch.zeros(x.shape[0], dtype=torch.long)
    return (
        *(x[:, torch.tensor([2, 0])], x.index_select(2, torch.tensor([1])), torch.ones_like(x)),
        *(torch.arange(x.shape[0]), torch.zeros(x.shape[0], 2), x.new_full((x.shape[0], 1), 3.0)),
        *(x.gather(1, x.argmax(1, True)), x[torch.arange(x.shape[0]), first]),
    )


def windows(x: Tensor) -> Many:
    return (
        *(
            F.max_pool2d(x, 2, ceil_mode=True),
            F.avg_pool2d(x, 3, 1, 1),
            F.adaptive_avg_pool2d(x, 1),
        ),
        *(F.max_pool1d(x[:, 0], 2), F.avg_pool1d(x[:, 0], 2, 2), F.group_norm(x, 2)),
        *(F.layer_norm(x, (4,)), F.layer_norm(x, (3, 4)), F.instance_norm(x)),
        *(F.adaptive_avg_pool2d(x, (3, 2)), F.interpolate(x, scale_factor=2.0)),
        *(F.interpolate(x, size=(6, 9), mode="bilinear"), F.max_pool2d(x, 3, 2, 1, 1)),
    )


@pytest.mark.parametrize("function", [arithmetic, activations, logic, moves, made, windows])
def test_ops_without_weights_are_the_same_in_onnxruntime(function: Callable[..., Many]) -> None:
    _same(kit.Function(function), kit.images(2, 4, 3, 4))


class Layers(nn.Module):
    """Layers over the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(4, 6, 3, 2, 1, 2, 2, padding_mode="zeros"),
                nn.Conv2d(4, 4, (1, 3), padding="same", groups=4),
                nn.ConvTranspose2d(4, 3, 3, 2, 1, 1),
                nn.Linear(4, 5, bias=False),
                nn.Linear(4, 5),
                nn.BatchNorm2d(4),
                nn.GroupNorm(2, 4),
                nn.PReLU(4),
                nn.LayerNorm(4, bias=False),
            ]
        )
        self.table = nn.Embedding(8, 3)

    def forward(self, x: Tensor) -> Many:
        ids = (x.abs() * 3).long().clamp(max=7)
        flat = self.layers[4](x[:, 0, 0])
        return (*(layer(x) for layer in self.layers), self.table(ids), flat)


def test_layers_are_the_same_in_onnxruntime() -> None:
    _same(Layers(), kit.images(2, 4, 4, 4))


def _same(model: nn.Module, x: Tensor) -> None:
    graph = kit.captured(model, x)
    larger = torch.cat([x, x[:1] * 0.5])  # another batch than it was captured with
    got, want = kit.under_onnxruntime(graph, larger)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.allclose(mine.double(), theirs.double(), atol=1e-5), (mine, theirs)


def test_an_op_without_a_translation_is_refused_with_its_line() -> None:
    graph = kit.captured(kit.Function(lambda x: torch.linalg.det(x)), kit.images(2, 3, 3))
    with pytest.raises(UnsupportedModelError) as refused:
        onnx_model(Simulator(graph), None)
    op = next(op for op in graph.ops.values() if op.name == refused.value.thing)
    assert refused.value.reason == (
        f"{op.target} at {op.source} cannot be written as ONNX: there is no translation of it"
    )
    assert refused.value.cure == (
        "Write it with other operations in forward, or export another format"
    )
    assert op.source.endswith(tuple("0123456789"))


def test_windows_of_unequal_size_are_refused() -> None:
    graph = kit.captured(
        kit.Function(lambda x: F.adaptive_avg_pool2d(x, 3)), kit.images(2, 1, 4, 4)
    )
    with pytest.raises(
        UnsupportedModelError, match=r"windows of unequal size, \[4, 4\] to \[3, 3\]"
    ):
        onnx_model(Simulator(graph), None)
