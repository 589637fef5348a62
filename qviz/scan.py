"""What the first pass over data looks at: a digest of each sample, and whether it can be used.

A digest is of names, dtypes, shapes and bytes, so that it depends neither on the batch a sample
came in nor on what the data is called.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from qviz.collate import Batch, describe
from qviz.errors import DataError


def update(hasher: hashlib.blake2b, tensor: Tensor) -> None:
    """Feed the bytes of ``tensor`` to ``hasher``."""
    hasher.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def digests_of(chunk: Batch) -> list[str]:
    """One digest per sample, whatever batch it came in."""
    inputs = {name: (x.cpu(), repr(describe(x)).encode()) for name, x in chunk.inputs.items()}
    found = []
    for row in range(chunk.size):
        hasher = hashlib.blake2b(digest_size=16)
        for name, (x, description) in sorted(inputs.items()):
            hasher.update(name.encode() + description)
            update(hasher, x[row])
        found.append(hasher.hexdigest())
    return found


def check_alike(chunk: Batch, first: Batch, name: str, index: int) -> None:
    """Refuse a chunk whose samples differ in kind from the first one.

    Args:
        chunk: the samples to look at.
        first: the batch with sample 0.
        name: of the data, for the message.
        index: number of the chunk's first sample.

    Raises:
        DataError: other inputs, shapes or dtypes, or a target where there was none.
    """
    if list(chunk.inputs) != list(first.inputs):
        raise DataError(
            name,
            f"sample {index} has the inputs {', '.join(chunk.inputs)}, "
            f"sample 0 {', '.join(first.inputs)}",
            "Give every sample the same inputs",
        )
    if (chunk.targets is None) != (first.targets is None):
        has, lacks = (0, index) if chunk.targets is None else (index, 0)
        raise DataError(
            name,
            f"sample {has} has a target, sample {lacks} has none",
            "Give a target with every sample or with none",
        )
    pairs = [(key, x, first.inputs[key]) for key, x in chunk.inputs.items()]
    if chunk.targets is not None and first.targets is not None:
        pairs.append(("the target", chunk.targets, first.targets))
    for key, x, expected in pairs:
        (shape, dtype), (first_shape, first_dtype) = describe(x), describe(expected)
        if shape != first_shape:
            raise DataError(
                name,
                f"{key} of sample {index} has shape {shape}, of sample 0 {first_shape}",
                "Resize, crop or pad all samples to one shape",
            )
        if dtype != first_dtype:
            raise DataError(
                name,
                f"{key} of sample {index} is {dtype}, of sample 0 {first_dtype}",
                "Give all samples one dtype",
            )


def check_finite(chunk: Batch, name: str, index: int) -> None:
    """Refuse NaN and Inf in float inputs; ``index`` is the chunk's first sample.

    Raises:
        DataError: naming the first such sample.
    """
    for key, x in chunk.inputs.items():
        if not x.is_floating_point():
            continue
        finite = torch.isfinite(x).reshape(chunk.size, -1).all(1)  # [size, ...] -> [size]
        if not finite.all():
            row = int((~finite).nonzero()[0])
            kind = "NaN" if x[row].isnan().any() else "Inf"
            raise DataError(
                name,
                f"{key} of sample {index + row} contains {kind}",
                "Repair or leave out that sample",
            )
