"""One item of a user's data -> one ``Batch``: what counts as a sample, what as a batch.

An item is ``inputs`` alone, ``(inputs,)`` or ``(inputs, target)``; a target of None is no target.
``inputs`` is one tensor, a tuple or list of tensors (positional arguments of the model), or a dict
of tensors (keyword arguments). NumPy arrays count as tensors.

Whether an item is one sample or a batch of samples depends on where it comes from:

==========================================  ====================================================
a ``DataLoader`` that batches               always a batch
a ``torch.utils.data.Dataset``              always one sample
anything else, with a target                a number or 0-d tensor: one sample; as many targets
                                            as the inputs have rows: a batch; a target of two or
                                            more axes of another length (a mask): one sample
anything else, without a target             from a list or another object with ``len()`` and
                                            ``[]``: one sample; from other iterables: a batch
==========================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qviz.errors import DataError

#: How to read the items of a source: see the table above; the last two differ without a target.
Reading = Literal["batches", "samples", "mostly samples", "mostly batches"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, stacked.

    Attributes:
        args: positional arguments of the model, each ``[size, ...]``.
        kwargs: keyword arguments of the model, each ``[size, ...]``.
        targets: ``[size, ...]``, or None if the data is not labelled.
        size: number of samples.
    """

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    targets: Tensor | None
    size: int

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All model inputs by the name a message uses: ``input 0``, ``input 1``, or the keyword."""
        return {f"input {i}": x for i, x in enumerate(self.args)} | self.kwargs

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [*self.inputs.values(), *([] if self.targets is None else [self.targets])]
        return sum(t.numel() * t.element_size() for t in tensors)

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop - 1``, as views."""
        if start == 0 and stop >= self.size:
            return self
        return Batch(
            tuple(x[start:stop] for x in self.args),
            {k: x[start:stop] for k, x in self.kwargs.items()},
            None if self.targets is None else self.targets[start:stop],
            min(stop, self.size) - start,
        )

    def copy(self) -> Batch:
        """The same samples in memory of their own, for sources that reuse their buffers."""
        return Batch(
            tuple(x.clone() for x in self.args),
            {k: x.clone() for k, x in self.kwargs.items()},
            None if self.targets is None else self.targets.clone(),
            self.size,
        )


