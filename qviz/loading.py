"""Anything from outside -> (model, data): the front of the only files that deserialize.

================================  ==================================================================
a model is                        data are
================================  ==================================================================
``model.pt2``                     ``folder/`` of images, one sub-folder per class
``file.py:factory``               ``data.npz``, ``.safetensors`` or ``.pt`` of arrays
``package.module:factory``        ``file.py:factory`` that gives (inputs, target)
``sample:NAME``                   ``sample:NAME``
================================  ==================================================================

A factory is called without arguments. Its weights may come from a file of their own. What each
format guards against stands in the ``loading_*`` file that reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from qviz.data import Data, as_data
from qviz.errors import DataError, MetricError, ModelError
from qviz.loading_arrays import ARRAY_FILES, read_arrays
from qviz.loading_factory import import_path, is_factory, made, named
from qviz.loading_images import PREPROCESSING, read_image_folder
from qviz.loading_pt2 import load_exported
from qviz.loading_weights import CHECKPOINTS, apply_weights, digest_of, read_weights
from qviz.metrics import METRICS, Metric, metric
from qviz.preprocessing import Preprocessing, read_preprocessing
from qviz.samples import sample

__all__ = [
    "LoadedModel",
    "Preprocessing",
    "Role",
    "load_data",
    "load_metric",
    "load_model",
    "read_preprocessing",
]

Role = Literal["calibration", "evaluation", "training", "confirmation"]
_WHAT_MODELS = "Give a .pt2 file, file.py:factory, package.module:factory or sample:NAME"
_WHAT_DATA = "Give a folder of images, a .npz or .safetensors file, file.py:factory or sample:NAME"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: as its author made it.
        name: short: the file, the factory, the sample or the class.
        spec: what was asked for, with the weight file if there is one.
        digest: of all its weights: names, dtypes, shapes, bytes.
    """

    model: nn.Module | ExportedProgram = field(repr=False)
    name: str
    spec: str
    digest: str


def load_model(
    spec: str | Path | nn.Module | ExportedProgram, weights: str | Path | None = None
) -> LoadedModel:
    """Load a model.

    Args:
        spec: see the module docstring; or a model itself, which is not changed.
        weights: a ``.safetensors`` file or a checkpoint, put into what a factory built.

    Raises:
        ModelError: it cannot be found, read, imported or built, or the weights do not fit.
        InputError: there is no sample model of that name.
    """
    text = str(spec) if isinstance(spec, str | Path) else f"{type(spec).__name__} from Python"
    model, name = _model(spec, text)
    if weights is not None:
        if isinstance(model, ExportedProgram):
            raise ModelError(
                text, "an exported program has its weights in it", "Leave out the weight file"
            )
        if not isinstance(spec, str | Path):
            model = copy.deepcopy(model)
        apply_weights(model, read_weights(Path(weights)), str(weights))
        text = f"{text} + {weights}"
    tensors: dict[str, Tensor] = dict(_state(model, text))
    return LoadedModel(model, name, text, digest_of(tensors, text))


def load_data(
    spec: object,
    role: Role,
    preprocessing: Preprocessing | Mapping[str, object] | str | Path | None = None,
) -> Data:
    """Load data.

    Args:
        spec: see the module docstring; anything else is handed to ``data.as_data``.
        role: what it is for; a sample model has one slice for each.
        preprocessing: of pixels: a TOML file or its contents; for image folders by default
            ``preprocessing.toml`` in the folder, for arrays none.

    Raises:
        DataError: it cannot be found, read, imported or made. Whether the samples themselves can
            be used is found out on first use.
        MissingExtraError: images need pillow.
    """
    pixels = None if preprocessing is None else read_preprocessing(preprocessing)
    if not isinstance(spec, str | Path):
        _no_pixels(pixels, f"{role} data")
        return as_data(spec, f"{role} data")
    text, path = str(spec), Path(spec)
    if text.startswith("sample:"):
        return _sample_data(text, role, pixels)
    if path.is_dir():
        return as_data(read_image_folder(path, pixels), text)
    if path.suffix in ARRAY_FILES:
        return _array_data(path, text, pixels)
    if is_factory(text):
        _no_pixels(pixels, text)
        with import_path(text):  # a generator imports what it needs while it runs
            return as_data(made(text, DataError), text)
    raise DataError(text, _unreadable(path, "data"), _WHAT_DATA)


