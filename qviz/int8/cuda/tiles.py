"""Candidate tile sizes of the matrix kernels, from the shape of the product alone.

Rows are output pixels or tokens, columns output channels. A tile must be small enough that enough
of them exist to fill the GPU, and large enough that its operands are read few times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.int8.cuda.launch import ceil_div
from qviz.int8.cuda.tuning import Tile, rounded_up

NAMES = ("BM", "BN", "BK")
Sizes = tuple[int, int, int, int, int]
#: Rows, columns, depth, warps, stages; the largest first.
PRODUCTS: tuple[Sizes, ...] = (
    (128, 128, 128, 8, 3),
    (128, 128, 64, 8, 4),
    (128, 64, 128, 4, 3),
    (64, 128, 128, 4, 3),
    (64, 64, 128, 4, 4),
    (64, 32, 128, 4, 4),
    (32, 64, 128, 4, 4),
    (32, 32, 128, 2, 5),
    (16, 64, 128, 4, 5),
    (16, 32, 256, 2, 4),
)
#: Only where the tensor cores read shared memory themselves (Hopper) do registers suffice for this
#: one, and not for a residual beside it.
WIDEST: Sizes = (128, 256, 128, 8, 3)
#: For kernels that work out the address of every byte, which takes registers.
GATHERED: tuple[Sizes, ...] = (
    (128, 64, 32, 8, 2),
    (64, 64, 32, 4, 2),
    (64, 32, 32, 4, 2),
    (32, 32, 32, 2, 2),
    (16, 32, 64, 2, 2),
)
#: Tiles that a GPU should have to work on at a time: about its number of multiprocessors.
ENOUGH = 96
#: Candidates of one shape.
MOST = 6
#: An int8 tensor-core instruction multiplies 32 codes.
SHALLOWEST = 32
#: How much longer than the sum its steps may be together.
MOST_WASTE = 1.25


def deepest(depth: int) -> int:
    """The longest step in which a sum of ``depth`` products is made without much waste."""
    steps = (256, 128, 64)
    return next((s for s in steps if ceil_div(depth, s) * s <= MOST_WASTE * depth), SHALLOWEST)


def is_hopper(x: Tensor) -> bool:
    """Whether ``x`` lies on a GPU of compute capability 9."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9


def product_tiles(
    rows: int, columns: int, depth: int, *, times: int = 1, wide: bool = False
) -> tuple[Tile, ...]:
    """Candidates for a product of these sizes: first the largest that leaves enough tiles.

    Args:
        rows: M.
        columns: N, of one group.
        depth: K; no tile is deeper than its sum.
        times: how many such products the call is: groups, or matrices of a batch.
        wide: ``WIDEST`` may be among them.
    """
    table = (WIDEST, *PRODUCTS) if wide else PRODUCTS
    most = deepest(depth)
    shallow = {(bm, bn, min(bk, most), w, s): None for bm, bn, bk, w, s in table}
    return _near(tuple(shallow), rows, columns, times)


def gathered_tiles(rows: int, columns: int, *, times: int = 1) -> tuple[Tile, ...]:
    """Candidates for a kernel that reads byte by byte; arguments as of ``product_tiles``."""
    return _near(GATHERED, rows, columns, times)


def _near(table: tuple[Sizes, ...], rows: int, columns: int, times: int) -> tuple[Tile, ...]:
    most_rows, most_columns = max(rounded_up(rows), 16), max(rounded_up(columns), 32)
    fitting = [t for t in table if t[0] <= most_rows and t[1] <= most_columns]

    def count(tile: Sizes) -> int:
        return ceil_div(rows, tile[0]) * ceil_div(columns, tile[1]) * times

    last = len(fitting) - 1
    first = next((i for i, tile in enumerate(fitting) if count(tile) >= ENOUGH), last)
    start = max(0, min(first - 2, len(fitting) - MOST))
    chosen = [fitting[first], *(t for t in fitting[start : start + MOST] if t != fitting[first])]
    return tuple(Tile(NAMES, tile[:3], *tile[3:]) for tile in chosen)
