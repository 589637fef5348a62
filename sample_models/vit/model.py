"""A small vision transformer for 28x28 grey images.

Both matmuls of the attention have activations on either side, LayerNorm stands before each
quantized linear, and the GELU gives the second MLP layer an input with a long one-sided tail.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the layer.

        Args:
            width: features of a token, divisible by ``heads``.
            heads: number of attention heads.
        """
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(N, T, width)`` to the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (N, T, 3C) -> (N, T, 3, H, C/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # three of (N, H, T, C/H)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).flatten(2)  # (N, H, T, C/H) -> (N, T, C)
        projected: Tensor = self.proj(y)
        return projected


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build the layers.

        Args:
            width: features of a token.
            hidden: features between the two layers.
        """
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(N, T, width)`` to the same shape."""
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block.

        Args:
            width: features of a token.
            heads: number of attention heads.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(N, T, width)`` to the same shape."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """Patch embedding, class token, learned positions, pre-norm blocks, linear head."""

    def __init__(
        self, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 7, classes: int = 10
    ) -> None:
        """Build the network.

        Args:
            width: features of a token.
            depth: number of blocks.
            heads: attention heads of a block.
            patch: side of a square patch in pixels, a divisor of 28.
            classes: number of logits.
        """
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (28 // patch) ** 2 + 1, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``(N, 1, 28, 28)`` to logits ``(N, classes)``."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (N, 1, 28, 28) -> (N, 16, C)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # -> (N, 17, C)
        x = self.norm(self.blocks(x + self.pos_embed))
        logits: Tensor = self.head(x[:, 0])  # (N, 17, C) -> (N, 10)
        return logits


def model() -> nn.Module:
    """Return the untrained network in eval mode; its weights are in ``weights.safetensors``."""
    return VisionTransformer().eval()
