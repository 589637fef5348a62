"""Range search: every default candidate of every tensor of ResNet-50, in seconds.

    python benchmarks/range_search.py [--images 16] [--turns 5] [--threads 1]

The histograms come from one small pass; the search does not depend on how many samples they hold.
Beside the whole, each kind of calibrator by itself, per tensor.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from architectures import architecture, images
from timing import report, timed

from qviz.affine import Grid
from qviz.calibrators import DEFAULT_CANDIDATES, candidates, clip_range
from qviz.capture import capture
from qviz.data import as_data
from qviz.execute import Program
from qviz.observe import observe

KINDS = ("max", "entropy", "percentile:99.99", "mse", "sqnr")


def median_seconds(run: Callable[[], object], turns: int) -> float:
    """Median CPU time, after one call to warm up."""
    run()
    return statistics.median(timed(run)[0] for _ in range(turns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50", help="name in timm")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = as_data(images(options.images), "images")
    graph = capture(architecture(options.model), next(iter(data.head(2).batches(2))))
    found = list(observe(Program(graph), data, chunk=8).values())
    rows: list[dict[str, object]] = []
    for title, grid in (("symmetric", Grid()), ("affine", Grid(symmetric=False))):

        def everything(grid: Grid = grid) -> None:
            for h in found:
                candidates(h, grid)

        row: dict[str, object] = {
            "model": options.model,
            "grid": title,
            "tensors": len(found),
            "candidates": len(DEFAULT_CANDIDATES),
            "all_seconds": median_seconds(everything, options.turns),
        }
        for kind in KINDS:

            def one(kind: str = kind, grid: Grid = grid) -> None:
                for h in found:
                    clip_range(h, kind, grid)

            seconds = median_seconds(one, options.turns)
            row[f"{kind.partition(':')[0]}_ms_per_tensor"] = seconds / len(found) * 1e3
        rows.append(row)
    report("range_search", rows, keep=options.model == "resnet50")


if __name__ == "__main__":
    main()
