"""Arguments of convolutions and pools as the kernels want them: every number there, no words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from qviz.rewrite import aten

#: Max-pools that have a kernel on codes, with the number of axes they pool.
MAX_POOLS = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
}

_CONV = ("x", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSE = (
    "x", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
)  # fmt: skip
_POOL = ("x", "kernel_size", "stride", "padding", "dilation", "ceil_mode")

Window = tuple[list[int], list[int], list[int], int]


def _given(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _each(value: Any, dims: int, default: int) -> list[int]:  # noqa: ANN401 - an fx argument
    if value is None or value == []:
        return [default] * dims
    values = [value] if isinstance(value, int) else list(value)
    return values if len(values) == dims else values * dims


def conv_arguments(node: fx.Node) -> tuple[Window, list[int]]:
    """(stride, padding, dilation, groups) of a convolution, and how to pad its input before.

    The second is empty unless ``padding="same"`` needs more at one side than at the other; it is
    written as ``constant_pad_nd`` takes it, last axis first.
    """
    given = _given(node, _CONV)
    kernel = [int(s) for s in given["weight"].meta["val"].shape[2:]]
    dims = len(kernel)
    stride, dilation = _each(given.get("stride"), dims, 1), _each(given.get("dilation"), dims, 1)
    padding = given.get("padding", 0)
    groups = int(given.get("groups", 1))
    if not isinstance(padding, str):
        return (stride, _each(padding, dims, 0), dilation, groups), []
    if padding == "valid":
        return (stride, [0] * dims, dilation, groups), []
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(t % 2 == 0 for t in total):
        return (stride, [t // 2 for t in total], dilation, groups), []
    pads = [p for t in reversed(total) for p in (t // 2, t - t // 2)]
    return (stride, [0] * dims, dilation, groups), pads


def transpose_arguments(node: fx.Node) -> tuple[list[int], list[int], list[int], list[int], int]:
    """(stride, padding, output_padding, dilation, groups) of a transposed convolution."""
    given = _given(node, _TRANSPOSE)
    dims = given["weight"].meta["val"].dim() - 2
    return (
        _each(given.get("stride"), dims, 1),
        _each(given.get("padding"), dims, 0),
        _each(given.get("output_padding"), dims, 0),
        _each(given.get("dilation"), dims, 1),
        int(given.get("groups", 1)),
    )


def pool_arguments(node: fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of ``qviz::max_pool`` for a max-pool node whose new arguments are ``args``."""
    given = dict(zip(_POOL, args, strict=False)) | dict(node.kwargs)
    dims = MAX_POOLS[node.target]  # type: ignore[index]
    kernel = _each(given["kernel_size"], dims, 1)
    return (
        given["x"],
        kernel,
        kernel if not given.get("stride") else _each(given["stride"], dims, 1),
        _each(given.get("padding"), dims, 0),
        _each(given.get("dilation"), dims, 1),
        bool(given.get("ceil_mode", False)),
    )
