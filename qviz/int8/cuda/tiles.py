"""Candidate tile sizes of the matrix kernels, from the shape of the product alone.

Rows are output pixels or tokens, columns output channels. A tile must be small enough that enough
of them exist to fill the GPU, and large enough that its operands are read few times.
"""

from __future__ import annotations

from qviz.int8.cuda.launch import ceil_div
from qviz.int8.cuda.tuning import Tile, rounded_up

NAMES = ("BM", "BN", "BK")
#: (rows, columns, depth, warps, stages), the largest first. None spills registers on sm_80 or
#: sm_90 (tests/test_cuda_compiled.py).
PRODUCTS = (
    (128, 256, 64, 8, 4),
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
#: Tiles that a GPU should have to work on at a time: about its number of multiprocessors.
ENOUGH = 96
#: Candidates of one shape.
MOST = 6
#: An int8 tensor-core instruction multiplies 32 codes.
SHALLOWEST = 32
#: Below this a sum is short.
SHORT = 512


def product_tiles(rows: int, columns: int, depth: int) -> tuple[Tile, ...]:
    """Candidates for a product of these sizes: first the largest that leaves enough tiles.

    Args:
        rows: M.
        columns: N, of one group.
        depth: K; no tile is deeper than all of it.
    """
    most_rows, most_columns = max(rounded_up(rows), 16), max(rounded_up(columns), 32)
    # A short sum in steps that divide it; in a long one a part of the last step is no loss.
    step = depth & -depth if depth < SHORT else rounded_up(depth)
    most_depth = max(step, SHALLOWEST)
    shallow = {(bm, bn, min(bk, most_depth), w, s): None for bm, bn, bk, w, s in PRODUCTS}
    fitting = [t for t in shallow if t[0] <= most_rows and t[1] <= most_columns]
    first = next(
        (
            i
            for i, t in enumerate(fitting)
            if ceil_div(rows, t[0]) * ceil_div(columns, t[1]) >= ENOUGH
        ),
        len(fitting) - 1,
    )
    near = fitting[max(0, min(first - 2, len(fitting) - MOST)) :][:MOST]
    ordered = [fitting[first], *(t for t in near if t is not fitting[first])]
    return tuple(Tile(NAMES, (bm, bn, bk), w, s) for bm, bn, bk, w, s in ordered)