def load_metric(spec: str) -> Metric:
    """A metric by its name, or ``file.py:function`` with a function ``(outputs, targets)``.

    Raises:
        MetricError: no metric has this name, or the function cannot be imported.
    """
    if spec in METRICS or not is_factory(spec):
        return metric(spec)
    function = named(spec, MetricError)
    if not callable(function):
        raise MetricError(spec, f"a {type(function).__name__} is not a metric", "Name a function")
    return metric(function)


def _model(
    spec: str | Path | nn.Module | ExportedProgram, text: str
) -> tuple[nn.Module | ExportedProgram, str]:
    """The model that ``spec`` stands for, and its short name."""
    if isinstance(spec, torch.jit.ScriptModule):
        raise ModelError(
            text,
            "it is TorchScript, whose operations cannot be observed",
            "Give the nn.Module it was made from",
        )
    if isinstance(spec, nn.Module):
        return spec, type(spec).__name__
    if isinstance(spec, ExportedProgram):
        return spec, "exported program"
    if not isinstance(spec, str | Path):
        raise ModelError(text, "it is not a model", f"Give an nn.Module. {_WHAT_MODELS}")
    path = Path(spec)
    if text.startswith("sample:"):
        return _sample_model(text)
    if path.is_dir():
        raise ModelError(text, "it is a folder", _WHAT_MODELS)
    if path.suffix == ".pt2":
        return load_exported(path), path.name
    if path.suffix in (".safetensors", *CHECKPOINTS) and path.exists():
        raise ModelError(
            text,
            "it holds weights, and the model's code is needed as well",
            "Give file.py:factory as the model and this file as its weights",
        )
    if is_factory(text):
        return _built(text), text.rpartition(":")[2]
    if path.suffix == ".py":
        raise ModelError(
            text, "which function builds the model is not said", f"Name it: {text}:factory"
        )
    raise ModelError(text, _unreadable(path, "models"), _WHAT_MODELS)


def _unreadable(path: Path, what: str) -> str:
    if not path.exists():
        return "there is no such file or folder"
    return f"{path.suffix or 'a file without an ending'} is not a format for {what}"


def _built(spec: str) -> nn.Module | ExportedProgram:
    built = made(spec, ModelError)
    if isinstance(built, torch.jit.ScriptModule) or not isinstance(
        built, nn.Module | ExportedProgram
    ):
        raise ModelError(
            spec,
            f"it returned a {type(built).__name__}, not an nn.Module",
            "Return the model from the factory",
        )
    return built


def _sample_model(spec: str) -> tuple[nn.Module, str]:
    found = sample(spec)
    model = _built(f"{found.path / 'model.py'}:model")
    assert isinstance(model, nn.Module)  # the sample models' own code
    weights = found.path / "weights.safetensors"
    apply_weights(model, read_weights(weights), str(weights))
    return model, found.name


def _state(model: nn.Module | ExportedProgram, name: str) -> Mapping[str, Tensor]:
    if isinstance(model, nn.Module):
        state: Mapping[str, Tensor] = model.state_dict()
        return state
    constants = {k: v for k, v in model.constants.items() if isinstance(v, Tensor)}
    return {**constants, **model.state_dict}


def _sample_data(spec: str, role: Role, pixels: Preprocessing | None) -> Data:
    found = sample(spec)
    if role in ("training", "confirmation"):
        raise DataError(
            f"{spec}: {role} data", "a sample model ships none", "Name a folder or file of yours"
        )
    path = found.calibration if role == "calibration" else found.evaluation
    stated = pixels or read_preprocessing(found.preprocessing)
    return _array_data(path, f"{spec} ({role})", stated)


def _array_data(path: Path, name: str, pixels: Preprocessing | None) -> Data:
    inputs, targets = read_arrays(path)
    if pixels is not None:
        if isinstance(inputs, dict) or inputs.ndim not in (3, 4):
            raise DataError(
                name,
                "preprocessing applies to one array of images, (n, H, W) or (n, H, W, C)",
                "Leave it out, and save the arrays as the model expects them",
            )
        inputs = pixels.normalised(_channels_first(inputs), name)
    return as_data((inputs, targets), name)


def _channels_first(images: Tensor) -> Tensor:
    """``[n, H, W]`` or ``[n, H, W, C]`` to ``[n, C, H, W]``, which is left as it is."""
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3)
    return images.permute(0, 3, 1, 2) if last else images


def _no_pixels(pixels: Preprocessing | None, name: str) -> None:
    if pixels is not None:
        raise DataError(
            name,
            "preprocessing applies to images in folders and files, not to a factory's samples",
            f"Let the factory give what the model expects, and leave out {PREPROCESSING}",
        )
