"""int8 on the CPU: ResNet-50 in qviz's integer ops, beside ONNX Runtime's own quantization.

    python benchmarks/int8_cpu.py [--model resnet50] [--batches 1,32] [--turns 7] [--threads 1]

The reference is an eager forward pass of the user's model; contenders are the lowered program,
ONNX Runtime in float, and ONNX Runtime's static quantization (QDQ, uint8 activations, int8 weights
per channel) of the same weights, calibrated on the same images. ``speed_up`` is the reference's
time over the contender's. How far each int8 result is from float stands beside it.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import architecture, images
from timing import ratios, report
from torch import Tensor, nn

from qviz.affine import Grid
from qviz.calibration import Calibration, make_recipe
from qviz.capture import capture
from qviz.data import as_data
from qviz.int8.lower import lower
from qviz.observe import observe
from qviz.simulate import Simulator

Run = Callable[[Tensor], Tensor]


def qviz_int8(model: nn.Module, shown: Tensor) -> tuple[Run, int, int]:
    """The lowered program, and how many of its quantizable ops are integer ops."""
    data = as_data(shown, "calibration")
    graph = capture(model, next(iter(data.head(2).batches(2))))
    simulator = Simulator(graph)
    found = Calibration(observe(simulator.program, data), data.count, Grid())
    lowered = lower(graph, make_recipe(found, "max"), simulator)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = lowered.module(x)
        return made

    kernels = {row.op: row.kernel for row in lowered.rows}
    integer = sum(kernels[op.name].startswith("int8") for op in graph.quantizable)
    return run, integer, len(graph.quantizable)


class OnnxModels:
    """The model as an ONNX file in float, and quantized by ONNX Runtime itself."""

    def __init__(self, model: nn.Module, shown: Tensor, folder: Path, threads: int) -> None:
        self._threads = threads
        self._float, self._int8 = folder / "float.onnx", folder / "int8.onnx"
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (shown[:2],),
                str(self._float),
                input_names=["x"],
                output_names=["y"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            self._quantize(shown, folder)

    def _quantize(self, shown: Tensor, folder: Path) -> None:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        batches = [{"x": part.numpy()} for part in shown.split(4)]

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._left: Iterator[dict[str, Any]] = iter(batches)

            def get_next(self) -> dict[str, Any] | None:
                return next(self._left, None)

        prepared = folder / "prepared.onnx"
        quant_pre_process(str(self._float), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(self._int8),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )

    def runs(self) -> dict[str, Run]:
        return {
            "ONNX Runtime float": self._run(self._float),
            "ONNX Runtime int8": self._run(self._int8),
        }

    def _run(self, file: Path) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))

        return run


def noise(made: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of the float output."""
    return float((made - wanted).norm() / wanted.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50", help="name in timm")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, shown = architecture(options.model), images(16, seed=2)
    own, integer, quantizable = qviz_int8(model, shown)

    def eager(x: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = model(x)
        return made

    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        peers = OnnxModels(model, shown, Path(folder), options.threads).runs()
        runs = {f"qviz int8, {integer} of {quantizable} ops": own, **peers}
        for batch in (int(b) for b in options.batches.split(",")):
            x = images(batch, seed=3)
            wanted = eager(x)
            contenders: dict[str, Callable[[], object]] = {
                name: lambda run=run, x=x: run(x)  # type: ignore[misc]
                for name, run in runs.items()
            }
            turns = options.turns * (5 if batch == 1 else 1)
            for r in ratios(lambda x=x: eager(x), contenders, turns):  # type: ignore[misc]
                rows.append(
                    {
                        "model": options.model,
                        "batch": batch,
                        "name": r.name,
                        "speed_up": 1 / r.cpu,
                        "speed_up_wall": 1 / r.wall,
                        "float_ms": r.reference_ms,
                        "noise": noise(runs[r.name](x), wanted),
                        "turns": turns,
                    }
                )
    report("int8_cpu", rows, keep=options.model == "resnet50")


if __name__ == "__main__":
    main()
