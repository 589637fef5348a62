"""Export to another library's format, run what it wrote, and import such libraries quietly."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qviz.data import Data
from qviz.export import EXPORTERS, Request, nearest
from qviz.graph import Graph
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.simulate import Simulator


@contextmanager
def quiet(*hidden: str) -> Iterator[None]:
    """Import what warns while it is imported; packages in ``hidden`` look as if not installed."""
    absent: Any = object()
    before = {name: sys.modules.get(name, absent) for name in hidden}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, module in before.items():
            if module is absent:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def request(
    model: nn.Module, graph: Graph, recipe: Recipe, data: Data, folder: Path, name: str
) -> Request:
    """The request for one format, with the nearest recipe that it can express."""
    recipe = nearest(graph, recipe, EXPORTERS[name].limits).recipe
    return Request(
        graph, Simulator(graph), recipe, folder, data, METRICS["mse"], {}, model=model
    )  # fmt: skip


def exported(made: Request, name: str) -> dict[str, Any]:
    """Write one format."""
    return EXPORTERS[name].export(made)


def applied(made: Request, model: nn.Module) -> nn.Module:
    """The model after the script that was written beside the tensors."""
    spec = importlib.util.spec_from_file_location("apply", made.folder / "apply.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    done: nn.Module = script.apply(model)
    return done


def simulated(made: Request) -> Tensor:
    """The first output of the simulation on the request's data."""
    (batch,) = made.data.batches(made.data.count)
    program = made.simulator.program
    out: Tensor = program.run(program.inputs(batch), made.simulator.edits(made.recipe))[0]
    return out


def run(model: nn.Module, made: Request) -> Tensor:
    """The output of a model on the request's data."""
    (batch,) = made.data.batches(made.data.count)
    with torch.no_grad():
        out: Tensor = model(*batch.args, **batch.kwargs)
    return out
