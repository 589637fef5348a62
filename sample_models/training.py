"""What the three training scripts share: reading Fashion-MNIST, augmentation, the loop, saving.

A script names its model and a :class:`Plan`; :func:`main` trains, measures and writes
``weights.safetensors`` and ``sample.json``. With one thread a run is repeatable bit for bit.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sample_models.fashion_mnist.data import evaluation, normalise

DATA = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
SHIFT = 2


@dataclass(frozen=True)
class Plan:
    """How to train a network.

    Attributes:
        optimizer: the parameters' optimizer, from the network; its learning rate is the peak.
        epochs: passes over the 60,000 training images.
        batch_size: images per step.
        warmup: steps over which the learning rate rises linearly, before the cosine to zero.
        label_smoothing: probability taken from the true class and spread over all classes.
        clip: largest norm of the gradient; ``None`` does not limit it.
        seed: of initialisation, order and augmentation.
    """

    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    warmup: int = 200
    label_smoothing: float = 0.0
    clip: float | None = None
    seed: int = 0


def read_split(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one split of Fashion-MNIST in its original IDX format.

    Args:
        folder: holds ``{split}-images-idx3-ubyte.gz`` and ``{split}-labels-idx1-ubyte.gz``.
        split: ``train`` (60,000 images) or ``t10k`` (10,000).

    Returns:
        Images ``(N, 28, 28)`` and classes ``(N,)``.
    """
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28).copy()
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels


def augment(images: Tensor) -> Tensor:
    """Shift every image by up to two pixels and mirror every other one.

    Args:
        images: ``(N, 28, 28)``, uint8.

    Returns:
        Same shape and dtype; what a shift uncovers is black.
    """
    count, height, width = images.shape
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, count, 1))
    rows = torch.arange(height) + offsets[0]  # (N, H)
    columns = torch.arange(width) + offsets[1]  # (N, W)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of augmented, normalised batches in random order; the rest is dropped."""
    order = torch.randperm(len(images))
    for chosen in order.split(size)[: len(images) // size]:
        yield normalise(augment(images[chosen])), labels[chosen]


def train(network: nn.Module, images: Tensor, labels: Tensor, plan: Plan) -> None:
    """Train ``network`` in place and leave it in eval mode.

    Args:
        network: maps ``(N, 1, 28, 28)`` to logits ``(N, 10)``.
        images: ``(N, 28, 28)``, uint8.
        labels: ``(N,)``, int64.
        plan: how to train.
    """
    network.train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a gap in its types
    optimizer = plan.optimizer(network)
    total = plan.epochs * (len(images) // plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(plan.warmup, total))
    for epoch in range(plan.epochs):
        start, losses = time.perf_counter(), 0.0
        for x, y in batches(images, labels, plan.batch_size):
            loss = F.cross_entropy(network(x), y, label_smoothing=plan.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            if plan.clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
            optimizer.step()
            schedule.step()
            losses += loss.item() * len(y)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {losses / len(images):.4f}, {seconds:.0f} s", flush=True)
    network.eval()


def _warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Return the learning rate's factor at a step: a linear rise, then half a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return factor


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of normalised ``images`` ``(N, 1, 28, 28)`` classified as ``labels``."""
    hits = 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        hits += int((network(x).argmax(1) == y).sum())
    return hits / len(images)


def main(folder: Path, model: Callable[[], nn.Module], plan: Plan) -> None:
    """Train and write the sample, as the command line says.

    Args:
        folder: of the sample, with its ``sample.json``; the default of ``--out``.
        model: returns the untrained network.
        plan: how to train it.
    """
    parser = argparse.ArgumentParser(description=f"Train the {folder.name} sample.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the four .gz files")
    parser.add_argument("--out", type=Path, default=folder, help="folder to write to")
    parser.add_argument("--threads", type=int, default=1, help="more is faster, not repeatable")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(plan.seed)

    images, labels = (torch.from_numpy(array) for array in read_split(args.data, "train"))
    network = model()
    train(network, images, labels, plan)
    test_images, test_labels = (torch.from_numpy(array) for array in read_split(args.data, "t10k"))
    slice_images, slice_labels = zip(*evaluation(), strict=True)

    sample = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    sample["float_accuracy"] = accuracy(
        network, torch.stack(slice_images), torch.tensor(slice_labels)
    )
    sample["float_accuracy_test"] = accuracy(network, normalise(test_images), test_labels)
    sample["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    print(f"top-1: slice {sample['float_accuracy']:.4f}, test {sample['float_accuracy_test']:.4f}")

    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, args.out / "weights.safetensors")
    text = json.dumps(sample, indent=2) + "\n"
    (args.out / "sample.json").write_text(text, encoding="utf-8")
