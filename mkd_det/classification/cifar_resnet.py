"""ResNets for images of 32x32 pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError

# The initialisation of networks for small images (He et al., ICCV 2015).
KAIMING = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer='BatchNorm2d'),
]


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions with a parameter-free shortcut.

    Where the size changes, the shortcut takes every second pixel and pads channels with
    zeros (option A).

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.padding = stride, out_channels - channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', H / stride, W / stride) for (N, C, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.padding // 2
        after = self.padding - before
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, before, after)))


@MODELS.register_module()
class CifarResNet(BaseModule):
    """ResNet of depth 6n + 2 with three stages of 16, 32 and 64 channels.

    He et al.: "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv
    1512.03385, section 4.2, with shortcuts without parameters (option A). Module names
    are those of common published weights: conv1, bn1, layer1.0.conv1, ...

    Args:
        depth: Number of layers, 6n + 2: 20, 32, 44, 56, 110, ...
        base_channels: Channels of the first stage.
        init_cfg: As in every mmengine module.

    Shape:
        - input: (N, 3, H, W)
        - output: (N, 16, H, W), (N, 32, H/2, W/2), (N, 64, H/4, W/4)

    Raises:
        ConfigError: The depth is not 6n + 2.
    """

    def __init__(
        self,
        depth: int = 20,
        base_channels: int = 16,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError(
                'CifarResNet: depth must be 6n + 2',
                actual=depth,
                available=['20', '32', '44', '56', '110'],
            )
        count = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, base_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.layer1 = make_stage(BasicBlock, base_channels, base_channels, count, 1)
        self.layer2 = make_stage(BasicBlock, base_channels, 2 * base_channels, count, 2)
        self.layer3 = make_stage(
            BasicBlock, 2 * base_channels, 4 * base_channels, count, 2
        )
        self.out_channels = 4 * base_channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the three stages."""
        x = F.relu(self.bn1(self.conv1(x)))
        one = self.layer1(x)
        two = self.layer2(one)
        return one, two, self.layer3(two)


def make_stage(
    block: Callable[[int, int, int], nn.Module],
    channels: int,
    out_channels: int,
    count: int,
    stride: int,
) -> nn.Sequential:
    """Return blocks in a row, of which the first changes width and size.

    Args:
        block: Makes a block of channels, output channels and stride.
        channels: Channels of the input.
        out_channels: Channels of the output.
        count: Number of blocks.
        stride: Stride of the first block.
    """
    first = block(channels, out_channels, stride)
    rest = (block(out_channels, out_channels, 1) for _ in range(count - 1))
    return nn.Sequential(first, *rest)
