"""A tiny project as a user has it: a model, weights, calibration and evaluation data in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qviz.cli import main

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.block = Block()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))).amax((2, 3)))


def net(seed=0):
    # a generator of its own: the common one may be used by another thread at the same time
    own = torch.Generator().manual_seed(seed)
    model = Net()
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, 5**0.5, generator=own)
            bound = layer.weight[0].numel() ** -0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=own)
    return model


def other():
    return net(1)


def overflowing():
    model = net()
    model.stem.weight.data *= 1e38
    return model


def metric(outputs, targets):
    return (outputs.argmax(1) == targets).double()


def whole(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean())
"""


@dataclass(frozen=True)
class Project:
    """Paths of the project, and a way to run a command in it."""

    path: Path
    model: str
    calibration: str
    evaluation: str

    @property
    def data(self) -> list[str]:
        return ["--calibration", self.calibration, "--evaluation", self.evaluation]

    def words(self, verb: str, out: Path, *more: str) -> list[str]:
        return [verb, self.model, *self.data, "-o", str(out), *more]


def images(count: int, seed: int) -> np.ndarray:
    """Noise of very different strength from sample to sample, ``[count, 1, 8, 8]``."""
    noise = np.random.default_rng(seed)
    strength = noise.gamma(1.0, 2.0, (count, 1, 1, 1))
    return (strength * noise.standard_normal((count, 1, 8, 8))).astype(np.float32)


def write_data(path: Path, inputs: np.ndarray, targets: np.ndarray | None) -> str:
    """A ``.npz`` of arrays; its path."""
    arrays = {"x": inputs} if targets is None else {"x": inputs, "labels": targets}
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


def make_project(path: Path) -> Project:
    """Write the project's files; labels are what the float model says, one in ten is wrong."""
    import torch

    code = path / "model.py"
    code.write_text(MODEL)
    names: dict[str, Any] = {"__name__": "kit"}
    exec(MODEL, names)
    inputs = images(120, 1)
    with torch.no_grad():
        labels = names["net"]().eval()(torch.from_numpy(inputs)).argmax(1).numpy()
    labels[::10] = (labels[::10] + 1) % 4
    return Project(
        path,
        f"{code}:net",
        write_data(path / "calibration.npz", images(40, 0), None),
        write_data(path / "evaluation.npz", inputs, labels),
    )


def result(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 0) -> Any:  # noqa: ANN401 - JSON
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*words, "--json", "--quiet"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)
