"""Sensitivity: the exact only-this sweep over all ops and the proxy, in plain forwards.

    python benchmarks/sensitivity.py [--images 32] [--batch 16] [--turns 3] [--threads 1]

The unit is one eager forward pass of the user's model, as it is, over the same images in the same
batches; it and each contender have a process of their own and take turns. The sweep is what
``Session.sensitivity`` does with a memory budget, from rounding the weights to the last interval;
``per_op`` divides it by the number of ops. ``naive`` is what a sweep without kept prefixes costs
at least: the whole simulated model once per op, timed for a few ops. The proxy's ranking is
compared with the exact one (Spearman).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from architectures import TIMED, architecture, images
from timing import Apart, report

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
from qviz.sensitivity import measure, spearman, targets_of, variant
from qviz.simulate import Simulator

NAIVE_OPS = 4


@dataclass(frozen=True)
class Setting:
    """What is timed, as the processes are told it."""

    name: str
    images: int
    batch: int
    budget: int
    calibrator: str
    threads: int


class Case:
    """One architecture with a recipe, and what is timed of it."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self.batch, self.budget = setting.batch, setting.budget
        self.data = as_data(images(setting.images, seed=1), "evaluation")
        shown = as_data(images(16, seed=2), "calibration")
        model = architecture(setting.name)
        self.graph: Graph = capture(model, next(iter(shown.head(2).batches(2))))
        self.simulator = Simulator(self.graph)
        grid = profile("cuda").activation_grid(8)
        found = Calibration(observe(self.simulator.program, shown), shown.count, grid)
        self.recipe: Recipe = make_recipe(found, setting.calibrator)
        self.groups = targets_of(self.recipe, self.graph, operands="both", granularity="op")
        self.reference = outputs(self.simulator.program, self.data, batch_size=self.batch)

    def estimate(self) -> dict[str, float]:
        edits = {
            key: self.simulator.edits(variant(self.recipe, names, "only_this"))
            for key, names in self.groups.items()
        }
        return proxy(self.simulator, self.data, edits)

    def sweep(self) -> dict[str, float]:
        found = measure(
            Simulator(self.graph),  # a new one: rounding the weights belongs to the cost
            self.data,
            self.recipe,
            self.reference,
            metric("agreement"),
            batch_size=self.batch,
            budget=self.budget,
        )
        return {row.name: row.divergence for row in found.rows}

    def naive(self) -> None:
        keys = list(self.groups)
        for key in keys[:: max(1, len(keys) // NAIVE_OPS)][:NAIVE_OPS]:
            edits = self.simulator.edits(variant(self.recipe, self.groups[key], "only_this"))
            outputs(self.simulator.program, self.data, edits, batch_size=self.batch)


def forward(setting: Setting) -> Callable[[], object]:
    """The unit: the user's model as it is, in a process that does nothing else."""
    torch.set_num_threads(setting.threads)
    model, x = architecture(setting.name), images(setting.images, seed=1)

    def run() -> None:
        with torch.no_grad():
            for part in x.split(setting.batch):
                model(part)

    return run


def contender(setting: Setting, what: str) -> Callable[[], object]:
    """What is measured against it."""
    run: Callable[[], object] = getattr(Case(setting), what)
    return run


def measured(setting: Setting, turns: int) -> dict[str, object]:
    """One row: everything in turns, each in its own process, medians of the ratios per turn."""
    runs = {name: Apart(contender, setting, name) for name in ("estimate", "sweep", "naive")}
    unit = Apart(forward, setting)
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    base: list[float] = []
    made: dict[str, object] = {}
    try:
        for run in (unit, runs["estimate"]):  # the sweep starts anew each time, and is long enough
            run.call(warm=True)
        for _ in range(turns):
            base.append(unit.call()[0])
            for name, run in runs.items():
                cpu, _, made[name] = run.call()
                ratios[name].append(cpu / base[-1])
    finally:
        for run in (unit, *runs.values()):
            run.close()
    exact, guess = (
        cast("dict[str, float]", made["sweep"]),
        cast("dict[str, float]", made["estimate"]),
    )
    found = {name: statistics.median(values) for name, values in ratios.items()}
    pairs = torch.tensor([(exact[name], guess[name]) for name in exact], dtype=torch.float64)
    return {
        "ops": len(exact),
        "images": setting.images,
        "batch": setting.batch,
        "proxy_forwards": found["estimate"],
        "spearman": spearman(pairs[:, 0], pairs[:, 1]),
        "sweep_forwards": found["sweep"],
        "sweep_per_op": found["sweep"] / len(exact),
        "naive_per_op": found["naive"] / NAIVE_OPS,
        "forward_ms": statistics.median(base) * 1e3,
        "turns": turns,
    }


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
    rows: list[dict[str, object]] = []
    for title, name in TIMED.items():
        if options.only not in (None, name):
            continue
        setting = Setting(
            name,
            options.images,
            options.batch,
            int(options.budget * 2**30),
            options.calibrator,
            options.threads,
        )
        rows.append({"model": title, **measured(setting, options.turns)})
        report("sensitivity", rows[-1:], keep=False)
    if options.only is None:
        report("sensitivity", rows)


if __name__ == "__main__":
    main()
