"""Train the residual CNN the usual way: SGD with momentum, weight decay, cosine schedule.

Run it as ``python sample_models/resnet/train.py``
with ``--data`` naming the folder of Fashion-MNIST.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sample_models.resnet.model import model
from sample_models.training import Plan, main


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum over all parameters."""
    return torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )


PLAN = Plan(optimizer, epochs=8)

if __name__ == "__main__":
    main(Path(__file__).parent, model, PLAN)
