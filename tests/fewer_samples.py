"""The sample models with fewer evaluation images, for tests that need a measurement to be over."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from qviz.shipped import shipped


def fewer_samples(folder: Path, count: int) -> Path:
    """A copy of the shipped samples with ``count`` evaluation images; name it in QVIZ_SAMPLES."""
    made = folder / "sample_models"
    shutil.copytree(shipped("sample_models"), made)
    for path in made.glob("*/evaluation.npz"):
        with np.load(path) as arrays:
            cut = {name: values[:count] for name, values in arrays.items()}
        np.savez(path, allow_pickle=False, **cut)
    return made
