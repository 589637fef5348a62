"""Calibration: histograms of all tensors and all candidate ranges, against one plain forward.

    python benchmarks/calibration.py [--images 128] [--batch 32] [--turns 3] [--threads 1]

The reference is an eager forward pass of the user's model, as it is, over the same images in
batches of ``--batch``. The contender is everything ``Session.calibrate`` does after capture: the
pass that collects, in chunks of the size it always takes, and every default candidate of every
tensor.

Memory: the peak of a process that calibrates over the peak of one that only runs the captured
model's plain forward, both on the same images, in units of the activations of one batch (all
outputs of all ops, each counted once).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from architectures import TIMED, architecture, images
from timing import peak_bytes, ratios, report
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qviz.affine import Grid
from qviz.calibrators import candidates
from qviz.capture import capture
from qviz.data import Data, as_data
from qviz.execute import Program
from qviz.histogram import Histogram
from qviz.observe import CHUNK, observe


def forward(model: nn.Module, x: Tensor, batch: int) -> Callable[[], object]:
    """The reference: the user's model, eager, batch by batch."""

    def run() -> None:
        with torch.no_grad():
            for part in x.split(batch):
                model(part)

    return run


def search(histograms: Mapping[str, Histogram]) -> None:
    """Every default candidate of every tensor."""
    for h in histograms.values():
        candidates(h, Grid())


class Case:
    """One architecture, captured, with its data and the four things that are timed."""

    def __init__(self, name: str, count: int, batch: int) -> None:
        self.model = architecture(name)
        self.x = images(count)
        self.batch = batch
        self.data: Data = as_data((self.x, torch.zeros(count, dtype=torch.int64)), "images")
        self.program = Program(capture(self.model, next(iter(self.data.head(2).batches(2)))))

    def collect(self) -> dict[str, Histogram]:
        return observe(self.program, self.data)

    def everything(self) -> None:
        search(self.collect())

    def graph_alone(self) -> None:
        for part in self.data.batches(CHUNK):
            self.program.run(self.program.inputs(part))


def memory(name: str, batch: int) -> dict[str, object]:
    """Peak memory of calibration beside that of the plain forward, each in its own process."""
    sizes = ["--images", str(3 * batch), "--batch", str(batch)]
    peaks = {
        what: int(
            subprocess.run(
                [sys.executable, str(Path(__file__)), "--peak", what, "--only", name, *sizes],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for what in ("forward", "calibration", "activations")
    }
    extra = peaks["calibration"] - peaks["forward"]
    return {
        "extra_mib": extra / 2**20,
        "batches_of_activations": extra / peaks["activations"],
        "activations_mib": peaks["activations"] / 2**20,
    }


def activation_bytes(case: Case) -> int:
    """Outputs of all ops for one batch; views share their memory."""
    values = case.program.inputs(next(iter(case.data.batches(case.batch))))
    case.program.run(values, keep=True)
    made = [values[step.slot] for step in case.program.steps]
    storages = [v.untyped_storage() for v in tree_leaves(made) if isinstance(v, Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def print_peak(what: str, case: Case) -> None:
    """In a process of its own: one number, the peak in bytes."""
    if what == "activations":
        print(activation_bytes(case))
        return
    forward(case.model, case.x[: case.batch], case.batch)()  # both hold what one forward leaves
    if what == "forward":
        forward(case.model, case.x, case.batch)()
    else:
        case.everything()
    print(peak_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=list(TIMED.values()))
    parser.add_argument("--peak", choices=["forward", "calibration", "activations"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for title, name in TIMED.items():
        if options.only not in (None, name):
            continue
        case = Case(name, options.images, options.batch)
        if options.peak:
            print_peak(options.peak, case)
            return
        histograms = case.collect()
        contenders: dict[str, Callable[[], object]] = {
            "whole calibration": case.everything,
            "pass with histograms": case.collect,
            "captured graph alone": case.graph_alone,
            f"candidates of {len(histograms)} tensors": lambda found=histograms: search(found),  # type: ignore[misc]
        }
        reference = forward(case.model, case.x, case.batch)
        for ratio in ratios(reference, contenders, options.turns):
            rows.append({"model": title, **ratio.as_row()})
        del case, contenders, reference, histograms
        rows.append({"model": title, "name": "peak memory", **memory(name, options.batch)})
    report("calibration", rows, keep=options.only is None)


if __name__ == "__main__":
    main()
