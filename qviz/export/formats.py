"""The formats as rows of a table: what each carries and can express, and which file writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qviz.export.limits import SYMMETRIC_INT8, Limits
from qviz.export.module_layers import KINDS, called_alike, made_by_modules
from qviz.export.request import Request

#: Writes one format into ``request.folder``; the result is plain values, for people and machines.
Exporter = Callable[[Request], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: what ``--formats`` calls it.
        title: for a person.
        carries: one sentence: what of the decision it holds, and who reads it.
        module: has ``export(request)``; imported when it is needed.
        limits: what it can express; None is everything that a recipe can say.
        extra: extra of the package that brings what the exporter imports, None if nothing is.
    """

    name: str
    title: str
    carries: str
    module: str
    limits: Limits | None = None
    extra: str | None = None

    def export(self, request: Request) -> dict[str, Any]:
        """Write it.

        Raises:
            MissingExtraError: what it imports is not installed.
        """
        write: Exporter = importlib.import_module(self.module).export
        return write(request)


#: Linear layers with a static input scale, as libraries for language models have them.
LINEAR_INT8 = Limits(
    symmetric=True,
    bits=(8,),
    types=("linear",),
    whole=True,
    rules=(made_by_modules, called_alike),
)

EXPORTERS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "checkpoint",
            "int8 checkpoint",
            "The integers, the recipe and a program that runs in PyTorch on CPU and CUDA int8 "
            "kernels",
            "qviz.export.checkpoint",
            Limits(symmetric=True),
        ),
        Format(
            "modelopt",
            "NVIDIA Model Optimizer",
            "Which quantizers are on and their ranges, and a script that puts them into your "
            "module with nvidia-modelopt",
            "qviz.export.modelopt",
            Limits(symmetric=True, types=tuple(KINDS), rules=(made_by_modules, called_alike)),
        ),
        Format(
            "torchao",
            "torchao",
            "int8 weights and static input scales of linear layers, and a script that puts them "
            "into your module as Int8Tensor",
            "qviz.export.torchao",
            LINEAR_INT8,
        ),
    )
}

__all__ = ["EXPORTERS", "SYMMETRIC_INT8", "Exporter", "Format"]
