"""One kernel call as a value: what runs, on which grid, and which tile sizes it could take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qviz.int8.cuda import tuning
from qviz.int8.cuda.tuning import Tile

Grid = Callable[[Mapping[str, int]], tuple[int, ...]]


class Launch(NamedTuple):
    """A kernel call without its tile.

    Attributes:
        kernel: the function Triton compiles.
        arguments: pointers and numbers, in order; the first is a tensor of the device.
        constants: what the kernel is compiled for.
        grid: number of programs for the sizes of a tile.
        tiles: the candidates; the first is taken where none is measured.
        key: what a measured tile holds for.
        of_tile: constants that follow from the sizes of a tile.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    constants: Mapping[str, object]
    grid: Grid
    tiles: tuple[Tile, ...]
    key: str
    of_tile: Callable[[Mapping[str, int]], dict[str, object]] = lambda sizes: {}


def start(call: Launch, tile: Tile) -> None:
    """Run a call with a tile."""
    sizes = tile.sizes
    call.kernel[call.grid(sizes)](
        *call.arguments,
        **call.constants,
        **call.of_tile(sizes),
        **sizes,
        num_warps=tile.warps,
        num_stages=tile.stages,
        # Contracted, a multiplication and an addition round once where the contract rounds twice.
        enable_fp_fusion=False,
    )


def run(call: Launch) -> None:
    """Run a call with the best tile known, on the device of its first argument."""
    first: Tensor = call.arguments[0]
    if not first.is_cuda:  # Triton's interpreter
        start(call, call.tiles[0])
        return
    with torch.cuda.device(first.device):
        start(
            call, tuning.best(call.kernel.__name__, call.key, call.tiles, lambda t: start(call, t))
        )


def ceil_div(a: int, b: int) -> int:
    """A / b, rounded up."""
    return -(-a // b)
