"""The shipped images as the tensors the sample models were trained on.

A pixel ``p`` in 0..255 becomes ``(p / 255 - MEAN) / STD``: the mean and standard deviation of all
training pixels, so that the input of the networks has mean 0 and variance 1.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN = 0.2860
STD = 0.3530
HERE = Path(__file__).parent


def normalise(images: Tensor) -> Tensor:
    """Turn pixels into network input.

    Args:
        images: ``(N, 28, 28)``, uint8.

    Returns:
        ``(N, 1, 28, 28)``, float32, mean 0 and variance 1 over the training images.
    """
    return (images.unsqueeze(1).float() / 255 - MEAN) / STD


def calibration() -> list[tuple[Tensor, int]]:
    """Return 512 training images ``(1, 28, 28)``, normalised, with their classes."""
    return _load(HERE / "calibration.npz")


def evaluation() -> list[tuple[Tensor, int]]:
    """Return 2000 test images ``(1, 28, 28)``, normalised, with their classes."""
    return _load(HERE / "evaluation.npz")


def _load(path: Path) -> list[tuple[Tensor, int]]:
    """Read ``images`` and ``labels`` from an ``.npz`` file without unpickling anything."""
    with np.load(path, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"])
        labels = [int(label) for label in arrays["labels"]]
    return list(zip(normalise(images), labels, strict=True))
