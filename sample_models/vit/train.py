"""Train the transformer the usual way: AdamW, warm-up, clipped gradients, label smoothing.

Run it as ``python sample_models/vit/train.py``
with ``--data`` naming the folder of Fashion-MNIST.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sample_models.training import Plan, main
from sample_models.vit.model import model


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices but no biases, norms or embeddings."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        plain = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        (decayed if plain else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=2e-3)


PLAN = Plan(optimizer, epochs=10, warmup=500, label_smoothing=0.05, clip=1.0)

if __name__ == "__main__":
    main(Path(__file__).parent, model, PLAN)
