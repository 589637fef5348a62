"""Run an ONNX file under ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qviz.data import Batch
from qviz.errors import DataError, FormatError
from qviz.export.onnx_package import onnxruntime

Arrays = Mapping[str, np.ndarray[Any, Any]]
#: Errors only: what is said of every file with float16 scales is no news.
LOG_ERRORS = 3
#: What ONNX Runtime must not do to a float16 file: it computes the step of an int32 bias, which is
#: the product of two scales, in float16, where it vanishes, and the channel with it.
NOT_FOR_HALF = ("WeightBiasQuantization",)
#: Property of a file: the float type of what is not int8.
FLOAT_TYPE = "qviz_float_type"


class Session:
    """One file or graph, ready to run.

    Args:
        model: path of a file, or its content.
        fused: let ONNX Runtime fuse and use integer kernels; False computes what the file says,
            every node by itself and in float between Q and DQ.
        threads: None is as many as PyTorch uses.
        optimized: where to write the graph that really runs.

    Raises:
        FormatError: ONNX Runtime refuses it.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        fused: bool = True,
        threads: int | None = None,
        optimized: Path | None = None,
    ) -> None:
        package = onnxruntime()
        options = package.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = LOG_ERRORS
        levels = package.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
        )
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        given = model if isinstance(model, bytes) else str(model)
        kind = {"providers": ["CPUExecutionProvider"]}
        try:
            self._session = package.InferenceSession(given, options, **kind)
            said = self._session.get_modelmeta().custom_metadata_map
            if said.get(FLOAT_TYPE) == "float16":
                kind["disabled_optimizers"] = list(NOT_FOR_HALF)
                self._session = package.InferenceSession(given, options, **kind)
        except Exception as failure:  # its errors have no common base that is public
            named = "the ONNX graph" if isinstance(model, bytes) else str(model)
            why = str(failure).strip().splitlines()[0][:200].rstrip(".")
            raise FormatError(
                named, f"ONNX Runtime refuses it: {why}", "Export it again, or update onnxruntime"
            ) from failure
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        keys = said.get("qviz_inputs")
        self._keys: dict[str, int | str] = dict(json.loads(keys)) if keys else {}

    def run(self, batch: Batch) -> list[Tensor]:
        """The model's outputs for a batch.

        Raises:
            DataError: the data does not have one of the inputs.
        """
        return [torch.from_numpy(np.array(v)) for v in self.values(self.feed(batch))]

    def feed(self, batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
        """A batch's tensors by the names of the inputs.

        Raises:
            DataError: the data does not have one of them.
        """
        made: dict[str, np.ndarray[Any, Any]] = {}
        for position, name in enumerate(self.inputs):
            key = self._keys.get(name, name if name in batch.kwargs else position)
            try:
                value = batch.args[key] if isinstance(key, int) else batch.kwargs[key]
            except (IndexError, KeyError):
                raise DataError(
                    f"input {name}",
                    "the ONNX file needs it, the data does not have it",
                    "Let the data yield the inputs in order, or as a dict of argument names",
                ) from None
            made[name] = value.contiguous().numpy()
        return made

    def values(self, feed: Arrays, names: Sequence[str] | None = None) -> list[Any]:
        """Outputs for named inputs, as arrays."""
        found: list[Any] = self._session.run(None if names is None else list(names), dict(feed))
        return found


def run(path: str | Path, batch: Batch) -> list[Tensor]:
    """The outputs of a file for a batch; the file is loaded once until it changes.

    Raises:
        FormatError: there is no such file, or ONNX Runtime refuses it.
        DataError: the data does not have one of the inputs.
        MissingExtraError: onnxruntime is not installed.
    """
    file = Path(path)
    if not file.is_file():
        raise FormatError(str(path), "there is no such file", "Name a file that qviz export wrote")
    return _session(str(file), file.stat().st_mtime_ns, torch.get_num_threads()).run(batch)


@functools.lru_cache(maxsize=2)
def _session(path: str, changed: int, threads: int) -> Session:
    return Session(path, threads=threads)
