"""Exported ONNX files under ONNX Runtime: accuracy beside the simulation's, and speed beside float.

    python benchmarks/onnx_accuracy.py [--models resnet,vit] [--also NAME=FILE.py:MODEL,CAL,EVAL]

For each model and format: the metric in float, simulated and in ONNX Runtime on the whole
evaluation data; ``flips``, the samples that the last two put into different classes; and
``flips_of_simulation``, those that the simulation itself moves on up to ``--samples`` when PyTorch
computes it with other float kernels; ``flips_word_by_word``, those on which the file differs from
the simulation if ONNX Runtime fuses nothing. ``speed`` is ONNX Runtime's time
for the float file over that for the int8 file. ``--also`` adds a model from a Python file with
three factories: model, calibration and evaluation samples. Replaces the rows of its models in
``results/onnx.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import factories
from timing import RESULTS, ratios, report, write

import qviz
from qviz.data import Data
from qviz.evaluate import outputs
from qviz.export import export
from qviz.export.onnx_model import onnx_model
from qviz.export.onnx_run import Session as Onnx
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.simulate import Simulator

SAMPLES = ("resnet", "efficientnet", "vit")
FORMATS = ("onnx-tensorrt", "onnx-tensorrt-fp16", "onnx-ort-cpu")


def opened(text: str) -> tuple[str, Session]:
    """A name and a session, of a sample or of factories in a file."""
    if "=" not in text:
        return text, qviz.open(f"sample:{text}")
    name, (model, calibration, evaluation) = factories(text)
    return name, qviz.open(model, calibration=calibration, evaluation=evaluation)


def flips_of_simulation(simulator: Simulator, recipe: Recipe, data: Data) -> int:
    """Samples that change class when the simulation's sums are made in another order."""
    edits = simulator.edits(recipe)
    one = outputs(simulator.program, data, edits, batch_size=32).values
    with torch.backends.mkldnn.flags(enabled=False):
        other = outputs(simulator.program, data, edits, batch_size=32).values
    return int((one.argmax(1) != other.argmax(1)).sum())


def flips_word_by_word(path: Path, simulator: Simulator, recipe: Recipe, data: Data) -> int:
    """Samples that a file puts into another class than the simulation, computed unfused."""
    session = Onnx(path, fused=False)
    wanted = outputs(simulator.program, data, simulator.edits(recipe), batch_size=32).values
    made = torch.cat([session.run(batch)[0] for batch in data.batches(32)])
    return int((made.argmax(1) != wanted.argmax(1)).sum())


def rows(
    name: str, session: Session, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """What one model's files are worth."""
    session.calibrate()
    recipe = session.recipe(calibrator=options.calibrator)
    made = export(session, recipe, folder, formats=FORMATS)
    plain = Onnx(onnx_model(session.simulator, None).content())
    data = session.evaluation_data
    assert data is not None
    found = []
    for form in FORMATS:
        said = made[form]["onnxruntime"]
        parity = said["parity"]
        written = Recipe.from_json((folder / form / "recipe.json").read_text())
        few = data.head(options.samples)
        row = {
            "model": name,
            "format": form,
            "calibrator": recipe.calibrator,
            "metric": said["metric"],
            "float": said["float"],
            "simulated": said["simulated"],
            "onnxruntime": said["onnxruntime"],
            "samples": said["samples"],
            "flips": said["flips"],
            "flips_of_simulation": flips_of_simulation(session.simulator, written, few),
            "flips_word_by_word": flips_word_by_word(
                folder / form / "model.onnx", session.simulator, written, few
            ),
            "of_samples": few.count,
            "sqnr_db": said["sqnr_db"],
            "ops_compared": len(parity["rows"]),
            "outputs_compared": parity["count"],
            "one_step": parity["share"],
            "allowed": parity["allowed"],
            "more": parity["more"],
            "integer_kernels": sum(
                n for k, n in said["kernels"].items() if k.startswith(("QLinear", "MatMulInteger"))
            ),
            "left_float": len(said["left_float"]),
            "megabytes": made[form]["files"]["model.onnx"] / 1e6,
        }
        file = Onnx(folder / form / "model.onnx")
        for size in (1, 32):
            batch = next(data.batches(size))
            contenders = {form: partial(file.run, batch)}
            (ratio,) = ratios(partial(plain.run, batch), contenders, options.turns)
            row[f"speed_batch_{size}"] = 1 / ratio.cpu
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SAMPLES))
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--calibrator", default="auto")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: list[dict[str, Any]] = []
    path = RESULTS / "onnx.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    for text in (*filter(None, options.models.split(",")), *options.also):
        name, session = opened(text)
        with tempfile.TemporaryDirectory() as folder:
            found += rows(name, session, options, Path(folder))
        names = {row["model"] for row in found}
        report("onnx", found, keep=False)
        write("onnx", [row for row in before if row["model"] not in names] + found)


if __name__ == "__main__":
    main()
