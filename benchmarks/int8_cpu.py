"""int8 on the CPU: qviz's integer ops and ONNX Runtime's, beside float.

    python benchmarks/int8_cpu.py [--models resnet50,...] [--batches 1,8] [--threads 1] [--turns 5]

The reference is an eager forward pass of the user's model; contenders are qviz's lowered program,
ONNX Runtime on the float graph, on qviz's ``onnx-ort-cpu`` file of the same ranges, and on ONNX
Runtime's own static quantization (QDQ, uint8 activations, int8 weights per channel) calibrated on
the same samples. ``speed_up`` is the reference's time over the contender's: of CPU time, and of
wall time, which is the one to read with more than one thread. How far each result is from float
stands beside it. ``--threads`` may be several; what is measured replaces those rows of the results.

Threads for which no processor is free spin while they wait for each other, up to ten times as long
as the work takes: more than one thread is worth measuring on a quiet machine only. Each row has the
load of the machine before and after.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from int8_timed import MODELS
from timing import RESULTS, ratios, report, write
from torch import Tensor, nn

from qviz.affine import Grid
from qviz.calibration import Calibration, make_recipe
from qviz.capture import capture
from qviz.data import Batch, as_data
from qviz.export.onnx_model import onnx_model
from qviz.export.onnx_ort_cpu import derived
from qviz.export.onnx_run import Session
from qviz.int8.lower import lower
from qviz.observe import observe
from qviz.simulate import Simulator

Run = Callable[[Tensor], Tensor]
#: What tells one row from another.
KEYS = ("model", "batch", "threads", "name")


class Prepared:
    """One model in all its forms, made once."""

    def __init__(self, model: nn.Module, shown: Tensor, folder: Path) -> None:
        data = as_data(shown, "calibration")
        graph = capture(model, next(iter(data.head(2).batches(2))))
        simulator = Simulator(graph)
        found = Calibration(observe(simulator.program, data), data.count, Grid())
        recipe = make_recipe(found, "max")
        self.lowered = lower(graph, recipe, simulator)
        for_ort: dict[str, Any] = {"transposed_weights": True, "carry": True}
        plain = onnx_model(simulator, None).content()
        own = onnx_model(simulator, derived(recipe, graph), **for_ort).content()
        self.files = {"float": folder / "float.onnx", "qviz's file": folder / "qviz.onnx"}
        for name, content in (("float", plain), ("qviz's file", own)):
            self.files[name].write_bytes(content)
        self.files["its own quantization"] = folder / "int8.onnx"
        quantize(self.files["float"], self.files["its own quantization"], shown)

    def runs(self, threads: int) -> dict[str, Run]:
        """The contenders."""
        kernels = {row.op: row.kernel for row in self.lowered.rows}
        ops = self.lowered.graph.quantizable
        integer = sum(kernels[op.name].startswith("int8") for op in ops)

        def own(x: Tensor) -> Tensor:
            with torch.no_grad():
                made: Tensor = self.lowered.module(x)
            return made

        found: dict[str, Run] = {f"qviz int8, {integer} of {len(ops)} ops": own}
        for name, file in self.files.items():
            title = "float" if name == "float" else f"int8, {name}"
            found[f"ONNX Runtime {title}"] = _onnx(file, threads)
        return found


def _onnx(file: Path, threads: int) -> Run:
    session = Session(file, threads=threads)
    return lambda x: session.run(Batch((x,), {}, None, len(x)))[0]


def quantize(source: Path, target: Path, shown: Tensor) -> None:
    """ONNX Runtime's own static quantization of a float file."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name,) = Session(source).inputs
    batches = [{name: part.numpy()} for part in shown.split(4)]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Any]] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    prepared = target.with_name("prepared.onnx")
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )


def noise(made: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of the float output."""
    return float((made - wanted).norm() / wanted.norm())


def measured(
    name: str, model: nn.Module, runs: dict[str, Run], x: Tensor, turns: int
) -> list[dict[str, object]]:
    """Rows of one model at one batch size, with the load of the machine before and after."""

    def eager() -> Tensor:
        with torch.no_grad():
            made: Tensor = model(x)
        return made

    wanted, before = eager(), os.getloadavg()[0]
    found = ratios(eager, {n: lambda run=run: run(x) for n, run in runs.items()}, turns)  # type: ignore[misc]
    after = os.getloadavg()[0]
    return [
        {
            "model": name,
            "batch": len(x),
            "threads": torch.get_num_threads(),
            "name": r.name,
            "speed_up": 1 / r.cpu,
            "speed_up_wall": 1 / r.wall,
            "float_ms": r.reference_ms,
            "noise": noise(runs[r.name](x), wanted),
            "turns": turns,
            "load": [round(before, 1), round(after, 1)],
        }
        for r in found
    ]


def keep(rows: Sequence[dict[str, object]]) -> None:
    """Write rows into the results, in place of those of the same configurations."""
    path = RESULTS / "int8_cpu.json"
    stored = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {tuple(row[k] for k in KEYS[:3]) for row in rows}
    old = [r for r in stored if all(k in r for k in KEYS)]
    kept = [r for r in old if tuple(r[k] for k in KEYS[:3]) not in new]
    write("int8_cpu", [*kept, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", default="1", help="one or more, separated by commas")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    for name in options.models.split(","):
        model, inputs = MODELS[name].make(), MODELS[name].inputs
        with tempfile.TemporaryDirectory() as folder:
            prepared = Prepared(model, inputs(16, 2), Path(folder))
            for threads in (int(t) for t in str(options.threads).split(",")):
                torch.set_num_threads(threads)
                runs = prepared.runs(threads)
                for batch in (int(b) for b in options.batches.split(",")):
                    turns = options.turns * (3 if batch == 1 else 1)
                    rows = measured(name, model, runs, inputs(batch, 3), turns)
                    report("int8_cpu", rows, keep=False)
                    if not options.dry:
                        keep(rows)


if __name__ == "__main__":
    main()
