"""The sample models that come with qviz, found wherever it is installed.

Each is a folder with ``sample.json``, ``model.py`` (whose ``model()`` builds the network) and
``weights.safetensors``; its data are ``.npz`` files named in ``sample.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qviz.errors import InputError
from qviz.shipped import shipped

#: Environment variable that names another folder of sample models.
VARIABLE = "QVIZ_SAMPLES"


@dataclass(frozen=True)
class Sample:
    """One sample model.

    Attributes:
        name: what follows ``sample:``.
        title: what a list calls it.
        description: one sentence.
        path: its folder.
        float_accuracy: top-1 of the float model on the evaluation slice, None if not measured.
        metric: the metric it is judged by.
        classes: names of the classes.
        calibration: ``.npz`` file of the calibration slice.
        evaluation: ``.npz`` file of the evaluation slice.
        preprocessing: keys of ``Preprocessing``.
    """

    name: str
    title: str
    description: str
    path: Path
    float_accuracy: float | None
    metric: str
    classes: tuple[str, ...]
    calibration: Path
    evaluation: Path
    preprocessing: Mapping[str, object]


def samples_folder() -> Path:
    """The folder of the sample models: ``$QVIZ_SAMPLES``, or the one that comes with qviz.

    Raises:
        InputError: the variable names no folder, or the installation is damaged.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return shipped("sample_models")
    if not Path(chosen).is_dir():
        raise InputError(VARIABLE, f"{chosen} is not a folder", "Correct or unset the variable")
    return Path(chosen)


def samples() -> tuple[Sample, ...]:
    """All sample models, sorted by name.

    Raises:
        InputError: the folder is missing, or a ``sample.json`` cannot be read.
    """
    return tuple(_read(p) for p in sorted(samples_folder().glob("*/sample.json")))


def sample(name: str) -> Sample:
    """The sample model called ``name``, with or without ``sample:`` in front.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    plain = name.removeprefix("sample:")
    found = {s.name: s for s in samples()}
    if plain not in found:
        raise InputError(
            f"sample:{plain}",
            "there is no such sample model",
            f"Choose one of {', '.join(found)}" if found else f"Put some into {samples_folder()}",
        )
    return found[plain]


def _read(path: Path) -> Sample:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        accuracy = values.get("float_accuracy")
        return Sample(
            name=str(values["name"]),
            title=str(values["title"]),
            description=str(values["description"]),
            path=path.parent,
            float_accuracy=None if accuracy is None else float(accuracy),
            metric=str(values.get("metric", "top1")),
            classes=tuple(str(c) for c in values.get("classes", ())),
            calibration=(path.parent / str(values["calibration"])).resolve(),
            evaluation=(path.parent / str(values["evaluation"])).resolve(),
            preprocessing=dict(values.get("preprocessing", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise InputError(
            str(path),
            f"it does not describe a sample model ({type(failure).__name__}: {failure})",
            "Restore it from the repository, or install qviz again",
        ) from failure
