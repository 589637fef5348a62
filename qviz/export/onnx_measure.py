"""What an exported ONNX file is worth under ONNX Runtime: metric, agreement, kernels, parity."""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qviz.data import Data
from qviz.evaluate import first_output, outputs
from qviz.execute import Program
from qviz.export.onnx_package import onnxruntime
from qviz.export.onnx_parity import OnnxParity, compare, load, simulated
from qviz.export.onnx_pieces import KERNELS, Pieces
from qviz.export.onnx_run import Session
from qviz.metrics import METRICS, Metric, score
from qviz.progress import OnProgress, Reporter
from qviz.recipe import Recipe
from qviz.simulate import Simulator

#: Samples that the ops are compared on.
PARITY_SAMPLES = 32
#: Names of float kernels in the graph that ONNX Runtime makes of a file.
_FLOAT_KERNELS = {*KERNELS, "FusedConv", "FusedGemm", "FusedMatMul"}


@dataclass(frozen=True)
class Measured:
    """One file under ONNX Runtime beside its simulation.

    Attributes:
        metric: its name.
        samples: of the data.
        reference: of the float model.
        simulated: of the recipe in the file.
        onnxruntime: of the file.
        flips: samples that the two put into different classes; None without classes.
        sqnr_db: of the file's outputs against the simulated ones.
        kernels: how often each operator is in the graph that ONNX Runtime makes of the file.
        left_float: int8 ops that it computes in float on rounded values.
        parity: op by op.
        environment: versions and machine.
    """

    metric: str
    samples: int
    reference: float
    simulated: float
    onnxruntime: float
    flips: int | None
    sqnr_db: float
    kernels: dict[str, int]
    left_float: tuple[str, ...]
    parity: OnnxParity
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``parity.json`` has them."""
        plain = {k: v for k, v in vars(self).items() if k not in ("parity", "reference")}
        plain["float"] = self.reference
        return {**plain, "left_float": list(self.left_float), "parity": self.parity.to_json()}


def measure(
    path: Path,
    simulator: Simulator,
    recipe: Recipe,
    data: Data,
    metric: Metric,
    *,
    half: bool = False,
    batch_size: int = 32,
    progress: OnProgress | None = None,
) -> Measured:
    """Run a file on data beside the simulation of its recipe.

    Args:
        path: of the file.
        simulator: of the model in it.
        recipe: in the file.
        data: with targets if the metric needs them.
        metric: what to measure; ``agreement`` takes its place if targets are missing.
        half: the file computes in float16: its ops are compared with the file itself, computed
            word by word, because the simulation's float32 is another arithmetic.
        batch_size: samples per forward pass.
        progress: told how far it is.

    Raises:
        FormatError: ONNX Runtime refuses the file.
        MissingExtraError: onnxruntime is not installed.
    """
    if metric.needs_labels and not data.labelled:
        metric = METRICS["agreement"]
    program = simulator.program
    real = outputs(program, data, batch_size=batch_size)
    wanted = outputs(program, data, simulator.edits(recipe), batch_size=batch_size).values
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session = Session(path, optimized=optimized)
        kernels, left_float = _kernels(load(path), load(optimized))
    made = _run(session, data, batch_size, program, progress)

    def value(values: Tensor) -> float:
        return score(metric, values, real.targets, real.values).value

    batches = data.head(PARITY_SAMPLES).batches(PARITY_SAMPLES // 2)
    return Measured(
        metric=metric.name,
        samples=data.count,
        reference=value(real.values),
        simulated=value(wanted),
        onnxruntime=value(made),
        flips=_flips(made, wanted),
        sqnr_db=score("sqnr", made, None, wanted).value,
        kernels=kernels,
        left_float=left_float,
        parity=compare(path, batches, None if half else simulated(simulator, recipe)),
        environment={
            "onnxruntime": str(onnxruntime().__version__),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
    )


def _run(
    session: Session, data: Data, size: int, program: Program, progress: OnProgress | None
) -> Tensor:
    """The scored output of a file for all samples."""
    report = Reporter("onnxruntime", data.count, progress)
    made = []
    for batch in data.batches(size):
        made.append(first_output(list(session.run(batch)), batch.size, program))
        report.step("", batch.size)
    return torch.cat(made)


def _flips(made: Tensor, wanted: Tensor) -> int | None:
    if wanted.dim() != 2 or wanted.shape[1] < 2:
        return None
    return int((made.argmax(1) != wanted.argmax(1)).sum())


def _kernels(model: Any, optimized: Any) -> tuple[dict[str, int], tuple[str, ...]]:  # noqa: ANN401
    """Operators of the graph that really runs, and the int8 ops that are float in it."""
    nodes = list(optimized.graph.node)
    plain = {n.name for n in nodes if n.op_type in _FLOAT_KERNELS}
    int8 = [p.op for p in Pieces(model) if p.kernel != "quantize"]
    return dict(Counter(n.op_type for n in nodes)), tuple(op for op in int8 if op in plain)
