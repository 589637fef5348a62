"""Makes the certificate of a checkpoint: it computes what was simulated, and this is what it costs.

Needs the folder and data, nothing else: the simulation is derived from the saved program
(``twin.py``). Per op on identical codes for every backend, each backend's metric beside the
simulation's and the float model's, sizes, and latency beside the same program in float, the two
timed in turn so that a busy machine slows both.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qviz.data import Batch, Data
from qviz.errors import DeviceError, MetricError
from qviz.int8 import twin
from qviz.int8.backends import Backend, Device, cpu_backend, cuda_backend
from qviz.int8.certificate import CUDA, Certificate, Latency, Named, Subject, Tolerance
from qviz.int8.certificate_file import write_certificate
from qviz.int8.checkpoint import PROGRAM, WEIGHTS, Checkpoint, load_checkpoint, run_flat
from qviz.int8.environment import environment
from qviz.int8.folder import MANIFEST, sha256
from qviz.int8.parity import Comparison
from qviz.int8.results import Judge, Ran, not_run, recorded, scored
from qviz.int8.verify_onnx import OnnxResults, Simulation, onnx_results
from qviz.metrics import METRICS, Metric, metric
from qviz.progress import OnProgress, Reporter
from qviz.records import digest

#: Seconds spent timing each batch size, and the fewest runs of each program.
TIMING_SECONDS = 2.0
FEWEST_RUNS = 5


def verify(
    folder: str | Path,
    data: Data,
    metric: str | Metric | Callable[..., object] | None = None,
    *,
    batch_size: int = 32,
    latency_batches: Sequence[int] = (1, 8),
    device: Device | None = None,
    onnx: bool | None = None,
    fallback: bool = False,
    simulation: Simulation | None = None,
    progress: OnProgress | None = None,
) -> Certificate:
    """Run a checkpoint on data beside the simulation, and write ``certificate.json`` into it.

    Args:
        folder: of the checkpoint.
        data: with targets if the metric needs them.
        metric: None is the one it was exported with.
        batch_size: samples per forward pass.
        latency_batches: batch sizes to time; empty times nothing.
        device: ``cpu`` leaves a GPU out, ``cuda`` insists on one; None takes what is there and
            can run it, and the certificate says why a GPU did not.
        onnx: the ONNX files beside it under ONNX Runtime: True insists on them, False leaves them
            out, None runs what is there if ONNX Runtime is installed.
        fallback: do not insist on what was asked for: the certificate says why it was not run.
        simulation: of the model that was exported, where it is at hand: for the ONNX files.
        progress: told how far it is.

    Raises:
        CheckpointError: the checkpoint is damaged, or the certificate cannot be written.
        MetricError: the metric does not fit the outputs, or is not known by name.
        DeviceError: CUDA was asked for and cannot run it.
        FormatError: ONNX was asked for, and there is none or it cannot be run.
        MissingExtraError: ONNX was asked for, and ONNX Runtime is not installed.
    """
    folder = Path(folder)
    checkpoint = load_checkpoint(folder)
    measure = _metric(metric, checkpoint, data)
    insist = device == "cuda" and not fallback
    backends, left_out = _backends(checkpoint, device, insist=insist)
    try:
        ran = _run(checkpoint, backends, data, batch_size, progress)
    except DeviceError as failure:
        if insist:
            raise
        backends, left_out = backends[:1], failure.reason
        ran = _run(checkpoint, backends, data, batch_size, progress)
    reference = _reference(checkpoint, data, batch_size) if measure.needs_reference else None
    judge = Judge(checkpoint, measure, data, ran, reference)
    results = [judge.of_float(), judge.of_simulation(), *(judge.of(b) for b in backends)]
    if left_out:
        results.append(not_run(CUDA, "int8 on CUDA", left_out))
    others = OnnxResults((), {})
    if onnx is not False:
        others = onnx_results(
            checkpoint,
            data,
            judge,
            insist=bool(onnx) and not fallback,
            batch_size=batch_size,
            simulation=simulation,
            progress=progress,
        )
    found = Certificate(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        subject=_subject(checkpoint, data, others.files),
        samples=data.count,
        metric=measure.name,
        reference=None if reference is None else "float twin",
        recorded=recorded(checkpoint, measure, data),
        tolerance=Tolerance(),
        backends=(*results, *others.backends),
        int8_bytes=(folder / WEIGHTS).stat().st_size,
        float_bytes=int(checkpoint.manifest["float_bytes"]),
        program_bytes=(folder / PROGRAM).stat().st_size,
        latency=tuple(latency(checkpoint.program, data, size) for size in latency_batches),
        environment=environment(gpu=len(backends) > 1),
    )
    write_certificate(folder, found)
    return found


def _backends(
    checkpoint: Checkpoint, device: Device | None, *, insist: bool
) -> tuple[list[Backend], str]:
    """What runs it, the CPU first; and why the GPU does not."""
    found = [cpu_backend(checkpoint)]
    if device == "cpu":
        return found, "left out as asked"
    try:
        return [*found, cuda_backend(checkpoint.folder)], ""
    except DeviceError as failure:
        if insist:
            raise
        return found, failure.reason


def _run(
    checkpoint: Checkpoint,
    backends: Sequence[Backend],
    data: Data,
    batch_size: int,
    progress: OnProgress | None,
) -> Ran:
    """All data through the simulation and every backend."""
    comparison = Comparison(
        checkpoint.program, checkpoint.manifest["calls"], {b.name: b.call for b in backends}
    )
    simulated: list[Tensor] = []
    real: dict[str, list[Tensor]] = {b.name: [] for b in backends}
    targets: list[Tensor] = []
    report = Reporter("verify", data.count, progress)
    for batch in data.batches(batch_size):
        for backend in backends:
            real[backend.name].append(scored(backend.run(batch), batch.size))
        simulated.append(scored(comparison.run(batch), batch.size))
        if batch.targets is not None:
            targets.append(batch.targets)
        report.step("", batch.size)
    return Ran(
        simulated=torch.cat(simulated),
        real={name: torch.cat(parts) for name, parts in real.items()},
        labels=torch.cat(targets) if targets else None,
        parity={b.name: comparison.result(b.name) for b in backends},
    )


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


def _reference(checkpoint: Checkpoint, data: Data, batch_size: int) -> Tensor:
    """Outputs of the float program; its weights are the rounded ones, it knows no others."""
    program = twin.float_twin(checkpoint.program)
    batches = data.batches(batch_size)
    return torch.cat([scored(run_flat(program, b), b.size) for b in batches])


def _subject(checkpoint: Checkpoint, data: Data, others: Mapping[str, str]) -> Subject:
    manifest = checkpoint.manifest
    held = manifest.get("data") or {}
    files = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
    return Subject(
        model=_named(manifest.get("model")),
        calibration=_named(held.get("calibration")),
        data=Named(data.name, data.digest, data.count),
        recipe=digest(checkpoint.recipe),
        profile=checkpoint.recipe.profile,
        files={**files, MANIFEST: sha256(checkpoint.folder / MANIFEST), **others},
    )


def _named(held: Any) -> Named | None:  # noqa: ANN401 - a JSON value
    if not isinstance(held, dict):
        return None
    found = Named(str(held.get("name", "")), str(held.get("digest", "")))
    count = held.get("count")
    return replace(found, count=count) if isinstance(count, int) else found


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
