"""An EfficientNet for 28x28 grey images.

It keeps what makes EfficientNets hard to quantize: depthwise convolutions, whose channels share
one scale when weights are quantized per tensor; SiLU, whose outputs have a long tail on one side
and a short lobe on the other; squeeze-excite gates; and linear bottlenecks.
"""

from torch import Tensor, nn
from torch.nn import functional as F

# (expansion, kernel, stride, out channels, blocks) per stage, after the EfficientNet-B0 table.
STAGES = (
    (1, 3, 1, 16, 1),
    (4, 3, 2, 24, 2),
    (4, 5, 1, 40, 2),
    (4, 3, 2, 64, 1),
)


class ConvBN(nn.Module):
    """Convolution without bias, batch norm and, unless it is linear, SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        """Build the layer.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel: side of the square kernel, odd; padded to keep the size at stride 1.
            stride: step of the convolution.
            groups: ``in_channels`` for a depthwise convolution.
            linear: leave out the SiLU.
        """
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.act: nn.Module = nn.Identity() if linear else nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from the channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        """Build the gate.

        Args:
            channels: channels of the input and the output.
            squeezed: width of the hidden layer.
        """
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        means = F.adaptive_avg_pool2d(x, 1)  # (N, C, H, W) -> (N, C, 1, 1)
        gate: Tensor = self.expand(F.silu(self.reduce(means)))
        return x * gate.sigmoid()


class MBConv(nn.Module):
    """Expand, filter depthwise, gate, project to a linear bottleneck, add the input."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int, expansion: int
    ) -> None:
        """Build the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel: side of the depthwise kernel.
            stride: step of the depthwise convolution.
            expansion: inner channels per input channel; 1 leaves out the expansion.
        """
        super().__init__()
        inner = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = nn.Identity() if expansion == 1 else ConvBN(in_channels, inner)
        self.depthwise = ConvBN(inner, inner, kernel, stride=stride, groups=inner)
        self.se = SqueezeExcite(inner, max(4, in_channels // 4))
        self.project = ConvBN(inner, out_channels, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        y: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return y + x if self.residual else y


class EfficientNet(nn.Module):
    """Strided stem, the MBConv stages of ``STAGES``, a wide 1x1 head, pool, linear classifier."""

    def __init__(self, stem: int = 16, head: int = 192, classes: int = 10) -> None:
        """Build the network.

        Args:
            stem: channels of the first convolution.
            head: channels of the last convolution.
            classes: number of logits.
        """
        super().__init__()
        self.stem = ConvBN(1, stem, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = stem
        for expansion, kernel, stride, width, repeats in STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(MBConv(channels, width, kernel, stride=step, expansion=expansion))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvBN(channels, head)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``(N, 1, 28, 28)`` to logits ``(N, classes)``."""
        x = self.blocks(self.stem(x))  # (N, 1, 28, 28) -> (N, 64, 4, 4)
        x = F.adaptive_avg_pool2d(self.head(x), 1).flatten(1)  # -> (N, 192)
        logits: Tensor = self.fc(self.dropout(x))
        return logits


def model() -> nn.Module:
    """Return the untrained network in eval mode; its weights are in ``weights.safetensors``."""
    return EfficientNet().eval()
