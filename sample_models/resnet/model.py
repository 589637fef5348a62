"""A residual CNN for 28x28 grey images: a small ResNet of basic blocks.

Its operations are those of ResNet-18: convolution, batch norm, ReLU, a residual add whose two
branches meet at different scales, a strided 1x1 projection, and a linear head.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 projection where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        """Build the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: step of the first convolution and of the projection.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A strided stem, three stages of two basic blocks, global average pool, linear head."""

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), classes: int = 10) -> None:
        """Build the network.

        Args:
            widths: channels of the three stages, at 14x14, 7x7 and 4x4.
            classes: number of logits.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = nn.Sequential(
            BasicBlock(widths[0], widths[0]), BasicBlock(widths[0], widths[0])
        )
        self.layer2 = nn.Sequential(
            BasicBlock(widths[0], widths[1], stride=2), BasicBlock(widths[1], widths[1])
        )
        self.layer3 = nn.Sequential(
            BasicBlock(widths[1], widths[2], stride=2), BasicBlock(widths[2], widths[2])
        )
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``(N, 1, 28, 28)`` to logits ``(N, classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))  # (N, 1, 28, 28) -> (N, 16, 14, 14)
        x = self.layer3(self.layer2(self.layer1(x)))  # -> (N, 64, 4, 4)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # -> (N, 64)
        logits: Tensor = self.fc(x)
        return logits


def model() -> nn.Module:
    """Return the untrained network in eval mode; its weights are in ``weights.safetensors``."""
    return ResNet().eval()
