"""``qviz sizes``: what the weights of a checkpoint take in every form they can be stored in."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_progress import Meter

if TYPE_CHECKING:
    from qviz.int8.checkpoint_sizes import CheckpointSizes
    from qviz.tune.sizes import WeightSize

HEADS = (
    "weight<",
    "bits",
    "weights",
    "zero",
    "codes",
    "float",
    "int8",
    "packed",
    "indexed",
    "Huffman",
    "entropy",
    "of<",
)
LEGEND = (
    "in bytes, scales included",
    "packed   as the checkpoint has it: two codes of at most 4 bits in a byte",
    "indexed  each different code by its number, and a list of the codes",
    "Huffman  coded, table included, of all codes (dense) or of the values between zeros (sparse);",
    "         decoded again and compared",
    "entropy  the bound for dense codes",
)


def sizes(options: argparse.Namespace) -> int:
    """Print it."""
    from qviz.int8.checkpoint_sizes import checkpoint_sizes

    with Meter(quiet=options.quiet) as meter:
        found = checkpoint_sizes(options.folder, progress=meter.tell)
        meter.flush()
    print(as_json.text(_plain(found)) if options.json else _lines(found, options.top), flush=True)
    return 0


def _plain(found: CheckpointSizes) -> dict[str, object]:
    values: dict[str, object] = as_json.plain(found)
    return {**values, "total": found.total}


def _lines(found: CheckpointSizes, top: int) -> str:
    largest = sorted(found.weights, key=lambda row: -row.float_bytes)
    shown = largest[:top]
    if len(largest) > top:
        left = len(largest) - top
        head = f"the {top} largest weights, {left} more in the total"
    else:
        head = f"{len(largest)} weights"
    lines = [head, show.table(HEADS, [_row(row) for row in (*shown, found.total)])]
    lines += [f"  {line}" for line in LEGEND]
    whole = found.total
    for name, size in (
        ("float", found.float_bytes),
        ("int8", whole.int8_bytes + found.rest_bytes),
        ("packed", whole.packed_bytes + found.rest_bytes),
        ("smallest", sum(row.smallest for row in found.weights) + found.rest_bytes),
    ):
        share = show.percent(size / max(1, found.float_bytes))
        lines.append(f"{name:<12} {show.count(size)}B of parameters, {share} of float")
    lines.append(f"rest         {show.count(found.rest_bytes)}B of it are no integer weights")
    files = ", ".join(f"{name} {show.count(size)}B" for name, size in found.files.items())
    return "\n".join((*lines, f"files        {files}"))


def _row(row: WeightSize) -> tuple[str, ...]:
    return (
        row.name,
        str(row.bits) if row.bits else "mixed",
        f"{row.count:,}",
        show.percent(row.zeros / max(1, row.count)),
        str(row.distinct),
        *(
            f"{size:,}"
            for size in (
                row.float_bytes,
                row.int8_bytes,
                row.packed_bytes,
                row.indexed_bytes,
                row.coded_bytes,
                row.entropy_bytes,
            )
        ),
        row.form,
    )
