"""Train the EfficientNet as TensorFlow's were: RMSprop with momentum, label smoothing.

Run it as ``python sample_models/efficientnet/train.py``
with ``--data`` naming the folder of Fashion-MNIST.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sample_models.efficientnet.model import model
from sample_models.training import Plan, main


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Return RMSprop with EfficientNet's constants over all parameters."""
    return torch.optim.RMSprop(
        network.parameters(), lr=0.008, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5
    )


PLAN = Plan(optimizer, epochs=5, label_smoothing=0.1)

if __name__ == "__main__":
    main(Path(__file__).parent, model, PLAN)
