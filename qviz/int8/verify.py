"""The certificate of a checkpoint: it computes what was simulated, and this is what it costs.

Needs the folder and data, nothing else: the simulation is derived from the saved program
(``twin.py``). Per op on identical codes, the model's metric simulated and real, sizes, and latency
beside the same program in float, the two timed in turn so that a busy machine slows both.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qviz.data import Batch, Data
from qviz.errors import MetricError
from qviz.int8 import twin
from qviz.int8.checkpoint import PROGRAM, WEIGHTS, Checkpoint, load_checkpoint, run_flat
from qviz.int8.folder import unwritable
from qviz.int8.parity import Comparison, Parity
from qviz.int8.selftest import capabilities
from qviz.metrics import METRICS, Metric, metric, score
from qviz.progress import OnProgress, Reporter
from qviz.store_files import replace_file

PARITY = "parity.json"
#: Seconds spent timing each batch size, and the fewest runs of each program.
TIMING_SECONDS = 2.0
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Latency:
    """Median times of the integer program and of the same program in float, run in turn.

    Attributes:
        batch: samples per run.
        int8_ms: milliseconds.
        float_ms: milliseconds, with folded batch norm and channels-last layout.
        runs: of each.
        threads: that PyTorch used.
    """

    batch: int
    int8_ms: float
    float_ms: float
    runs: int
    threads: int

    @property
    def ratio(self) -> float:
        """int8 over float: below 1 is faster."""
        return self.int8_ms / self.float_ms


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        folder: of the checkpoint.
        parity: every integer call against the simulation.
        samples: of the data.
        metric: its name.
        reference: what a metric compares with that needs the float model's outputs: the float twin
            of the program, whose weights are rounded; None for other metrics.
        int8: metric of the integer program.
        simulated: metric of the same program in simulated arithmetic.
        recorded: metrics the manifest has from the time of export, of ``float`` and ``simulated``;
            empty unless it was the same data and metric.
        same_class: share of samples that both put into the same class; None without classes.
        sqnr_db: of the integer program's outputs against the simulated ones.
        int8_bytes: size of ``model.safetensors``.
        float_bytes: size of the float model's parameters.
        program_bytes: size of ``model.pt2``, which holds the weights once more, to load alone.
        latency: one entry per batch size.
        backends: kind of op -> backend on this machine and why.
    """

    folder: str
    parity: Parity
    samples: int
    metric: str
    reference: str | None
    int8: float
    simulated: float
    recorded: dict[str, float]
    same_class: float | None
    sqnr_db: float
    int8_bytes: int
    float_bytes: int
    program_bytes: int
    latency: tuple[Latency, ...]
    backends: dict[str, dict[str, str]]

    @property
    def passed(self) -> bool:
        """The integer program computes what was simulated."""
        return self.parity.passed

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            ParityError: an op is off by more than one step, or too many outputs by one.
        """
        self.parity.check()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``parity.json`` has them."""
        values = asdict(self)
        rows = values.pop("parity")["rows"]
        p = self.parity
        summary = {"count": p.count, "one_step": p.one_step, "more": p.more, "share": p.share}
        return {
            "passed": self.passed,
            **values,
            "latency": [{**asdict(each), "ratio": each.ratio} for each in self.latency],
            "parity": {**summary, "rows": rows},
        }


