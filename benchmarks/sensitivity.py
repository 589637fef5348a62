"""Sensitivity: the exact only-this sweep over all ops and the proxy, in plain forwards.

    python benchmarks/sensitivity.py [--images 32] [--batch 16] [--turns 3] [--threads 1]

The unit is one eager forward pass of the user's model, as it is, over the same images in the same
batches. The sweep is what ``Session.sensitivity`` does with a memory budget, from rounding the
weights to the last interval; ``per_op`` divides it by the number of ops, which is what a sweep
without kept prefixes costs at least. ``naive`` is that: the whole simulated model once per op, for
a few ops, times their number. The proxy's ranking is compared with the exact one (Spearman).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from architectures import TIMED, architecture, images
from timing import ratios, report
from torch import Tensor

from qviz.calibration import Calibration, make_recipe
from qviz.capture import capture
from qviz.data import as_data
from qviz.evaluate import outputs
from qviz.graph import Graph
from qviz.metrics import metric
from qviz.observe import observe
from qviz.profiles import profile
from qviz.proxy import proxy
from qviz.recipe import Recipe
from qviz.sensitivity import Sensitivity, measure, spearman, targets_of, variant
from qviz.simulate import Simulator

NAIVE_OPS = 4


class Case:
    """One architecture with a recipe, the float outputs, and what is timed."""

    def __init__(self, name: str, count: int, batch: int, budget: int, calibrator: str) -> None:
        self.batch, self.budget = batch, budget
        self.model = architecture(name)
        self.x = images(count, seed=1)
        self.data = as_data(self.x, "evaluation")
        shown = as_data(images(16, seed=2), "calibration")
        self.graph: Graph = capture(self.model, next(iter(shown.head(2).batches(2))))
        simulator = Simulator(self.graph)
        grid = profile("cuda").activation_grid(8)
        found = Calibration(observe(simulator.program, shown), shown.count, grid)
        self.recipe: Recipe = make_recipe(found, calibrator)
        self.groups = targets_of(self.recipe, self.graph, operands="both", granularity="op")
        self.reference = outputs(simulator.program, self.data, batch_size=batch)
        self.simulator = simulator
        self.exact: Sensitivity | None = None
        self.guess: dict[str, float] = {}

    def forward(self) -> None:
        with torch.no_grad():
            for part in self.x.split(self.batch):
                self.model(part)

    def estimate(self) -> None:
        edits = {
            key: self.simulator.edits(variant(self.recipe, names, "only_this"))
            for key, names in self.groups.items()
        }
        self.guess = proxy(self.simulator, self.data, edits)

    def sweep(self) -> None:
        self.exact = measure(
            Simulator(self.graph),  # a new one: rounding the weights belongs to the cost
            self.data,
            self.recipe,
            self.reference,
            metric("agreement"),
            batch_size=self.batch,
            budget=self.budget,
        )

    def naive(self) -> None:
        keys = list(self.groups)
        for key in keys[:: max(1, len(keys) // NAIVE_OPS)][:NAIVE_OPS]:
            edits = self.simulator.edits(variant(self.recipe, self.groups[key], "only_this"))
            outputs(self.simulator.program, self.data, edits, batch_size=self.batch)

    def agreement(self) -> float:
        """Spearman's rank correlation of the proxy with the measured divergence."""
        assert self.exact is not None
        rows = self.exact.rows
        measured = torch.tensor([r.divergence for r in rows], dtype=torch.float64)
        guessed: Tensor = torch.tensor([self.guess[r.name] for r in rows], dtype=torch.float64)
        return spearman(measured, guessed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="GiB of kept values")
    parser.add_argument("--calibrator", default="max")
    parser.add_argument("--only", choices=list(TIMED.values()))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    budget = int(options.budget * 2**30)
    rows: list[dict[str, object]] = []
    for title, name in TIMED.items():
        if options.only not in (None, name):
            continue
        case = Case(name, options.images, options.batch, budget, options.calibrator)
        contenders: dict[str, Callable[[], object]] = {
            "proxy": case.estimate,
            "sweep": case.sweep,
            "naive": case.naive,
        }
        # the sweep starts from a new simulator each time, and is long enough
        timings = ratios(case.forward, contenders, options.turns, warm=("proxy",))
        found = {r.name: r for r in timings}
        ops = len(case.groups)
        rows.append(
            {
                "model": title,
                "ops": ops,
                "images": options.images,
                "batch": options.batch,
                "proxy_forwards": found["proxy"].cpu,
                "spearman": case.agreement(),
                "sweep_forwards": found["sweep"].cpu,
                "sweep_per_op": found["sweep"].cpu / ops,
                "naive_per_op": found["naive"].cpu / NAIVE_OPS,
                "forward_ms": found["sweep"].reference_ms,
                "turns": options.turns,
            }
        )
        report("sensitivity", rows[-1:], keep=False)
        del case, contenders
    if options.only is None:
        report("sensitivity", rows)


if __name__ == "__main__":
    main()
