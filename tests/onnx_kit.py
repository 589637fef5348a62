"""What the tests of the ONNX formats share: files of the small networks, run for real."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import onnx
import torch
from torch import Tensor, nn

from qviz.capture import capture
from qviz.collate import Batch
from qviz.export.onnx_model import FloatType, OnnxModel, onnx_model
from qviz.export.onnx_ort_cpu import derived
from qviz.export.onnx_run import Session
from qviz.export.request import Request
from qviz.graph import Graph
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.simulate import Simulator


@functools.cache
def simulator(name: str) -> Simulator:
    return Simulator(networks.network(name)[1])


@functools.cache
def recipe(name: str, profile: str = "cuda") -> Recipe:
    made = networks.recipe(name)
    return derived(made, networks.network(name)[1]) if profile == "ort-cpu" else made


@functools.cache
def model(name: str, profile: str = "cuda", float_type: FloatType = "float32") -> OnnxModel:
    """One of the networks, everything int8; not to be changed."""
    ort = profile == "ort-cpu"
    return onnx_model(
        simulator(name),
        recipe(name, profile),
        float_type=float_type,
        transposed_weights=ort,
        carry=ort,
        model_digest="abc",
    )


@functools.cache
def plain(name: str) -> OnnxModel:
    """The float model; not to be changed."""
    return onnx_model(simulator(name), None)


def request(name: str, folder: Path, made: Recipe | None = None) -> Request:
    graph = networks.network(name)[1]
    return Request(
        graph=graph,
        simulator=simulator(name),
        recipe=made or recipe(name),
        folder=folder,
        data=networks.data(name, 40, 5),
        metric=METRICS["top1"],
        origin={"model": {"name": name, "spec": name, "digest": "abc"}},
    )


class Function(nn.Module):
    """A function of tensors as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - one tensor or several
        return self.function(x)


def captured(model: nn.Module, *args: Tensor) -> Graph:
    return capture(model.eval(), Batch(args, {}, None, len(args[0])))


def under_onnxruntime(graph: Graph, *args: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What the float file of a graph gives, and what PyTorch gives."""
    made = onnx_model(Simulator(graph), None)
    onnx.checker.check_model(made.proto, full_check=True)
    batch = Batch(args, {}, None, len(args[0]))
    program = Simulator(graph).program
    return Session(made.content()).run(batch), program.run(program.inputs(batch))


def without_metadata(proto: Any) -> Any:  # noqa: ANN401 - a ModelProto
    copy = type(proto)()
    copy.CopyFrom(proto)
    del copy.metadata_props[:]
    return copy


def with_other_range(made: Recipe, tensor: str, factor: float) -> Recipe:
    return replace(
        made,
        ranges=tuple(
            replace(r, lo=r.lo * factor, hi=r.hi * factor) if r.tensor == tensor else r
            for r in made.ranges
        ),
    )


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