def verify(
    folder: str | Path,
    data: Data,
    metric: str | Metric | Callable[..., object] | None = None,
    *,
    batch_size: int = 32,
    latency_batches: Sequence[int] = (1, 8),
    progress: OnProgress | None = None,
) -> Verification:
    """Run a checkpoint on data beside the simulation, and write ``parity.json`` into its folder.

    Args:
        folder: of the checkpoint.
        data: with targets if the metric needs them.
        metric: None is the one it was exported with.
        batch_size: samples per forward pass.
        latency_batches: batch sizes to time; empty times nothing.
        progress: told how far it is.

    Raises:
        CheckpointError: the checkpoint is damaged, or ``parity.json`` cannot be written.
        MetricError: the metric does not fit the outputs, or is not known by name.
    """
    checkpoint = load_checkpoint(folder)
    measure = _metric(metric, checkpoint, data)
    comparison = Comparison(checkpoint.program, checkpoint.manifest["calls"])
    real: list[Tensor] = []
    simulated: list[Tensor] = []
    targets: list[Tensor] = []
    report = Reporter("verify", data.count, progress)
    for batch in data.batches(batch_size):
        real.append(_scored(checkpoint.run(batch), batch.size))
        simulated.append(_scored(comparison.run(batch), batch.size))
        if batch.targets is not None:
            targets.append(batch.targets)
        report.step("", batch.size)
    outputs, wanted = torch.cat(real), torch.cat(simulated)
    labels = torch.cat(targets) if targets else None
    reference = _reference(checkpoint, data, batch_size) if measure.needs_reference else None
    path = Path(folder)
    found = Verification(
        folder=str(folder),
        parity=comparison.result(),
        samples=data.count,
        metric=measure.name,
        reference=None if reference is None else "float twin",
        int8=score(measure, outputs, labels, reference).value,
        simulated=score(measure, wanted, labels, reference).value,
        recorded=_recorded(checkpoint, measure, data),
        same_class=_same_class(outputs, wanted),
        sqnr_db=score("sqnr", outputs, None, wanted).value,
        int8_bytes=(path / WEIGHTS).stat().st_size,
        float_bytes=int(checkpoint.manifest["float_bytes"]),
        program_bytes=(path / PROGRAM).stat().st_size,
        latency=tuple(latency(checkpoint.program, data, size) for size in latency_batches),
        backends={k: {"backend": c.backend, "reason": c.reason} for k, c in capabilities().items()},
    )
    _write(path / PARITY, found)
    return found


def _write(path: Path, found: Verification) -> None:
    try:
        replace_file(path, (json.dumps(found.to_json(), indent=1) + "\n").encode())
    except OSError as failure:
        raise unwritable(path, failure) from failure


def _metric(
    spec: str | Metric | Callable[..., object] | None, checkpoint: Checkpoint, data: Data
) -> Metric:
    if spec is not None:
        return metric(spec)
    name = checkpoint.manifest.get("metric", {}).get("name", "agreement")
    if name not in METRICS:
        raise MetricError(
            str(name), "it is a function of yours, which the checkpoint does not hold", "Name it"
        )
    known = METRICS[name]
    return METRICS["agreement"] if known.needs_labels and not data.labelled else known


def _scored(values: Sequence[object], size: int) -> Tensor:
    """The output that is scored: the first float tensor with one row per sample."""
    for value in (v for v in values if isinstance(v, Tensor)):
        if value.is_floating_point() and value.shape[:1] == (size,):
            return value
    raise MetricError(
        "the checkpoint",
        "no output is a float tensor with one row per sample, so nothing can be scored",
        "Export a model that returns such a tensor",
    )


def _reference(checkpoint: Checkpoint, data: Data, batch_size: int) -> Tensor:
    """Outputs of the float program; its weights are the rounded ones, it knows no others."""
    program = twin.float_twin(checkpoint.program)
    batches = data.batches(batch_size)
    return torch.cat([_scored(run_flat(program, b), b.size) for b in batches])


def _recorded(checkpoint: Checkpoint, measure: Metric, data: Data) -> dict[str, float]:
    noted = checkpoint.manifest.get("metric", {})
    source = checkpoint.manifest.get("data", {}).get("evaluation") or {}
    if noted.get("name") != measure.name or source.get("digest") != data.digest:
        return {}
    return {k: float(noted[k]) for k in ("float", "simulated") if noted.get(k) is not None}


def _same_class(outputs: Tensor, wanted: Tensor) -> float | None:
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        return None
    return float((outputs.argmax(1) == wanted.argmax(1)).double().mean())


def latency(program: fx.GraphModule, data: Data, size: int) -> Latency:
    """Time the integer program and its float twin in turn on ``size`` samples of the data."""
    batch = next(data.batches(size))
    programs = (program, twin.float_twin(program))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):  # kernels are chosen and weights packed at the first calls
        for each in programs:
            run_flat(each, batch)
    end = time.perf_counter() + TIMING_SECONDS
    while len(times[0]) < FEWEST_RUNS or (time.perf_counter() < end and len(times[0]) < 200):
        for each, taken in zip(programs, times, strict=True):
            taken.append(_timed(each, batch))
    int8, real = (1e3 * statistics.median(t) for t in times)
    return Latency(batch.size, int8, real, len(times[0]), torch.get_num_threads())


def _timed(program: fx.GraphModule, batch: Batch) -> float:
    start = time.perf_counter()
    run_flat(program, batch)
    return time.perf_counter() - start
