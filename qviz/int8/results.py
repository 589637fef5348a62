"""From outputs and parity counts to what a certificate says about each backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from qviz.data import Data
from qviz.errors import MetricError
from qviz.int8.backends import Backend
from qviz.int8.certificate import FLOAT, SIMULATED, BackendResult, Change
from qviz.int8.checkpoint import FLOAT_SCORES, PROGRAM, Checkpoint
from qviz.int8.folder import check_file
from qviz.int8.parity import Parity
from qviz.intervals import Scores, paired_bootstrap, relative_change
from qviz.metrics import Metric, score


@dataclass(frozen=True, eq=False)
class Ran:
    """Outputs on all samples.

    Attributes:
        simulated: ``[n, ...]`` of the simulation.
        real: backend -> the same.
        labels: ``[n, ...]``; None without.
        parity: backend -> its calls against the simulation.
    """

    simulated: Tensor
    real: Mapping[str, Tensor]
    labels: Tensor | None
    parity: Mapping[str, Parity]


class Judge:
    """Scores outputs of one checkpoint on one set of data.

    Args:
        checkpoint: what ran.
        measure: the metric.
        data: it ran on.
        ran: the outputs.
        reference: ``[n, ...]``, outputs that a metric compares with which needs them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        measure: Metric,
        data: Data,
        ran: Ran,
        reference: Tensor | None,
    ) -> None:
        self._measure, self._ran, self._reference = measure, ran, reference
        self._noted = recorded(checkpoint, measure, data)
        self._float = _float_scores(checkpoint, measure, data)
        self._simulated = self._scores(ran.simulated)

    @property
    def simulated(self) -> Tensor:
        """The simulation's outputs, ``[n, ...]``."""
        return self._ran.simulated

    def of_float(self) -> BackendResult:
        """The float model, as it was measured at export."""
        value = self._noted.get("float")
        told = "measured at export" if value is not None else "was not measured on these data"
        return BackendResult(FLOAT, "float model", "reference", told, value=value)

    def of_simulation(self) -> BackendResult:
        """The simulation."""
        return BackendResult(
            SIMULATED,
            "simulation",
            "reference",
            value=self._simulated.value,
            simulated=self._simulated.value,
            from_float=self._from_float(self._simulated),
        )

    def of(self, backend: Backend) -> BackendResult:
        """What ran integers."""
        outputs, parity = self._ran.real[backend.name], self._ran.parity[backend.name]
        result = self.result(backend.name, backend.title, outputs, self._ran.simulated, parity)
        return replace(result, file=PROGRAM, kernels=backend.kernels())

    def result(
        self, name: str, title: str, outputs: Tensor, wanted: Tensor, parity: Parity
    ) -> BackendResult:
        """What has given ``outputs`` where its simulation gives ``wanted``, both ``[n, ...]``."""
        found = self._scores(outputs)
        simulated = self._simulated if wanted is self._ran.simulated else self._scores(wanted)
        return BackendResult(
            name,
            title,
            "passed" if parity.passed else "failed",
            value=found.value,
            simulated=simulated.value,
            from_float=self._from_float(found),
            from_simulated=change(found, simulated),
            same_class=_same_class(outputs, wanted),
            sqnr_db=score("sqnr", outputs, None, wanted).value,
            rows=parity.rows,
            compared=len(outputs),
            allowed=parity.allowed,
        )

    def _scores(self, outputs: Tensor) -> Scores:
        return score(self._measure, outputs, self._ran.labels, self._reference)

    def _from_float(self, found: Scores) -> Change | None:
        return None if self._float is None else change(found, self._float)


def not_run(name: str, title: str, reason: str) -> BackendResult:
    """A backend that was not run, and why not."""
    return BackendResult(name, title, "not run", reason)


def change(found: Scores, other: Scores) -> Change | None:
    """How much better one scored on the same samples; None where the other scores 0."""
    value = relative_change(found.value, other.value)
    limits = paired_bootstrap(found, other)
    made = Change(value, limits.low, limits.high)
    return made if all(map(math.isfinite, (value, limits.low, limits.high))) else None


def scored(values: Sequence[object], size: int) -> Tensor:
    """The output that is scored: the first float tensor with one row per sample.

    Raises:
        MetricError: there is none.
    """
    for value in (v for v in values if isinstance(v, Tensor)):
        if value.is_floating_point() and value.shape[:1] == (size,):
            return value
    raise MetricError(
        "the checkpoint",
        "no output is a float tensor with one row per sample, so nothing can be scored",
        "Export a model that returns such a tensor",
    )


def recorded(checkpoint: Checkpoint, measure: Metric, data: Data) -> dict[str, float]:
    """Metrics noted at export; nothing unless they are of this metric and these data."""
    noted = checkpoint.manifest.get("metric", {})
    source = checkpoint.manifest.get("data", {}).get("evaluation") or {}
    if noted.get("name") != measure.name or source.get("digest") != data.digest:
        return {}
    return {k: float(noted[k]) for k in ("float", "simulated") if noted.get(k) is not None}


def _float_scores(checkpoint: Checkpoint, measure: Metric, data: Data) -> Scores | None:
    """What the float model scored on each of these samples, if the checkpoint holds it."""
    if FLOAT_SCORES not in checkpoint.manifest["files"] or not recorded(checkpoint, measure, data):
        return None
    values = load_file(check_file(checkpoint.folder, checkpoint.manifest, FLOAT_SCORES))["scores"]
    return Scores(measure.name, float(values.double().mean()), len(values), values.double())


def _same_class(outputs: Tensor, wanted: Tensor) -> float | None:
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        return None
    return float(torch.eq(outputs.argmax(1), wanted.argmax(1)).double().mean())
