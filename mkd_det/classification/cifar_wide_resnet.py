"""Wide ResNets for small images."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError
from .cifar_resnet import KAIMING, make_stage


class WideBlock(nn.Module):
    """Residual block whose norms and ReLUs come before its 3x3 convolutions.

    Where width or size change, the shortcut is a 1x1 convolution of the normalised
    input.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(
            channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Conv2d(
                channels, out_channels, 1, stride=stride, bias=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', H / stride, W / stride) for (N, C, H, W)."""
        normalised = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(normalised))))
        return out + (x if self.shortcut is None else self.shortcut(normalised))


@MODELS.register_module()
class CifarWideResNet(BaseModule):
    """Wide ResNet of depth 6n + 4 with three stages of 16k, 32k and 64k channels.

    Zagoruyko and Komodakis: "Wide Residual Networks", BMVC 2016, arXiv 1605.07146,
    without dropout. The last stage ends with norm and ReLU, as in the paper.

    Args:
        depth: Number of layers, 6n + 4: 10, 16, 28, 40, ...
        widen: The k of the paper, how many times as wide as a ResNet.
        init_cfg: As in every mmengine module.

    Shape:
        - input: (N, 3, H, W)
        - output: (N, 16k, H, W), (N, 32k, H/2, W/2), (N, 64k, H/4, W/4)

    Raises:
        ConfigError: The depth is not 6n + 4, or k is no positive integer.
    """

    def __init__(
        self,
        depth: int = 16,
        widen: int = 1,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        if depth < 10 or (depth - 4) % 6:
            raise ConfigError(
                'CifarWideResNet: depth must be 6n + 4',
                actual=depth,
                available=['10', '16', '22', '28', '40'],
            )
        if not isinstance(widen, int) or widen < 1:
            raise ConfigError(
                'CifarWideResNet: widen must be a positive integer',
                actual=widen,
                available=['1', '2', '4'],
            )
        count, width = (depth - 4) // 6, 16 * widen
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = make_stage(WideBlock, 16, width, count, 1)
        self.layer2 = make_stage(WideBlock, width, 2 * width, count, 2)
        self.layer3 = make_stage(WideBlock, 2 * width, 4 * width, count, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.out_channels = 4 * width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the three stages."""
        one = self.layer1(self.conv1(x))
        two = self.layer2(one)
        return one, two, F.relu(self.bn(self.layer3(two)))
