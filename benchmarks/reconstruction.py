"""Reconstruction: AdaRound and AdaQuant beside plain rounding, on samples that no fit has seen.

    python benchmarks/reconstruction.py [--models resnet,vit] [--settings 8W8A,4W8A,4W4A]
        [--also NAME=FILE.py:MODEL,CAL,EVAL] [--metric FILE.py:FUNCTION] [--qat-samples 1000000]

For each model and setting, first and last layers at 8 bits: the best calibrated recipe (``plain``),
and each method from there, parallel and sequential, with the relative change of the metric from
float, its 95 % paired bootstrap interval, and the divergence, all on the whole evaluation data. The
losses are means over the ops, on calibration samples held out from every fit (``held_out``) and on
those fitted on: where the second falls and the first does not, a fit has learned its samples.
``worse`` counts ops with a larger held-out loss than before; there must be none.

``train_samples`` is the cost: how many training samples take as many multiply-accumulates, three
forwards each. ``cheaper`` divides ``--qat-samples`` by it, the samples of the training run that
reconstruction replaces: a million is a tenth of 200 epochs over CIFAR-10. Replaces the rows that it
measures again in ``results/reconstruction.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from accuracy import SAMPLES, SETTINGS, measured, opened, start_of
from timing import RESULTS, report, write

from qviz.calibrators import DEFAULT_CANDIDATES
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tune.reconstruction import UNIT

METHODS = (
    ("adaround", "parallel"),
    ("adaround", "sequential"),
    ("adaquant", "parallel"),
    ("adaquant", "sequential"),
)


def rows(session: Session, start: Recipe, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Plain rounding, and every method from there."""
    yield measured(session, "plain", start)
    for name, mode in METHODS:
        if name not in options.methods:
            continue
        began = time.process_time()
        made = session.tune(name, start, mode=mode, **options.given)
        spent = time.process_time() - began
        losses = [c for c in made.changes if c.unit == UNIT]
        record = dict(made.record)
        samples = float(record["macs"]) / (3 * session.graph.macs)
        yield measured(session, f"{name}, {mode}", made.recipe) | {
            "gain": made.gain,
            "gain_interval": None
            if made.interval is None
            else [made.interval.low, made.interval.high],
            "noise": made.noise,
            "ops": record["ops"],
            "improved": record["improved"],
            "worse": sum((c.after or 0.0) > (c.before or 0.0) for c in losses),
            "held_out_samples": record["held_out"],
            "fitted_samples": record["fitted"],
            "held_out": [record["held_out_before"], record["held_out_after"]],
            "fitted": [record["fitted_before"], record["fitted_after"]],
            "macs": record["macs"],
            "train_samples": round(samples),
            "cheaper": None if not options.qat_samples else options.qat_samples / samples,
            "options": dict(made.options),
            "seed": made.seed,
            "seconds": made.seconds,
            "cpu_seconds": spent,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SAMPLES))
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--metric")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--methods", type=lambda t: t.split(","), default=["adaround", "adaquant"])
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--qat-samples", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.given = {} if options.iterations is None else {"iterations": options.iterations}
    torch.set_num_threads(options.threads)
    path = RESULTS / "reconstruction.json"
    for text in (*filter(None, options.models.split(",")), *options.also):
        name, session = opened(text, options.metric)
        data = session.evaluation_data
        assert data is not None
        for setting in options.settings.split(","):
            start = start_of(session, SETTINGS[setting], DEFAULT_CANDIDATES)
            for row in rows(session, start, options):
                where = {"model": name, "setting": setting, "what": row["what"]}
                found = {**where, **row, "samples": data.count}
                report("reconstruction", [found], keep=False)
                before = json.loads(path.read_text())["rows"] if path.exists() else []
                kept = [r for r in before if {k: r[k] for k in where} != where]
                write("reconstruction", [*kept, found])


if __name__ == "__main__":
    main()
