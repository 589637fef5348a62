"""The ONNX files beside a checkpoint, under ONNX Runtime: what they compute, op by op and whole.

Op by op, ONNX Runtime is compared on identical codes with the simulation of the recipe that the
file holds. Whoever has the folder alone has no simulator of the model: then the file itself,
computed word by word in float, is the simulation. Whole, its outputs are compared with those of the
checkpoint's own simulation where the file holds the same recipe, and with its own otherwise:
another engine's rules make another recipe, with numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qviz.data import Batch, Data
from qviz.errors import DataError, FormatError, InputError, MissingExtraError, QvizError
from qviz.int8.certificate import BackendResult, Kernel
from qviz.int8.checkpoint import Checkpoint
from qviz.int8.folder import sha256
from qviz.int8.results import Judge, not_run, scored
from qviz.progress import OnProgress, Reporter
from qviz.recipe import Recipe

if TYPE_CHECKING:
    from qviz.export.onnx_run import Session

FILE = "model.onnx"
#: Samples on which single ops are compared: their outputs number in the millions by then.
COMPARED = 32


class Simulation(Protocol):
    """The simulation of a recipe on the model that was exported."""

    def values(self, recipe: Recipe) -> Callable[[Batch], Mapping[str, Tensor]]:
        """What every tensor is for a batch, by the names that it has in the file."""

    def outputs(self, recipe: Recipe, data: Data, batch_size: int) -> Tensor:
        """The scored output for all samples, ``[n, ...]``."""


@dataclass(frozen=True, eq=False)
class OnnxResults:
    """What the files give.

    Attributes:
        backends: one per file.
        files: name relative to the checkpoint -> sha256, of those that were run.
    """

    backends: tuple[BackendResult, ...]
    files: dict[str, str]


def onnx_files(folder: Path) -> list[Path]:
    """The ONNX files that lie beside a checkpoint, each in the folder of its format."""
    return sorted(folder.glob(f"*/{FILE}"))


def onnx_results(
    checkpoint: Checkpoint,
    data: Data,
    judge: Judge,
    *,
    insist: bool,
    batch_size: int,
    simulation: Simulation | None = None,
    progress: OnProgress | None = None,
) -> OnnxResults:
    """Run every ONNX file beside a checkpoint.

    Args:
        checkpoint: that they lie beside.
        data: as the checkpoint was run on.
        judge: scores outputs on these data.
        insist: raise if there is none, or it cannot be run; else the result says why.
        batch_size: samples per run.
        simulation: of the model, where there is one.
        progress: told how far it is.

    Raises:
        FormatError: insisted on, and there is none, or it is damaged.
        MissingExtraError: insisted on, and onnx or onnxruntime is not installed.
        DataError: insisted on, and the data does not have what it takes.
    """
    paths = onnx_files(checkpoint.folder)
    if insist and not paths:
        raise FormatError(
            str(checkpoint.folder),
            "there is no ONNX file beside the checkpoint",
            "Export one into the same folder: qviz export RUN --formats checkpoint,onnx-tensorrt",
        )
    found: list[BackendResult] = []
    files: dict[str, str] = {}
    for path in paths:
        name = path.parent.name
        try:
            found.append(_result(path, checkpoint, data, judge, batch_size, simulation, progress))
        except (FormatError, DataError, MissingExtraError) as failure:
            if insist:
                raise
            found.append(_failed(path, failure))
        if found[-1].verdict != "not run":
            files[f"{name}/{FILE}"] = sha256(path)
    return OnnxResults(tuple(found), files)


def _title(path: Path) -> str:
    return f"{path.parent.name} in ONNX Runtime"


def _failed(path: Path, failure: QvizError) -> BackendResult:
    """A file that cannot be run: no fault of its own without ONNX Runtime."""
    said = not_run(path.parent.name, _title(path), f"{failure.thing}: {failure.reason}")
    return said if isinstance(failure, MissingExtraError) else replace(said, verdict="failed")


def _result(
    path: Path,
    checkpoint: Checkpoint,
    data: Data,
    judge: Judge,
    batch_size: int,
    simulation: Simulation | None,
    progress: OnProgress | None,
) -> BackendResult:
    from qviz.export.onnx_parity import REASON, compare, load
    from qviz.export.onnx_run import Session

    name = path.parent.name
    noted = {entry.key: entry.value for entry in load(path).metadata_props}
    other = _of_another_model(noted, checkpoint)
    if other:
        return not_run(name, _title(path), other)
    recipe, halves = _recipe(noted), noted.get("qviz_float_type") != "float32"
    # float16 sums are another arithmetic than the simulation's: they are compared with themselves
    known = None if simulation is None or recipe is None or halves else simulation
    values = None if known is None or recipe is None else known.values(recipe)
    parity = compare(path, data.head(COMPARED).batches(batch_size), values)
    report = Reporter(name, data.count, progress)
    outputs = _outputs(Session(path), data, batch_size, report)
    if recipe == checkpoint.recipe and not halves:
        wanted = judge.simulated
    elif known is not None and recipe is not None:
        wanted = known.outputs(recipe, data, batch_size)
    else:
        wanted = _outputs(Session(path, fused=False), data, batch_size, None)
    result = judge.result(name, _title(path), outputs, wanted, parity)
    against = "the file computed word by word" if known is None else "the simulation of its recipe"
    return replace(
        result,
        file=f"{name}/{FILE}",
        kernels=(Kernel("all", "CPUExecutionProvider", "ONNX Runtime chooses them"),),
        compared=min(data.count, COMPARED),
        because=f"Op by op beside {against}. {REASON}",
    )


def _outputs(session: Session, data: Data, size: int, report: Reporter | None) -> Tensor:
    """The scored output for all samples, ``[n, ...]``."""
    parts = []
    for batch in data.batches(size):
        parts.append(scored(session.run(batch), batch.size).float())
        if report is not None:
            report.step("", batch.size)
    return torch.cat(parts)


def _of_another_model(noted: dict[str, str], checkpoint: Checkpoint) -> str:
    mine = (checkpoint.manifest.get("model") or {}).get("digest", "")
    theirs = noted.get("qviz_model_digest", "")
    return "it was exported from another model" if mine and theirs and mine != theirs else ""


def _recipe(noted: dict[str, str]) -> Recipe | None:
    """The recipe that a file says it holds."""
    try:
        return Recipe.from_json(noted.get("qviz_recipe", ""))
    except InputError:
        return None
