"""Weight files: ``.safetensors`` and PyTorch checkpoints, read without running code from them.

A pickle may run any code when it is loaded. ``weights_only=True`` refuses every global that is not
needed for tensors, and the error says which ones a file asks for. A view with stride 0 lets a file
of a kilobyte claim a tensor of gigabytes; such claims are refused before anything copies them.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qviz.errors import InputError, ModelError, QvizError

#: Endings of PyTorch checkpoints.
CHECKPOINTS = (".pt", ".pth", ".th", ".bin", ".ckpt")
#: A tensor larger than its storage is refused from this size on, in bytes.
_EXPANDED = 1 << 20
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SAVE_WEIGHTS = "Save only the weights, torch.save(model.state_dict(), path), or use safetensors"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a weight file, on the CPU.

    ``{"state_dict": ...}`` is unwrapped; the prefixes that DataParallel and torch.compile put in
    front of every name are taken off.

    Raises:
        ModelError: the file is missing, empty, damaged, of another kind, or needs code to load.
    """
    values = read_tensors(path, ModelError)
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    if not isinstance(values, Mapping) or not values:
        kind = "nothing" if isinstance(values, Mapping) else f"a {type(values).__name__}"
        raise ModelError(str(path), f"it holds {kind}, not named weights", _SAVE_WEIGHTS)
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                str(path), f"{name} in it is a {type(value).__name__}, not a tensor", _SAVE_WEIGHTS
            )
    weights: dict[str, Tensor] = {str(k): v for k, v in values.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): w for name, w in weights.items()}
    return weights


def read_tensors(path: Path, error: type[InputError]) -> Any:  # noqa: ANN401 - whatever was saved
    """Everything in a ``.safetensors`` file or PyTorch checkpoint: tensors in containers.

    Raises:
        InputError: of the type ``error``: the file is missing, empty, damaged, of another kind, or
            needs code to load.
    """
    if not path.is_file():
        raise error(str(path), "there is no such file", "Check the path")
    if path.stat().st_size == 0:
        raise error(str(path), "the file is empty", "Save or download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, error)
    if path.suffix not in CHECKPOINTS:
        raise error(
            str(path),
            f"{path.suffix or 'a file without an ending'} is not a format for tensors",
            f"Give a .safetensors file or a checkpoint ({', '.join(CHECKPOINTS)})",
        )
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path, error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.load(path, weights_only=True, map_location="cpu", mmap=is_zip)
    except pickle.UnpicklingError as failure:
        raise _refused(path, error) from failure
    except QvizError:
        raise
    except Exception as failure:  # a damaged pickle raises anything at all
        raise _damaged(path, error) from failure
    _check_sizes(values, path, error)
    return values


def apply_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load ``weights`` into ``model``; every name and shape must match.

    A missing ``num_batches_tracked`` is no error: old checkpoints do not have it, and inference
    does not read it.

    Raises:
        ModelError: names that are missing or unexpected (the first three), or a shape differs.
    """
    state = model.state_dict()
    missing = [k for k in state if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = sorted(k for k in weights if k not in state)
    parts = [f"{len(missing)} missing ({_first(missing)})"] * bool(missing)
    parts += [f"{len(unexpected)} unexpected ({_first(unexpected)})"] * bool(unexpected)
    if parts:
        raise ModelError(
            name,
            f"its weights are not those of {type(model).__name__}: {', '.join(parts)}",
            "Give the weights of this architecture, or the factory of that one",
        )
    for key, value in weights.items():
        if isinstance(state[key], Tensor) and state[key].shape != value.shape:
            raise ModelError(
                name,
                f"{key} has shape {tuple(value.shape)} and {type(model).__name__} needs "
                f"{tuple(state[key].shape)}",
                "Give the weights of this architecture, or build the model with that size",
            )
    model.load_state_dict(dict(weights), strict=False)


def digest_of(tensors: Mapping[str, Tensor], name: str) -> str:
    """Digest of names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: a state dict.
        name: of the model, for the message.

    Raises:
        ModelError: a tensor has no values (meta device, uninitialised lazy layer) or is sparse.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for key, value in sorted(tensors.items()):
        if not isinstance(value, Tensor):  # extra state of a module
            hasher.update(f"{key} {value!r}".encode())
            continue
        if torch.nn.parameter.is_lazy(value) or value.is_meta:
            raise ModelError(
                name,
                f"{key} has no values yet",
                "Load weights, or run a lazy layer once, before handing over the model",
            )
        if value.layout != torch.strided or value.is_quantized:
            raise ModelError(
                name, f"{key} is not a dense float or integer tensor", "Give the float model"
            )
        hasher.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _read_safetensors(path: Path, error: type[InputError]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError) as failure:
        raise _damaged(path, error) from failure


def _check_archive(path: Path, error: type[InputError]) -> None:
    """Refuse zip archives that are not plain checkpoints, by their table of contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as failure:
        raise _damaged(path, error) from failure
    names = {m.filename.partition("/")[2] for m in members}
    if "constants.pkl" in names:
        raise error(
            str(path),
            "it is a TorchScript archive, whose operations cannot be observed",
            "Save the nn.Module's state_dict, or torch.export.save a .pt2",
        )
    if "archive_format" in names:
        raise error(
            str(path),
            "it is an exported program, not a checkpoint",
            "Rename it to .pt2 and give it as the model",
        )
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        # torch.save never compresses; a compressed member can unpack to any size.
        raise error(str(path), "its contents are compressed", "Save it with torch.save again")


def _refused(path: Path, error: type[InputError]) -> InputError:
    """The error for a file that ``weights_only=True`` does not load."""
    try:
        needs = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only told for the zip format, and not for damaged files
        needs = []
    if needs:
        reason = f"loading it would run code of its own ({_first(sorted(needs))})"
        return error(str(path), reason, _SAVE_WEIGHTS)
    return error(str(path), "it is damaged, or loading it would run code of its own", _SAVE_WEIGHTS)


def _damaged(path: Path, error: type[InputError]) -> InputError:
    return error(str(path), "the file is damaged or cut short", "Save, copy or download it again")


def _tensors(values: object) -> Iterable[tuple[str, Tensor]]:
    """All tensors in nested containers, with the innermost name."""
    stack: list[tuple[str, object]] = [("the tensor", values)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            stack.extend((str(k), v) for k, v in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((f"item {i}", v) for i, v in enumerate(value))


def _check_sizes(values: object, path: Path, error: type[InputError]) -> None:
    for name, value in _tensors(values):
        if value.layout != torch.strided:
            continue
        claimed = value.numel() * value.element_size()
        if claimed > _EXPANDED and claimed > value.untyped_storage().nbytes():
            raise error(
                str(path),
                f"{name} claims {claimed} bytes and is stored in "
                f"{value.untyped_storage().nbytes()}",
                "Save contiguous tensors",
            )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
