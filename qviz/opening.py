"""Open a model with its data: the first verb, from whatever the user has to a Session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from qviz import metrics
from qviz.capture import capture
from qviz.data import Data
from qviz.errors import DataError
from qviz.histogram import collect
from qviz.loading import load_data, load_metric, load_model
from qviz.metrics import Metric
from qviz.session import Session
from qviz.store import Manifest, RunFolder, Source

BATCH_SIZE = 32
MEMORY_BUDGET = 2 << 30

#: Tracing a model patches torch for the whole process; another model must not be built meanwhile.
_OPENING = threading.Lock()

MetricSpec = str | Metric | Callable[..., object] | None


def open(
    model: str | Path | nn.Module | ExportedProgram,
    calibration: object = None,
    evaluation: object = None,
    metric: MetricSpec = None,
    *,
    weights: str | Path | None = None,
    preprocessing: str | Path | Mapping[str, object] | None = None,
    run_dir: str | Path | None = None,
    profile: str = "cuda",
    batch_size: int = BATCH_SIZE,
    memory_budget: int = MEMORY_BUDGET,
    fold_batch_norm: bool = True,
    training: object = None,
    seed: int = 0,
    command: Sequence[str] = ("qviz.open",),
) -> Session:
    """Load a model and its data.

    Args:
        model: an nn.Module, or what ``loading.load_model`` takes: ``sample:NAME``, a ``.pt2``
            file, ``file.py:factory`` ...
        calibration: a DataLoader, any iterable of samples or batches, or what
            ``loading.load_data`` takes. A sample model brings its own.
        evaluation: likewise, with targets if the metric needs them.
        metric: a name, a ``Metric``, a function ``(outputs, targets)`` or ``file.py:function``.
            None is top-1 with class labels, agreement with the float model otherwise.
        weights: put into what a factory built.
        preprocessing: of pixels, see ``loading.load_data``.
        run_dir: folder that keeps everything measured; the same folder goes on later.
        profile: whose rules recipes follow by default.
        batch_size: samples per forward pass.
        memory_budget: bytes that kept activations may take.
        fold_batch_norm: False keeps batch norms, for comparison only.
        training: for methods that train (QAT), likewise; with targets unless it only distills.
        seed: of everything random.
        command: what the run folder records as the command.

    Raises:
        InputError: the model or the data cannot be used; the message says what to do.
    """
    with _OPENING:
        collect(torch.zeros(1))  # compiles the kernel, which fails while another thread traces
        loaded = load_model(model, weights)
        is_sample = isinstance(model, str) and model.startswith("sample:")
        if calibration is None and not is_sample:
            raise DataError("calibration data", "are missing", "Give some with calibration=")
        data = load_data(
            model if calibration is None else calibration, "calibration", preprocessing
        )
        held = model if evaluation is None and is_sample else evaluation
        test = None if held is None else load_data(held, "evaluation", preprocessing)
        learnt = None if training is None else load_data(training, "training", preprocessing)
        graph = capture(
            loaded.model, next(iter(data.head(2).batches(2))), fold_batch_norm=fold_batch_norm
        )
    run = None
    if run_dir is not None:
        manifest = Manifest(
            Source(loaded.spec, loaded.digest),
            Source(data.name, data.digest, data.count),
            None if test is None else Source(test.name, test.digest, test.count),
            seed,
            tuple(command),
        )
        run = RunFolder.open(run_dir, manifest)
    return Session(
        loaded,
        graph,
        data,
        test,
        _metric(metric, test),
        run=run,
        profile_name=profile,
        batch_size=batch_size,
        memory_budget=memory_budget,
        seed=seed,
        training=learnt,
    )


def _metric(spec: MetricSpec, data: Data | None) -> Metric:
    if spec is None:
        if data is None:
            return metrics.metric("agreement")
        targets = next(iter(data.head(1).batches(1))).targets
        classes = targets is not None and not targets.is_floating_point()
        return metrics.metric("top1" if classes else "agreement")
    return load_metric(spec) if isinstance(spec, str) else metrics.metric(spec)
