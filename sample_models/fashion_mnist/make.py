"""Cut the two shipped slices out of Fashion-MNIST.

    python sample_models/fashion_mnist/make.py --data /usr/share/datasets/fashion-mnist

Calibration images come from the training set, evaluation images from the test set, so that the
evaluation also judges how well the calibrated ranges carry over to new images. Both slices are
class balanced and in random order; every prefix is a fair sample.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sample_models.training import DATA, read_split

SEED = 2024
HERE = Path(__file__).parent


def balanced(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> list[int]:
    """Draw ``count`` positions with as equal a number per class as possible.

    Args:
        labels: ``(N,)``, class of every image.
        count: positions to draw.
        generator: source of randomness.

    Returns:
        Positions in ``labels``, distinct, in random order.
    """
    order = generator.permutation(len(labels))
    # The k-th image of a class gets rank k; taking the lowest ranks fills the classes evenly.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")[:count]]
    return [int(i) for i in generator.permutation(chosen)]


def main() -> None:
    """Write ``calibration.npz`` and ``evaluation.npz`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the four .gz files")
    folder: Path = parser.parse_args().data
    generator = np.random.default_rng(SEED)
    for name, split, count in (("calibration", "train", 512), ("evaluation", "t10k", 2000)):
        images, labels = read_split(folder, split)
        kept = balanced(labels, count, generator)
        np.savez_compressed(HERE / f"{name}.npz", images=images[kept], labels=labels[kept])


if __name__ == "__main__":
    main()
