"""What the tests of exchanged formats share: export a recipe of a small network, read it back."""

from __future__ import annotations

import functools
from pathlib import Path

from networks import data, network

from qviz.data import Data
from qviz.export import EXPORTERS, Request, nearest
from qviz.export.importing import Imported, import_recipe
from qviz.metrics import METRICS
from qviz.recipe import Recipe
from qviz.simulate import Simulator

#: Format -> the file of it that is read back.
FILES = {
    "aimet": "model.encodings",
    "amct": "record.txt",
    "tensorrt-cache": "calibration.cache",
    "ranges": "ranges.json",
}


@functools.cache
def simulator(name: str) -> Simulator:
    return Simulator(network(name)[1])


def request(name: str, recipe: Recipe, folder: Path, samples: Data | None = None) -> Request:
    return Request(
        graph=network(name)[1],
        simulator=simulator(name),
        recipe=recipe,
        folder=folder,
        data=samples or data(name, 4),
        metric=METRICS["agreement"],
        origin={},
    )


def expressible(name: str, recipe: Recipe, format: str) -> Recipe:
    """The nearest recipe that a format can say."""
    return nearest(network(name)[1], recipe, EXPORTERS[format].limits).recipe


def written(name: str, recipe: Recipe, folder: Path, format: str) -> Path:
    """Export one format; the file that is read back."""
    EXPORTERS[format].export(request(name, recipe, folder))
    return folder / FILES[format]


def read(name: str, path: Path, base: Recipe, format: str | None = None) -> Imported:
    return import_recipe(path, network(name)[1], base, format)