def concatenate(batches: list[Batch]) -> Batch:
    """One batch of several of the same signature, in order."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    targets = [b.targets for b in batches if b.targets is not None]
    return Batch(
        tuple(torch.cat([b.args[i] for b in batches]) for i in range(len(first.args))),
        {k: torch.cat([b.kwargs[k] for b in batches]) for k in first.kwargs},
        torch.cat(targets) if first.targets is not None else None,
        sum(b.size for b in batches),
    )


def reading_of(source: object) -> Reading:
    """How the items of ``source`` are to be read (see the table in the module docstring)."""
    if isinstance(source, DataLoader):
        return "batches" if source.batch_sampler is not None else "mostly batches"
    if isinstance(source, Dataset):
        return "samples"
    indexable = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return "mostly samples" if indexable else "mostly batches"


def to_batch(item: object, reading: Reading, where: str) -> Batch:
    """Read one item of a source.

    Args:
        item: inputs, ``(inputs,)`` or ``(inputs, target)``.
        reading: of the source, from ``reading_of``.
        where: what an error calls the item, ``calibration data, item 3``.

    Raises:
        DataError: the item has another form, or its targets do not fit its inputs.
    """
    inputs, target = _split(item, where)
    args, kwargs = _arguments(inputs, where)
    targets = _target(target, where)
    tensors = [*args, *kwargs.values()]
    if _is_sample(tensors, targets, reading):
        return Batch(
            tuple(x[None] for x in args),
            {k: x[None] for k, x in kwargs.items()},
            None if targets is None else targets[None],
            1,
        )
    return Batch(args, kwargs, targets, _rows(Batch(args, kwargs, targets, 0), where))


def is_arrays(value: object) -> bool:
    """Whether ``value`` is inputs as a whole: a tensor, or a tuple or dict of tensors."""
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(v, Tensor | np.ndarray) for v in value.values())
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(v, Tensor | np.ndarray) for v in value)
    return isinstance(value, Tensor | np.ndarray)


def _split(item: object, where: str) -> tuple[object, object]:
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) == 2:
        return item[0], item[1]
    if len(item) == 1:
        return item[0], None
    raise DataError(
        where,
        f"it is a {type(item).__name__} of {len(item)} values, not (inputs, target)",
        "Give several inputs as one tuple: ((first, second), target), with None for no target",
    )


def _arguments(inputs: object, where: str) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    if isinstance(inputs, Mapping) and inputs:
        return (), {str(k): _tensor(v, where, f'input "{k}"') for k, v in inputs.items()}
    if isinstance(inputs, tuple | list) and inputs:
        return tuple(_tensor(v, where, f"input {i}") for i, v in enumerate(inputs)), {}
    return (_tensor(inputs, where, "the input"),), {}


def _tensor(value: object, where: str, what: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # from_numpy shares memory and needs a writable array in native byte order.
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        return torch.from_numpy(np.ascontiguousarray(native).reshape(value.shape))
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return value.detach()
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        kind = f"NumPy array of dtype {value.dtype}"
    if isinstance(value, Tensor):
        kind = f"tensor of layout {value.layout}"
    cure = "Convert it to a float or integer tensor first"
    if hasattr(value, "getpixel"):
        cure = "Give the preprocessed image as a tensor, as the model expects it"
    raise DataError(where, f"{what} is a {kind}, not a dense tensor", cure)


def _target(target: object, where: str) -> Tensor | None:
    if target is None:
        return None
    if isinstance(target, float) and not isinstance(target, np.generic):
        return torch.tensor(target, dtype=torch.float64)  # as torch's default_collate does
    if isinstance(target, Number | np.generic) and not isinstance(target, complex):
        return torch.as_tensor(np.asarray(target))
    if isinstance(target, list | tuple) and target and all(isinstance(v, Number) for v in target):
        return torch.as_tensor(np.asarray(target))
    if isinstance(target, Tensor | np.ndarray):
        return _tensor(target, where, "the target")
    raise DataError(
        where,
        f"the target is a {type(target).__name__}, not a number or a tensor",
        "Give (inputs, target) with a number or tensor as target, or None for no target",
    )


def _is_sample(inputs: list[Tensor], targets: Tensor | None, reading: Reading) -> bool:
    if reading in ("batches", "samples"):
        return reading == "samples"
    if targets is None:
        return reading == "mostly samples"
    if targets.ndim == 0 or any(x.ndim == 0 for x in inputs):
        return True
    return targets.ndim >= 2 and all(len(x) != len(targets) for x in inputs)


def _rows(batch: Batch, where: str) -> int:
    """Number of samples in a batch, the same for every tensor."""
    inputs = batch.inputs
    for name, x in inputs.items():
        if x.ndim == 0:
            raise DataError(
                where,
                f"{name} is a single number where a batch was expected",
                "Stack the samples along a first axis",
            )
    counts = {name: len(x) for name, x in inputs.items()}
    first = next(iter(counts.values()))
    for name, count in counts.items():
        if count != first:
            raise DataError(
                where,
                f"{name} has {count} samples and {next(iter(counts))} has {first}",
                "Give every input of a batch the same number of samples",
            )
    targets = batch.targets
    if targets is not None and (targets.ndim == 0 or len(targets) != first):
        have = "one target" if targets.ndim == 0 else f"{len(targets)} targets"
        raise DataError(
            where,
            f"{have} for {first} samples",
            "Give one target per sample; single samples with a vector as target belong in a "
            "torch.utils.data.Dataset, whose items are always single samples",
        )
    return first


def describe(tensor: Tensor) -> tuple[Any, ...]:
    """Shape of one sample and dtype, to compare samples by."""
    return tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")
