"""What the ops answer without computing: shape, dtype and layout, for torch.export and compilers.

Batch and image sizes may be symbols here; only the sizes of weights are numbers for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qviz.int8.layout import keeps_channels_last
from qviz.int8.operands import geometry

Arguments = Mapping[str, Any]


def _dtype(args: Arguments) -> torch.dtype:
    if args.get("out_scale") is not None:
        return torch.int8
    return args["out_dtype"] or torch.float32


def _each(values: list[int], dims: int) -> list[int]:
    return values if len(values) == dims else values * dims


def _quantize(args: Arguments) -> Tensor:
    return torch.empty_like(args["x"], dtype=torch.int8)


def _dequantize(args: Arguments) -> Tensor:
    return torch.empty_like(args["q"], dtype=_dtype(args))


def _linear(args: Arguments) -> Tensor:
    x: Tensor = args["x"]
    return x.new_empty((*x.shape[:-1], args["weight"].shape[0]), dtype=_dtype(args))


def _image(args: Arguments, channels: int, spatial: list[int]) -> Tensor:
    """An empty output of a convolution in the layout it will have."""
    x: Tensor = args["x"]
    out = x.new_empty((x.shape[0], channels, *spatial), dtype=_dtype(args))
    if not keeps_channels_last(x):
        return out
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return out.to(memory_format=layout)


def _conv(args: Arguments) -> Tensor:
    weight: Tensor = args["weight"]
    window = (args["stride"], args["padding"], args["dilation"], args["groups"])
    how = geometry(weight.dim() - 2, *window)
    return _image(args, weight.shape[0], how.out_size(args["x"].shape[2:], weight.shape[2:]))


def _conv_transpose(args: Arguments) -> Tensor:
    weight: Tensor = args["weight"]
    dims = weight.dim() - 2
    names = ("stride", "padding", "output_padding", "dilation")
    stride, padding, extra, dilation = (_each(args[k], dims) for k in names)
    spatial = [
        (size - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + extra[i]
        + 1
        for i, size in enumerate(args["x"].shape[2:])
    ]
    return _image(args, weight.shape[1] * args["groups"], spatial)


def _matmul(args: Arguments) -> Tensor:
    a: Tensor = args["a"]
    b: Tensor = args["b"]
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.new_empty((*batch, a.shape[-2], b.shape[-1]), dtype=_dtype(args))


def _add(args: Arguments) -> Tensor:
    a: Tensor = args["a"]
    b: Tensor = args["b"]
    if a.shape == b.shape:
        return torch.empty_like(a, dtype=_dtype(args))
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape), dtype=_dtype(args))


RULES: dict[str, Callable[[Arguments], Tensor]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "add": _add,
}


def _fake(name: str, rule: Callable[[Arguments], Tensor]) -> Callable[..., Tensor]:
    """``rule`` behind the op's own signature, defaults filled in from its schema."""

    def fake(*args: Any, **kwargs: Any) -> Tensor:
        schema = getattr(torch.ops.qviz, name).default._schema.arguments
        values = {each.name: each.default_value for each in schema if each.has_default_value()}
        values.update(zip((each.name for each in schema), args, strict=False))
        return rule({**values, **kwargs})

    return fake


def register(library: torch.library.Library) -> None:
    """Tell PyTorch every rule."""
    for name, rule in RULES.items():
        torch.library.register_fake(f"qviz::{name}", _fake(name, rule), lib=library)
